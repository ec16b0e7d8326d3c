"""Reads the answer of a server, ours or another, as a reply: text, tokens spent, figures of every token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

TOP_LOGPROBS: Final = 20
"""alternatives that another server is asked for, to tell the entropy from"""
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
    )


def _others(details: Any) -> int:
    """Returns the tokens that were generated beside ``usage.completion_tokens``: of losing branches."""
    return int((details or {}).get("branch_tokens") or 0)


def _of_rows(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, tuple[float | None, ...]]:
    """Returns the columns of our server's rows, a row for each token."""
    if not rows:
        return {}
    names = {name: None for row in rows for name in row["signals"]}
    return {name: tuple(row["signals"].get(name) for row in rows) for name in names}


def _of_logprobs(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, tuple[float | None, ...]]:
    """Returns surprisal and entropy (bits) as log probabilities of another server give them.

    The entropy is that of the reported alternatives, with the rest of the mass as one more outcome: a lower
    bound of the true entropy, tight where the alternatives hold nearly all of the mass.
    """
    if not rows:
        return {}
    surprisal, entropy = [], []
    for row in rows:
        surprisal.append(-float(row["logprob"]) / _LN2)
        top = [math.exp(float(one["logprob"])) for one in row.get("top_logprobs") or ()]
        rest = max(0.0, 1.0 - math.fsum(top))
        entropy.append(-math.fsum(p * math.log2(p) for p in (*top, rest) if p > 0) if top else None)
    return {"surprisal": tuple(surprisal), "logits_entropy": tuple(entropy)}
