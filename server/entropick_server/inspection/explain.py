"""The explanation of a finished request as text, a token a paragraph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]
_OF_FORMULAS = ("temperature", "top_p", "top_k", "min_p")


def lines(choice: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of a choice of /v1/requests/{id}/explanation."""
    summary = choice["summary"]
    preset = f", preset {summary['preset']}" if summary.get("preset") else ""
    yield (
        f"{choice['id']} choice {choice['choice']}: {choice['model']}, policy {summary['policy']}{preset}, "
        f"profile {summary['profile'] or 'none'}, seed {summary['seed']}, "
        f"{choice['completion_tokens']} tokens, {choice['finish_reason']}"
    )
    numbers = choice["policy_parameters"].items()
    yield "in force: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers)
    yield ""
    for row in choice["tokens"]:
        yield from _token(row)


def _token(row: Row) -> Iterator[str]:
    probability = row["probability"]
    chance = "" if probability is None else f", probability {probability:.4g}"
    yield f"{row['index']:>5}  {row['token']!r}  {row['strategy'] or 'policy off'}: {row['how']}{chance}"
    yield f"       rule: {row['rule']}"
    words = [row["words"][name] for name in _OF_FORMULAS if name in row["words"]]
    if words:
        yield f"       drawn with: {'; '.join(words)}"
    if (rollout := row.get("rollout")) is not None:
        yield f"       of branch {rollout['kept']}, opened at token {rollout['opened_at']} and kept"
    for number, branch in enumerate(row.get("branches", ())):
        score = "-" if branch["score"] is None else f"{branch['score']:.4g}"
        verdict = "kept" if branch["chosen"] else "lost"
        yield f"       branch {number} ({verdict}, score {score}): {branch['text']!r}"
