"""Compares arms on the same items: accuracy, paired differences, equal tokens, accuracy against tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .bootstrap import (
    LEVEL,
    RESAMPLES,
    Floats,
    Interval,
    holm,
    intervals,
    sign_flips,
    strata_of,
)

POOLED: Final = "all"


@dataclass(frozen=True, slots=True)
class Scored:
    """An arm's result on one item, the mean over its replies where there are several."""

    correct: float
    spent: float
    """generated tokens, of losing branches and replies too"""
    tokens: float
    """tokens of the answer that is given"""


@dataclass(frozen=True, slots=True)
class Row:
    """An arm's line in a table."""

    arm: str
    accuracy: Interval
    difference: Interval | None
    """of the arm minus the baseline on the items that both have; None for the baseline itself"""
    p: float | None
    """of the difference, by random signs; None for the baseline itself"""
    holm: float | None
    """the same, adjusted for the number of arms"""
    spent: float
    tokens: float
    relative: float
    """tokens as a multiple of the baseline's"""
    missing: int
    """items without a reply"""


@dataclass(frozen=True, slots=True)
class Table:
    """The arms on one family, or on all items."""

    family: str
    n: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class EqualTokens:
    """An arm against a family of rules at the arm's own number of tokens."""

    arm: str
    against: str
    spent: float
    difference: Interval


def tables(
    arms: Mapping[str, Mapping[str, Scored]],
    families: Mapping[str, str],
    baseline: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Table]:
    """Returns the table of all items, then a table for each family where there are several.

    ``arms``: arm -> item -> result; ``families``: item -> family, of every item that was asked for.
    """
    names = sorted(set(families.values()))
    found = [_table(POOLED, list(families), families, arms, baseline, resamples, seed, level)]
    if len(names) > 1:
        for name in names:
            items = [item for item, family in families.items() if family == name]
            found.append(_table(name, items, families, arms, baseline, resamples, seed, level))
    return found


def _table(
    family: str,
    items: Sequence[str],
    families: Mapping[str, str],
    arms: Mapping[str, Mapping[str, Scored]],
    baseline: str,
    resamples: int,
    seed: int,
    level: float,
) -> Table:
    strata = strata_of([families[item] for item in items])
    names = list(arms)
    correct = _matrix([{item: one.correct for item, one in arms[name].items()} for name in names], items)
    base = correct[:, [names.index(baseline)]]
    both = intervals(np.hstack([correct, correct - base]), strata, resamples, seed, level)
    accuracy, differences = both[: len(names)], both[len(names) :]
    p = sign_flips(correct - base, resamples, seed)
    others = [at for at, name in enumerate(names) if name != baseline]
    adjusted = dict(zip(others, holm([p[at] for at in others]), strict=True))
    rows = []
    for at, name in enumerate(names):
        spent = _mean([arms[name][item].spent for item in items if item in arms[name]])
        shared = [item for item in items if item in arms[name] and item in arms[baseline]]
        base_spent = sum(arms[baseline][item].spent for item in shared)
        rows.append(
            Row(
                arm=name,
                accuracy=accuracy[at],
                difference=None if name == baseline else differences[at],
                p=None if name == baseline else p[at],
                holm=adjusted.get(at),
                spent=spent,
                tokens=_mean([arms[name][item].tokens for item in items if item in arms[name]]),
                relative=sum(arms[name][item].spent for item in shared) / base_spent
                if base_spent
                else np.nan,
                missing=sum(item not in arms[name] for item in items),
            )
        )
    return Table(family, len(items), tuple(rows))


def at_equal_tokens(
    pairs: Sequence[tuple[str, str]],
    arms: Mapping[str, Mapping[str, Scored]],
    curves: Mapping[str, Sequence[str]],
    families: Mapping[str, str],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> list[EqualTokens]:
    """Returns paired differences between arms and curves of arms at the tokens that the arm spends.

    ``pairs``: arm and name of a curve. Between two arms of the curve the accuracy is interpolated in their
    tokens, which is the expected accuracy of using the cheaper arm for a random share of the items and the
    dearer for the rest. A pair is left out where the arm spends less or more than every arm of the curve.
    """
    items = list(families)
    found: list[tuple[str, str, float]] = []
    columns: list[dict[str, float]] = []
    for arm, against in pairs:
        one = _against_curve(arm, curves[against], arms, items)
        if one is not None:
            found.append((arm, against, one[0]))
            columns.append(one[1])
    if not found:
        return []
    strata = strata_of([families[item] for item in items])
    differences = intervals(_matrix(columns, items), strata, resamples, seed, level)
    return [EqualTokens(*own, difference) for own, difference in zip(found, differences, strict=True)]


def _against_curve(
    arm: str, curve: Sequence[str], arms: Mapping[str, Mapping[str, Scored]], items: Sequence[str]
) -> tuple[float, dict[str, float]] | None:
    """Returns an arm's tokens, and its difference from the curve on every item that all of its arms have."""
    shared = [item for item in items if all(item in arms[name] for name in (arm, *curve))]
    if not shared or not curve:
        return None
    spent = {name: _mean([arms[name][item].spent for item in shared]) for name in (arm, *curve)}
    ordered = sorted(curve, key=lambda name: spent[name])
    if not spent[ordered[0]] <= spent[arm] <= spent[ordered[-1]]:
        return None
    upper = next(at for at, name in enumerate(ordered) if spent[name] >= spent[arm])
    lower = max(0, upper - 1)
    width = spent[ordered[upper]] - spent[ordered[lower]]
    share = (spent[arm] - spent[ordered[lower]]) / width if width > 0 else 0.0
    low, high = arms[ordered[lower]], arms[ordered[upper]]
    own = arms[arm]
    return spent[arm], {
        item: own[item].correct - ((1 - share) * low[item].correct + share * high[item].correct)
        for item in shared
    }


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Returns the names of the points (tokens, accuracy) that no other point beats, by their tokens.

    A point is beaten where another one has no more tokens and no less accuracy, and is better in one of them.
    """
    kept = []
    for name, (tokens, accuracy) in points.items():
        beaten = any(
            other[0] <= tokens and other[1] >= accuracy and other != (tokens, accuracy)
            for other in points.values()
        )
        if not beaten:
            kept.append(name)
    return sorted(kept, key=lambda name: (points[name][0], name))


def _matrix(columns: Sequence[Mapping[str, float]], items: Sequence[str]) -> Floats:
    """Returns the values of every column for every item, [items, columns], NaN where there is none."""
    return np.array([[column.get(item, np.nan) for column in columns] for item in items], dtype=np.float64)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
