"""Writes the findings on ``error_probability`` as parts of a report, the aims that were missed first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from entropick_sampler.error_probability import MIXES

from .blocks import Block, Bullets, Grid, Heading, Text
from .error_findings import Difference, Findings, Line
from .error_judge import LEAST, Estimate, Judged

AIMS: Final = (
    ("reply and answer", "mean AUROC within known families", "known", "within", 0.80),
    ("reply and answer", "pooled AUROC", "known", "pooled", 0.83),
    ("reply and answer", "mean AUROC within families left out", "left_out", "within", 0.75),
    ("reply, answer and 4 samples", "mean AUROC within known families", "known", "within", 0.85),
    ("reply, answer and 4 samples", "pooled AUROC", "known", "pooled", 0.88),
)
"""What was aimed at: predictor, measure, its place, and the least that it should be."""
LARGEST_ECE: Final = 0.05


def error_probability_blocks(found: Findings, level: int = 2) -> list[Block]:
    """Returns the part of a report that says how well wrong answers are predicted.

    ``level``: of its heading.
    """
    return list(_blocks(found, level))


def _blocks(found: Findings, level: int) -> Iterator[Block]:
    yield Heading("Which answers are wrong", level)
    where = (
        f"the {found.judged} replies of the test half"
        if found.on_test
        else f"the same {found.judged} replies, each predicted by a fit without its tenth of the contents"
    )
    yield Text(
        f"Greedy replies, {found.wrong:.0%} of them wrong. Mixes are logistic, fitted on {found.fit} replies "
        f"of the fit half and judged on {where}. *Left out*: each family by a fit on the other families "
        f"alone. Within: mean AUROC over the families with at least {LEAST} right and as many wrong replies. "
        "PRR: prediction rejection ratio over the first half of rejections. ECE: expected calibration error, "
        "15 bins of equal mass, and in brackets what chance alone makes of it for as many replies with "
        "perfect probabilities. 95 % intervals: bootstrap over items within families."
    )
    yield Bullets(tuple(_aims(found)))
    yield _grid("mix", found.mixes)
    yield Heading("Beside single scores", level + 1)
    yield Text("Nothing is fitted, so no family is left out. A reply without an answer is the most doubtful.")
    yield _scores(found.scores)
    yield from _attention(found.attention, level + 1)
    if found.transfer:
        yield Heading("The shipped coefficients on sampled replies", level + 1)
        yield Text("They were fitted on greedy replies alone.")
        yield _grid("mix", found.transfer)
    yield from _families(found, level + 1)
    yield from _shipped(found, level + 1)


def _aims(found: Findings) -> Iterator[str]:
    """Yields a line for each aim, those that were missed first."""
    lines = {line.name: line for line in found.mixes}
    said = []
    for name, measure, place, field, least in AIMS:
        judged = getattr(lines[name], place) if name in lines else None
        if judged is None:
            said.append((False, f"NOT measured: {measure} of *{name}*, aim {least:.2f}"))
            continue
        value: Estimate = getattr(judged, field)
        reached = value[0] >= least
        word = "reached" if reached else "MISSED"
        said.append((reached, f"{word}: {measure} of *{name}* {_triple(value)}, aim {least:.2f}"))
    known = lines["reply and answer"].known if "reply and answer" in lines else None
    if known is not None:
        reached = known.ece <= LARGEST_ECE
        word = "reached" if reached else "MISSED"
        said.append((reached, f"{word}: ECE on known families {_ece(known)}, aim {LARGEST_ECE:.2f}"))
    yield from (text for _, text in sorted(said, key=lambda one: one[0]))


def _grid(title: str, lines: tuple[Line, ...]) -> Grid:
    head = (
        title,
        "n",
        "within",
        "pooled",
        "PRR",
        "ECE (chance)",
        "Brier (base rate)",
        "left out: within",
        "pooled",
        "ECE (chance)",
        "Brier",
    )
    rows = []
    for line in lines:
        known, left = line.known, line.left_out
        rows.append(
            (
                line.name,
                "" if known is None else str(known.n),
                *(_of(known, name) for name in ("within", "pooled", "prr")),
                _ece(known),
                "" if known is None else f"{known.brier:.3f} ({known.base:.3f})",
                *(_of(left, name) for name in ("within", "pooled")),
                _ece(left),
                "" if left is None else f"{left.brier:.3f}",
            )
        )
    return Grid(head, tuple(rows))


def _scores(lines: tuple[Line, ...]) -> Grid:
    rows = sorted(
        ((line.name, line.known) for line in lines if line.known is not None),
        key=lambda row: -row[1].within[0],
    )
    return Grid(
        ("score", "n", "within", "pooled", "PRR"),
        tuple((name, str(k.n), _triple(k.within), _triple(k.pooled), _triple(k.prr)) for name, k in rows),
    )


def _attention(gains: tuple[Difference, ...], level: int) -> Iterator[Block]:
    if not gains:
        return
    yield Heading("What the attention signals add", level)
    yield Text("The mean AUROC within families of a fit with the means of all of them, minus that without.")
    yield Grid(
        ("to the mix of", "known families", "families left out"),
        tuple((one.name, _signed(one.known), _signed(one.left_out)) for one in gains),
    )


def _families(found: Findings, level: int) -> Iterator[Block]:
    line = next((one for one in found.mixes if one.name == "reply and answer"), None)
    if line is None or line.known is None or line.left_out is None:
        return
    yield Heading("Reply and answer, family by family", level)
    rows = []
    for family, (n, wrong, value) in line.known.families.items():
        left = line.left_out.families.get(family, (0, 0.0, math.nan))[2]
        rows.append((family, str(n), f"{wrong:.0%}", _number(value), _number(left)))
    yield Grid(("family", "n", "wrong", "AUROC, known", "AUROC, left out"), tuple(rows))


def _shipped(found: Findings, level: int) -> Iterator[Block]:
    yield Heading("The coefficients", level)
    for name in found.dropped:
        yield Text(f"The mix `{name}` does not hold on families left out of the fit half and is not shipped.")
    if found.model is None:
        return
    rows = []
    for name in MIXES:
        mix = getattr(found.model, name)
        if mix is not None:
            rows.append((f"`{name}`: bias", f"{mix.bias:+.3f}", "", ""))
            rows += [
                (feature.replace("_", " "), f"{one.weight:+.3f}", f"{one.low:.2f}", f"{one.high:.2f}")
                for feature, one in mix.weights.items()
            ]
    yield Text(
        f"Fitted on {found.model.replies} replies of at most {found.model.longest} tokens. A feature counts "
        "at most as its largest value in the fit, and at least as its smallest."
    )
    yield Grid(("feature", "weight", "smallest", "largest"), tuple(rows))


def _of(judged: Judged | None, name: str) -> str:
    return "" if judged is None else _triple(getattr(judged, name))


def _ece(judged: Judged | None) -> str:
    return "" if judged is None else f"{judged.ece:.3f} ({judged.ece_perfect:.3f})"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _triple(value: Estimate) -> str:
    return "" if math.isnan(value[0]) else f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


def _signed(value: Estimate) -> str:
    return "" if math.isnan(value[0]) else f"{value[0]:+.3f} [{value[1]:+.3f}, {value[2]:+.3f}]"
