"""Chooses a running sequence that gives its place to a waiting sequence. Knows nothing of blocks or tensors.

Turns alone do not help while long replies hold every place. So a sequence that has had its turn, ``TURN``
tokens, gives its place up where another share or another answer holds at least two places fewer; where both
hold the same, to an answer that has not had a place yet and whose prompt is short, or at most half as long
as the sequence. It goes on later, from the blocks that it leaves in the cache. A request brings about a
single move of the last kind, and every other move evens the places out, so there are at most about as many
moves as requests; and where long prompts fill the cache, they do not push each other out of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import Final

from .sequence import Sequence
from .turns import Turns, first_within

TURN: Final = 16
"""tokens that a sequence draws before it can lose its place to another one"""
SHORT: Final = 64
"""tokens of a prompt for which a sequence of any length gives its place up"""


def displaced(
    prefilling: Seq[Sequence], decoding: Seq[Sequence], turns: Turns, limit: int | None
) -> tuple[Sequence, Sequence] | None:
    """Finds a running sequence and the waiting sequence that should have its place. Returns None for no pair.

    ``limit``: tokens that the waiting sequence may have; None: any number.
    """
    done = [sequence for sequence in decoding if _had_turn(sequence)]
    if not done:
        return None
    # half of the places go on, however many requests come
    newcomers = 2 * len(done) > len(prefilling) + len(decoding)
    by_share: dict[str, Sequence] = {}
    for sequence in done:
        best = by_share.get(sequence.request.share)
        if best is None or _turn(sequence, turns) > _turn(best, turns):
            by_share[sequence.request.share] = sequence
    most = max(by_share.values(), key=lambda sequence: _turn(sequence, turns))
    longest = math.inf if limit is None else limit
    for name, share in turns.shares():
        if turns.held(most)[0] >= share.running + 2 and most.request.share != name:
            waits = first_within(share.waiting, share.running, longest)
            if waits is not None:
                return most, waits
        runs = by_share.get(name)
        if runs is None:
            continue
        answer = turns.held(runs)[1]
        waits = first_within(share.waiting, answer - 2, longest)
        if waits is None and newcomers:
            short = max(len(runs.tokens), 2 * SHORT) // 2
            waits = first_within(share.fresh, answer - 1, min(longest, short), answer - 1)
        if waits is not None:
            return runs, waits
    return None


def _had_turn(sequence: Sequence) -> bool:
    """Tells whether a sequence has had its turn, is alone of its request, and will not end soon anyway."""
    return (
        len(sequence.tokens) - sequence.turn_began >= TURN
        and not sequence.branch
        and not sequence.branches
        and sequence.reply.room > TURN
    )


def _turn(sequence: Sequence, turns: Turns) -> tuple[int, int, int]:
    """Orders sequences by what they hold: places of the share, places of the answer, tokens of the turn."""
    return *turns.held(sequence), len(sequence.tokens) - sequence.turn_began
