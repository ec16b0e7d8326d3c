"""Judges the aims by the figures of the tables.

A setting that an aim leaves open is the one with the largest gain on the fit half within the aim's price, so
the test half has no part in the choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from entropick_eval.comparison import POOLED, Row
from entropick_eval.grids import in_points

from .findings import Findings

Verdict = Literal["missed", "not computed", "met"]
ORDER: Final[tuple[Verdict, ...]] = ("missed", "not computed", "met")


@dataclass(frozen=True, slots=True)
class Aim:
    """An aim with the figure that judges it."""

    model: str
    aim: str
    figure: str
    verdict: Verdict


Judge = Callable[[Findings], Iterator[Aim]]


def aims_of(findings: Findings, judges: Mapping[str, tuple[Judge, ...]]) -> list[Aim]:
    """Returns the aims about a model: missed aims first, then aims that are not computed yet."""
    found = [aim for judge in judges.get(findings.model, ()) for aim in judge(findings)]
    return sorted(found, key=lambda aim: ORDER.index(aim.verdict))


def _aim(findings: Findings, aim: str, figure: str, met: bool | None) -> Aim:
    verdict: Verdict = "not computed" if met is None else "met" if met else "missed"
    return Aim(findings.model, aim, figure, verdict)


def default_is_even(findings: Findings) -> Iterator[Aim]:
    """Yields the aims about the default against the baseline on the test half's answers."""
    rows = findings.rows("test", findings.default)
    pooled = rows.get(POOLED)
    difference = None if pooled is None else pooled.difference
    text = (
        f"the default against greedy: the interval's low end is at least {LEAST_OF_DEFAULT * 100:+.0f} points"
    )
    if difference is None or not difference.n:
        yield _aim(findings, text, "", None)
    else:
        yield _aim(findings, text, in_points(difference), difference.low >= LEAST_OF_DEFAULT)
    text = "the default against greedy: no family's interval lies below 0"
    families = {name: row.difference for name, row in rows.items() if name != POOLED and row.difference}
    if not families:
        yield _aim(findings, text, "", None)
        return
    below = [f"{name} {in_points(one)}" for name, one in families.items() if one.n and one.high < 0]
    lowest = min(families.items(), key=lambda one: one[1].estimate)
    figure = "; ".join(below) or f"lowest: {lowest[0]} {in_points(lowest[1])}"
    yield _aim(findings, text, figure, not below)


def default_repeats_less(findings: Findings) -> Iterator[Aim]:
    """Yields the aim about the default's repeated 4-grams on open prompts."""
    text = "repeated 4-grams of the default on open prompts: at most half of greedy's"
    own, base = (findings.repeated("test", name) for name in (findings.default, findings.baseline))
    if own is None or base is None:
        yield _aim(findings, text, "", None)
    else:
        yield _aim(findings, text, f"{own:.3f} against {base:.3f}", own <= base / 2)


def gains(points: float, price: float) -> Judge:
    """Returns the judge of a gain over the baseline at no more than ``price`` times its tokens."""

    def judge(findings: Findings) -> Iterator[Aim]:
        at = "at any price" if math.isinf(price) else f"at no more than {price:g} times its tokens"
        text = f"one setting {points * 100:+.0f} points over greedy, interval above 0, {at}"
        best = best_of_fit(findings, price)
        row = None if best is None else findings.rows("test", best).get(POOLED)
        if best is None or row is None or row.difference is None or not row.difference.n:
            yield _aim(findings, text, "", None)
            return
        met = row.difference.estimate >= points and row.difference.low > 0 and row.relative <= price
        yield _aim(findings, text, f"`{best}`: {in_points(row.difference)} at {row.relative:.2f} times", met)

    return judge


def best_of_fit(findings: Findings, price: float) -> str | None:
    """Returns the arm with the largest gain on the fit half within a price, of equals the cheaper.

    Only arms of which nothing is missing on either half can be chosen, and none that has far fewer questions
    of the fit half than others: the luckiest of dozens on few questions gains nothing on the next ones. None
    where there is no arm.
    """
    half = findings.halves.get("fit")
    if half is None or not half.tables:
        return None
    complete = findings.complete("fit") & findings.complete("test")
    rows = [
        (row, row.difference)
        for row in half.tables[0].rows
        if row.arm in complete and row.difference is not None and row.difference.n
    ]
    enough = SHARE_OF_QUESTIONS * max((difference.n for _, difference in rows), default=0)
    best = max(
        (row for row, difference in rows if row.relative <= price and difference.n >= enough),
        key=lambda row: (_estimate(row), -row.spent),
        default=None,
    )
    return None if best is None else best.arm


def gains_on_families(points: float, price: float, count: int) -> Judge:
    """Returns the judge of a gain on some families, each with the arm that its fit half favours."""

    def judge(findings: Findings) -> Iterator[Aim]:
        at = f"at no more than {price:g} times its tokens"
        text = f"{points * 100:+.0f} points over greedy {at} on {count} families"
        found: dict[str, tuple[str, Row]] = {}
        for family, arm in _best_by_family(findings, price).items():
            row = findings.rows("test", arm).get(family)
            if row is not None and row.difference is not None and row.difference.n:
                found[family] = (arm, row)
        if not found:
            yield _aim(findings, text, "", None)
            return
        ranked = sorted(found.items(), key=lambda one: -_estimate(one[1][1]))
        there = [
            family
            for family, (_, row) in ranked
            if _estimate(row) >= points
            and row.difference is not None
            and row.difference.low > 0
            and row.relative <= price
        ]
        shown = [
            f"{family} by `{arm}`: {in_points(row.difference)} at {row.relative:.2f} times"
            for family, (arm, row) in ranked[: max(count, len(there))]
            if row.difference is not None
        ]
        yield _aim(findings, text, "; ".join(shown), len(there) >= count)

    return judge


def _best_by_family(findings: Findings, price: float) -> Mapping[str, str]:
    half = findings.halves.get("fit")
    complete = findings.complete("fit") & findings.complete("test")
    found = {}
    for table in () if half is None else half.tables[1:]:
        allowed = [
            row
            for row in table.rows
            if row.arm in complete and row.arm != findings.baseline and row.relative <= price
        ]
        if allowed:
            found[table.family] = max(allowed, key=lambda row: (row.accuracy.estimate, -row.spent)).arm
    return found


def _estimate(row: Row) -> float:
    return -math.inf if row.difference is None else row.difference.estimate


SHARE_OF_QUESTIONS: Final = 0.7
"""of the largest number of fit questions of an arm: an arm with fewer cannot be chosen"""
LEAST_OF_DEFAULT: Final = -0.02
"""the lowest that the default's pooled interval may reach"""
JUDGES: Final[Mapping[str, tuple[Judge, ...]]] = {
    "smollm2": (
        default_is_even,
        default_repeats_less,
        gains(0.05, 1.6),
        gains(0.10, 3.5),
        gains(0.12, math.inf),
    ),
    "pico": (gains_on_families(0.10, 5.0, 2),),
}
"""The aims, by model."""
