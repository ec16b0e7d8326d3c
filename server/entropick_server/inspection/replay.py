"""A finished choice run again by its seed, and compared token by token and figure by figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .client import InspectionError, Server

ABSOLUTE: Final = 1e-3
RELATIVE: Final = 1e-3
"""Two figures count as equal within ABSOLUTE + RELATIVE * the larger of them: a batch's rounding."""
_CUT_OFF: Final = ("cancelled", "error")


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two series differ. ``index``: in the reply; ``name``: token_id or a figure's."""

    index: int
    name: str
    recorded: Any
    replayed: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome of a choice that was run again.

    ``same_text``: the tokens are the same, of a choice that was cut off as far as it came; ``difference``:
    the first in tokens or figures, None where there is none; ``largest``: the largest difference of a figure,
    with its name.
    """

    id: str
    choice: int
    replay_id: str
    tokens: int
    same_text: bool
    difference: Difference | None
    largest: tuple[str, float] | None

    @property
    def equal(self) -> bool:
        """Tells whether text and series are equal."""
        return self.difference is None


def replay(server: Server, choice: Mapping[str, Any]) -> Replay:
    """Runs a choice of /v1/requests/{id} again. Raises InspectionError, also where it cannot be replayed."""
    body = choice["request"]
    if body is None:
        raise InspectionError(
            f"{choice['id']} cannot be replayed: the server keeps no prompts (--no-recent-prompts)"
        )
    block = {**body["entropick"], "telemetry": "tokens"}
    answer = server.complete({**body, "entropick": block})
    rows = answer["choices"][0]["entropick"].get("tokens", [])
    cut_off = choice["finish_reason"] in _CUT_OFF
    difference, largest = compare(choice["series"], rows, cut_off=cut_off)
    return Replay(
        choice["id"],
        choice["choice"],
        answer["id"],
        len(choice["series"]["token_id"]),
        difference is None or difference.name != "token_id",
        difference,
        largest,
    )


def compare(
    series: Mapping[str, Sequence[Any]], rows: Sequence[Mapping[str, Any]], *, cut_off: bool = False
) -> tuple[Difference | None, tuple[str, float] | None]:
    """Compares a recorded series with the rows of a replay.

    ``cut_off``: the recorded reply may end before the other. Returns the first difference, tokens before
    figures, and the largest difference of two figures with the figure's name.
    """
    recorded, replayed = list(series["token_id"]), [row["token_id"] for row in rows]
    length = len(recorded) if cut_off else max(len(recorded), len(replayed))
    begin = series["index"][0] if series["index"] else 0
    for n in range(length):
        one = recorded[n] if n < len(recorded) else None
        other = replayed[n] if n < len(replayed) else None
        if one != other:
            return Difference(begin + n, "token_id", one, other), None
    first: Difference | None = None
    largest: tuple[str, float] | None = None
    for n, row in enumerate(rows[:length]):
        for name, one, other in _pairs(series, n, row):
            if not _close(one, other) and first is None:
                first = Difference(begin + n, name, one, other)
            if isinstance(one, float) and isinstance(other, float):
                apart = abs(one - other)
                if largest is None or apart > largest[1]:
                    largest = name, apart
    return first, largest


def _pairs(
    series: Mapping[str, Sequence[Any]], n: int, row: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the figures of a token by name, the recorded and the replayed; None where there is none."""
    # a row leaves it out where it does not hold
    flat = {"only_choice": False, **row, **(row["parameters"] or {}), **row["signals"]}
    for name, column in series.items():
        if name not in ("index", "token", "token_id"):
            yield name, column[n], flat.get(name)


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(one == other)


def lines(outcome: Replay) -> Iterator[str]:
    """Yields the outcome of a replay as text."""
    name = f"{outcome.id} choice {outcome.choice}"
    largest = "" if outcome.largest is None else f" (largest difference: {outcome.largest[0]} "
    largest += "" if outcome.largest is None else f"{outcome.largest[1]:.3g})"
    difference = outcome.difference
    if difference is None:
        yield f"{name}: equal, {outcome.tokens} tokens and their figures{largest}"
        return
    found = f"recorded {difference.recorded!r}, replayed {difference.replayed!r}"
    text = "the same text, another figure" if outcome.same_text else "another text"
    yield f"{name}: {text}: token {difference.index}, {difference.name}: {found}"
