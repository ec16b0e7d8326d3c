"""Reads the answer of a server, ours or another, as a reply: text, tokens spent, figures of every token."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from entropick_sampler.reply_scores import rauq

TOP_LOGPROBS: Final = 20
"""alternatives that another server is asked for, to tell the entropy from"""
OFFSET: Final = "offset"
"""the column, among the signals, of the characters of the reply before each token"""
_LN2: Final = math.log(2.0)


class AnswerError(ValueError):
    """An answer that is no chat completion; the message says which field is missing."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's reply to one prompt."""

    text: str
    finish: str
    tokens: int
    """tokens of the reply, the end of sequence included"""
    spent: int
    """all generated tokens: of losing branches and replies too"""
    signals: Mapping[str, tuple[float | None, ...]]
    """signal name -> a value for each token"""
    error_probability: float | None
    """the server's own estimate that the answer is wrong; None where it gives none"""
    rauq: float | None = None
    """:func:`entropick_sampler.reply_scores.rauq`, where every row has the attention of every head"""


def read_reply(answer: Any) -> Reply:
    """Reads the body of a chat completion. Raises AnswerError."""
    try:
        choice, usage = answer["choices"][0], answer["usage"]
        text = choice["message"]["content"] or ""
        tokens, finish = int(usage["completion_tokens"]), str(choice["finish_reason"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise AnswerError(f"the answer is no chat completion: {type(error).__name__}: {error}") from error
    telemetry = choice.get("entropick") or {}
    summary = telemetry.get("summary") or {}
    signals = _of_rows(telemetry.get("tokens")) or _of_logprobs((choice.get("logprobs") or {}).get("content"))
    probability = summary.get("error_probability")
    return Reply(
        text=text,
        finish=finish,
        tokens=tokens if not signals else len(next(iter(signals.values()))),
        spent=tokens + _others(usage.get("completion_tokens_details")),
        signals=signals,
        error_probability=None if probability is None else float(probability),
        rauq=_rauq(telemetry.get("tokens") or ()),
    )


def _others(details: Any) -> int:
    """Returns the tokens of losing branches and replies, which ``usage.completion_tokens`` does not count."""
    found = details or {}
    return sum(int(found.get(name) or 0) for name in ("branch_tokens", "consensus_tokens"))


def _of_rows(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, tuple[float | None, ...]]:
    """Returns the columns of our server's rows, a row for each token."""
    if not rows:
        return {}
    names = {name: None for row in rows for name in row["signals"]}
    columns = {name: tuple(row["signals"].get(name) for row in rows) for name in names}
    return {**columns, OFFSET: _offsets([_bytes_of(str(row["token"])) for row in rows])}


def _rauq(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns RAUQ of a reply of two tokens or more; None where a figure of its tokens is missing."""
    surprisals: list[Any] = [row["signals"].get("surprisal") for row in rows[:-1]]
    attention: list[Any] = [(row.get("detail") or {}).get("attention_to_previous") for row in rows[2:]]
    heads = [layer for layers in attention for layer in layers or (None,)]
    if not surprisals or None in surprisals or any(layer is None or None in layer for layer in heads):
        return None
    return rauq(surprisals, attention)


def _bytes_of(token: str) -> bytes:
    """Returns the bytes of a token as our server shows it: ``bytes:\\xe2\\x82`` is part of a character."""
    part = re.fullmatch(r"bytes:((?:\\x[0-9a-f]{2})+)", token)
    return bytes.fromhex(part[1].replace("\\x", "")) if part else token.encode()


def _offsets(tokens: Sequence[bytes]) -> tuple[float | None, ...]:
    """Returns the number of characters before each token; part of a character counts none."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    found: list[float | None] = []
    before = 0
    for token in tokens:
        found.append(before)
        before += len(decoder.decode(token))
    return tuple(found)


def _of_logprobs(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, tuple[float | None, ...]]:
    """Returns surprisal and entropy (bits) as log probabilities of another server give them.

    The entropy is that of the reported alternatives, with the rest of the mass as one more outcome: a lower
    bound of the true entropy, tight where the alternatives hold nearly all of the mass.
    """
    if not rows:
        return {}
    surprisal, entropy, texts = [], [], []
    for row in rows:
        surprisal.append(-float(row["logprob"]) / _LN2)
        texts.append(bytes(row["bytes"]) if row.get("bytes") else str(row["token"]).encode())
        top = [math.exp(float(one["logprob"])) for one in row.get("top_logprobs") or ()]
        rest = max(0.0, 1.0 - math.fsum(top))
        entropy.append(-math.fsum(p * math.log2(p) for p in (*top, rest) if p > 0) if top else None)
    return {"surprisal": tuple(surprisal), "logits_entropy": tuple(entropy), OFFSET: _offsets(texts)}
