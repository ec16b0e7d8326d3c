"""The sentences about the plane of a model's heads, and about labels that tell nothing."""

from __future__ import annotations

import numpy as np

from ..grids import OptionalGrid
from .archetypes import UNTESTED, Separation
from .circuit import CircuitTest
from .collect import INDUCTION_CHANCE
from .figures import PhaseSpace, Plane, Share

_FAINT = 5.0
"""times the attention of an even head, below which no head is said to have a habit"""
_CROWDED = 0.8
"""share of heads under one label from which it separates nothing"""


def sentences(found: PhaseSpace) -> tuple[str, ...]:
    """Describes the places of heads in both forms, the figures that separate them, and the layers' course."""
    seed, own = found.plane("seed"), found.plane("normalised")
    said = [_published(found, seed), *_normalised(found, own, seed), _cost(found), _habits(found)]
    said += [_labels(found)] if found.label_separations else []
    said += [_course(own), _rates(seed), _rates(own)]
    if found.short_texts:
        said.append(
            f"{found.short_texts} of {found.texts} texts are too short for a variance and count for no G."
        )
    return tuple(sentence for sentence in said if sentence)


def _range(grid: OptionalGrid) -> str:
    known = [x for row in grid for x in row if x is not None]
    if not known:
        return "nothing"
    low, middle, high = (float(v) for v in np.percentile(known, [0, 50, 100]))
    return f"{_figure(low)} to {_figure(high)} (median {_figure(middle)})"


def _figure(x: float) -> str:
    return f"{x:.2f}" if abs(x) >= 1 or x == 0 else f"{x:.2g}"


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None or high is None else f" [{low:{sign}.2f}, {high:{sign}.2f}]"


def _share(one: Share) -> str:
    ends = "" if one.low is None or one.high is None else f" [{one.low:.0%}, {one.high:.0%}]"
    return f"{one.quadrant} {one.share:.0%}{ends}"


def _published(found: PhaseSpace, seed: Plane) -> str:
    heads = sum(len(row) for row in seed.genuineness)
    most = max(seed.shares, key=lambda share: share.share)
    shares = ", ".join(_share(share) for share in seed.shares)
    verdict = (
        f"the published labels do not separate this model's heads, {most.share:.0%} are {most.quadrant}"
        if most.share >= _CROWDED
        else f"the most common label is {most.quadrant}"
    )
    even = (
        ""
        if seed.even is None
        else f" Even attention, which looks at nothing in particular, has {_figure(seed.even)} in this form: "
        f"{seed.above_even} of {heads} heads lie above it."
    )
    return (
        f"In the published form (entropy in bits, cut points .275, .175 and 5 bits) {verdict}: {shares} of "
        f"heads by text, over {found.texts} texts ({found.tokens} positions). G runs from "
        f"{_range(seed.genuineness)}.{even}"
    )


def _normalised(found: PhaseSpace, own: Plane, seed: Plane) -> list[str]:
    said = []
    if own.genuine_cut is None or own.mechanical_cut is None or own.cost_cut is None:
        said.append("Normalised by the visible keys, G is the same for all heads: there are no quadrants.")
    else:
        said.append(
            f"Normalised by the visible keys, G runs from {_range(own.genuineness)}; even attention has 0. "
            f"This model's own cut points are {_figure(own.mechanical_cut)} and {_figure(own.genuine_cut)} "
            f"(tertiles) and {own.cost_cut:.2f} bits (median), so the shares are even by construction: "
            f"{', '.join(_share(share) for share in own.shares)}. Only their change, on other texts or "
            "another model, tells something."
        )
    parts = [
        f"{plane.form} {plane.reliability:+.2f}" for plane in (own, seed) if plane.reliability is not None
    ]
    if parts:
        forms = "" if found.forms_r is None else f"; between the two forms r is {found.forms_r:+.2f}"
        said.append(
            f"G of a head in every second text goes with G in the others: r {', '.join(parts)}{forms}."
        )
    return said


def _cost(found: PhaseSpace) -> str:
    said = (
        f"Token cost runs from {_range(found.cost)} bits where the texts' tokens have "
        f"{found.mean_surprisal:.2f}"
    )
    if found.cost_of_text is not None:
        said += f"; {found.cost_of_text:.0%} of its variance over texts and heads lies between texts"
        if found.cost_of_text > 0.5:
            said += ", so it tells more of the text than of the head"
    return (
        f"{said}. Relative to what a query sees it runs from {_range(found.cost_relative)}; 1 is even "
        "attention."
    )


def _one(one: Separation) -> str:
    return "none" if one.auc is None else f"{one.auc:.2f}{_interval(one.low, one.high)}"


def _habits(found: PhaseSpace) -> str:
    parts = []
    for figure in ("token cost", "G normalised", "G seed"):
        rows = [row for row in found.separations if row.figure == figure]
        told = [row for row in rows if not row.chance]
        chance = [row for row in rows if row.chance]
        said = f"{figure}: " + ", ".join(f"{row.habit} {_one(row)}" for row in told)
        if chance:
            said += (
                ("; " if told else "")
                + "no better than chance: "
                + ", ".join(f"{row.habit} {_one(row)}" for row in chance)
            )
        parts.append(said)
    tops = {row.habit: row for row in found.separations}
    induction = tops["induction"]
    most = _strongest(found)
    said = (
        f"The strongest induction head gives {most:.3f} of its attention to what followed a repeated token "
        f"the first time (an even head {INDUCTION_CHANCE:.3f})"
    )
    said += (
        ": this model has no induction heads, and the highest tenth by that score is no habit. "
        if most < _FAINT * INDUCTION_CHANCE
        else ". "
    )
    return said + (
        f"How well a figure ranks the highest tenth of heads ({induction.positives} of {induction.heads}) by "
        f"a habit (area under the ROC curve, .5 is chance, below .5 the habit lies low; layers drawn again). "
        + ". ".join(parts)
        + "."
    )


def _strongest(found: PhaseSpace) -> float:
    return max((x for row in found.induction for x in row if x is not None), default=0.0)


def _labels(found: PhaseSpace) -> str:
    parts = []
    for row in found.label_separations:
        if row.habit == "induction" and _strongest(found) < _FAINT * INDUCTION_CHANCE:
            continue
        verdict = "does not separate" if row.chance or (row.auc or 0.0) <= 0.5 else "separates"
        parts.append(f"{row.figure} ({row.form}) {verdict} {row.habit} heads, {_one(row)}")
    names = ", ".join(f"{quadrant.label} as {habit}" for quadrant, habit in UNTESTED.items())
    return (
        f"Quadrants against the heads they are named after: {'; '.join(parts)}. Not tested: {names}, which "
        "needs a task."
    )


def _course(own: Plane) -> str:
    mean = own.mean_by_layer
    said = (
        f"G (normalised, mean over heads) is highest in layer {int(np.argmax(mean))} ({_figure(max(mean))}) "
        f"and lowest in layer {int(np.argmin(mean))} ({_figure(min(mean))})"
    )
    if own.layer_pull is not None:
        said += (
            f"; from the first five layers to the last five the highest head's changes by "
            f"{own.layer_pull:+.3f}"
        )
    pull = own.token_pull
    if pull is not None:
        said += (
            f". Over a text the mean score changes by {pull.delta:+.4f}"
            + ("" if pull.low is None or pull.high is None else f" [{pull.low:+.4f}, {pull.high:+.4f}]")
            + f" from its first five scores to its last ({pull.texts} texts)"
        )
    return said + "."


def _rates(plane: Plane) -> str:
    test = plane.circuit
    rates = test.rates
    scale = "G" if plane.form == "normalised" else "G / 0.5, clipped"
    if not rates.degrade_steps and not rates.recover_steps:
        return (
            f"Circuit rates ({plane.form}, the layers' highest {scale}): absent, no step between layers has "
            "a logarithm and a name."
        )
    return (
        f"Circuit rates ({plane.form}, the layers' highest {scale}): degradation "
        f"{_rate(rates.degrade, rates.degrade_steps, test.degrade_low, test.degrade_high)}, recovery "
        f"{_rate(rates.recover, rates.recover_steps, test.recover_low, test.recover_high)}; {_verdict(test)}."
    )


def _rate(value: float | None, steps: int, low: float | None, high: float | None) -> str:
    if value is None:
        return "absent (no step)"
    ends = "" if low is None or high is None else f", random orders of the layers {low:.2f} to {high:.2f}"
    return f"{value:.2f} over {steps} step{'s' if steps != 1 else ''}{ends}"


def _verdict(test: CircuitTest) -> str:
    rows = (
        (test.rates.degrade, test.degrade_low, test.degrade_high),
        (test.rates.recover, test.recover_low, test.recover_high),
    )
    outside = [
        value
        for value, low, high in rows
        if value is not None and low is not None and high is not None and not low <= value <= high
    ]
    if outside:
        return "outside of what random orders give, so the order of the layers matters"
    return "within what random orders give, so they say nothing about the order of the layers"
