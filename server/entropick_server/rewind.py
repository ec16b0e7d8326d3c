"""A reply rewound to one of its tokens: the facts that a request needs to go on from there.

Draws keep their numbers: a reply that goes on behind k tokens draws at position k what it would have drawn
there. The policy's memory is taken from the record of the reply where /v1/requests has it, else read from the
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from entropick_sampler.strategy import Strategy

from .engine.base import Tokenizer
from .engine.reply import ClarifyingText, Reply
from .engine.types import KeptToken, Resumed
from .recent import Finished


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a reply that came together, ``begin`` to ``end``: no draw of their own could be repeated.

    ``lost``: tokens of branches that lost beside them.
    """

    kind: Literal["text", "rollout", "named"]
    begin: int
    end: int
    lost: int = 0


def rewound(
    finished: Finished,
    index: int,
    token_id: int | None,
    tokenizer: Tokenizer,
    clarifying: ClarifyingText,
) -> Resumed:
    """Returns the beginning of a recorded reply: its first ``index`` tokens, and the token named next.

    ``token_id`` None: what stood there is drawn again, or given again where nothing was drawn. The token
    that stood there brings back what came with it: the rest of a clarifying text, the rest of a branch that
    was kept. ``clarifying``: the text of the profile in force. Raises ValueError for an ``index`` beyond the
    reply.
    """
    facts, pieces = facts_of(finished, clarifying)
    if not 0 <= index <= len(facts):
        raise ValueError(f"must be between 0 and {len(facts)}, the tokens of that reply")
    resumed = _resumed(facts[:index], tokenizer, clarifying)
    ids = [token.token_id for token in facts]
    piece = next((p for p in pieces if p.begin <= index < p.end), None)
    given_again = piece is not None and (piece.kind == "named" or index > piece.begin)
    same = token_id == ids[index] if index < len(ids) and token_id is not None else given_again
    if piece is None or not same:
        # another token: the text or the branch that stood here does not go on
        named = () if token_id is None else (token_id,)
        return replace(resumed, pending=named, named=len(named))
    rest = tuple(ids[index : piece.end])
    if piece.kind != "text":
        spent = resumed.spent + (piece.lost if index == piece.begin else 0)
        return replace(resumed, pending=rest, named=len(rest), spent=spent)
    if index > piece.begin:
        return resumed
    # the text begins with the next token, behind which nothing has passed since it began
    return replace(resumed, pending=rest, clarify_used=resumed.clarify_used + 1, since_clarify=-1)


def behind(
    token_ids: Sequence[int],
    token_id: int | None,
    tokenizer: Tokenizer,
    clarifying: ClarifyingText,
) -> Resumed:
    """Returns the beginning of a reply of which the tokens alone are known, and the token named next.

    A clarifying text counts as inserted wherever it stands. Surprisals and branches that lost are not known.
    """
    facts, at = [], 0
    while at < len(token_ids):
        text = clarifying.later if at else clarifying.first
        inserted = bool(text) and tuple(token_ids[at : at + len(text)]) == text
        length = len(text) if inserted else 1
        facts += [
            KeptToken(i, clarifies=inserted and not n) for n, i in enumerate(token_ids[at : at + length])
        ]
        at += length
    named = () if token_id is None else (token_id,)
    return replace(_resumed(facts, tokenizer, clarifying), pending=named, named=len(named))


def _resumed(facts: Sequence[KeptToken], tokenizer: Tokenizer, clarifying: ClarifyingText) -> Resumed:
    """Lets a reply take the tokens and returns what it remembers then."""
    reply = Reply()
    for token in facts:
        text = (clarifying.later if reply.length else clarifying.first) if token.clarifies else ()
        reply.take(token.token_id, tokenizer, text, token.surprisal)
    return Resumed(
        tuple(facts),
        pending=tuple(reply.pending),
        clarify_used=reply.clarify_used,
        since_clarify=reply.since_clarify,
        known=reply.tokens,
        surprisal=reply.surprisal,
        unfinished=reply.unfinished,
        newest=reply.history.newest,
        spent=sum(token.lost for token in facts),
    )


def facts_of(finished: Finished, clarifying: ClarifyingText) -> tuple[list[KeptToken], list[Piece]]:
    """Returns the tokens of a recorded reply, and its pieces, of which no two overlap."""
    series, begin = finished.series, len(finished.kept)
    surprisals = series.signal("surprisal")
    facts, pieces = list(finished.kept), list[Piece]()
    rollouts = dict(finished.branches)
    text_ends = named_from = -1
    for at, token in enumerate(facts):
        if token.clarifies:
            text_ends = at + len(clarifying.later if at else clarifying.first)
            pieces.append(Piece("text", at, text_ends))
    for n, token_id in enumerate(series.token_ids):
        at = begin + n
        inserted = bool(series.forced[n]) and series.strategies[n] == Strategy.CLARIFY
        begins = inserted and at >= text_ends
        if begins:
            text_ends = at + len(clarifying.later if at else clarifying.first)
            pieces.append(Piece("text", at, text_ends))
        lost = 0
        if records := rollouts.get(at):
            lost = sum(len(record.token_ids) for record in records if not record.chosen)
            kept = next(len(record.token_ids) for record in records if record.chosen)
            pieces.append(Piece("rollout", at, at + kept, lost))
        if series.forced[n] and not inserted:
            if named_from >= 0:
                pieces[named_from] = replace(pieces[named_from], end=at + 1)
            else:
                named_from = len(pieces)
                pieces.append(Piece("named", at, at + 1))
        alone = bool(series.only_choice and series.only_choice[n])
        surprisal = None if alone or math.isnan(surprisals[n]) else surprisals[n]
        facts.append(KeptToken(token_id, surprisal, begins, lost))
    return facts, pieces
