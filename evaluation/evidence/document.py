"""Writes docs/evidence.md and its plots from the figures of all models, negative findings first."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from entropick_eval.blocks import Block, Bullets, Grid, Heading, Text, to_markdown
from entropick_eval.comparison import POOLED, Row, Table, pareto
from entropick_eval.grids import in_points, limits, negatives, open_grid, ordered, table_grid
from entropick_eval.plots import Point, accuracy_against_tokens
from entropick_eval.summary import Half
from entropick_eval.tasks import SPLITS, Split

from .aims import JUDGES, ORDER, aims_of
from .findings import Findings

TITLE: Final = "Evidence"
PAGE: Final = "evidence.md"
_HALVES: Final[Mapping[Split, str]] = {
    "test": "Test half",
    "fit": "Fit half: settings were chosen on it",
}
Section = Callable[[Findings], Iterator[Block]]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that stands in a file beside the page."""

    file: str
    svg: str
    caption: str


def write(everything: Sequence[Findings], folder: Path, sections: Sequence[Section] = ()) -> list[str]:
    """Writes the page and its plots into a folder; returns the lines that differ from the versions before.

    ``sections``: further parts of each model's chapter.
    """
    plots = [picture for findings in everything for picture in pictures(findings)]
    files = {PAGE: page(everything, sections)} | {picture.file: picture.svg + "\n" for picture in plots}
    changed: list[str] = []
    for name, text in files.items():
        path = folder / name
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        changed += differences(name, before, text)
        path.write_text(text, encoding="utf-8")
    return changed


def differences(name: str, before: str, after: str) -> list[str]:
    """Returns the lines of two versions of a file that are not in both, each with the file's name."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [f"{name}: {line}" for line in lines if not line.startswith(("---", "+++", "@@"))]


def page(everything: Sequence[Findings], sections: Sequence[Section] = ()) -> str:
    """Returns the page as Markdown."""
    return to_markdown(TITLE, list(_blocks(everything, sections)))


def _blocks(everything: Sequence[Findings], sections: Sequence[Section]) -> Iterator[Block]:
    yield Text(
        "Made by `make evidence` from the results in `evaluation/evidence/results`; an edit here is lost. "
        "`evaluation/evidence/arms.toml` says what each arm sends, "
        "`plan.toml` beside it which arms are computed on which questions; "
        "[evaluation.md](evaluation.md) says how questions are checked and figures computed. "
        "Settings are chosen on the fit half and judged on the test half, whose questions share no content. "
        "Differences are paired with `greedy` on the same items, in points; intervals hold 95 % (bootstrap "
        "over items, within families); p is by random signs, adjusted for the number of arms (Holm). Tokens "
        "are all that were generated for an item, of losing branches and replies too; *times*: those as a "
        "multiple of greedy's."
    )
    yield Heading("Aims")
    aims = [aim for findings in everything for aim in aims_of(findings, JUDGES)]
    aims.sort(key=lambda aim: ORDER.index(aim.verdict))
    yield Text(
        "On the test half. A setting that an aim leaves open is the one with the largest gain on the fit "
        "half within the aim's price, of the settings that are computed on many questions there."
    )
    yield Grid(
        ("model", "aim", "figure", "outcome"),
        tuple((aim.model, aim.aim, aim.figure, aim.verdict) for aim in aims),
    )
    yield Heading("What did not come out")
    for findings in everything:
        yield Heading(findings.model, 3)
        yield Bullets(tuple(_negatives(findings)) or ("Nothing to report here.",))
    for findings in everything:
        if any(one.replies for one in findings.provenance):
            yield from _chapter(findings, sections)


def _negatives(findings: Findings) -> Iterator[str]:
    yield from _screening(findings)
    yield from _absent(findings)
    half = findings.halves.get("test")
    if half is None or not half.tables:
        yield "There is no result on the test half yet."
        return
    yield from negatives(replace(half, tables=half.tables[:1]), findings.baseline)
    worse: dict[str, list[str]] = {}
    for table in half.tables[1:]:
        for row in table.rows:
            if row.difference is not None and row.difference.n and row.difference.high < 0:
                worse.setdefault(row.arm, []).append(f"{table.family} {in_points(row.difference)}")
    for arm, families in worse.items():
        listed = "; ".join(families)
        yield f"`{arm}` is worse than `{findings.baseline}` on {len(families)} families: {listed}"


def _screening(findings: Findings) -> Iterator[str]:
    """Yields sentences for the families in no table, and for each family on the wrong side of the limit."""
    apart = {name: one for name, one in findings.screened.items() if one.apart}
    shown = "; ".join(f"{name} {one.right:.1%} of {one.n}" for name, one in sorted(apart.items()))
    if apart:
        least = max(one.least for one in apart.values())
        yield (
            f"Families of which `{findings.baseline}` solves less than {least:.0%} of the fit half "
            f"measure nothing and stand in no table: {shown}"
        )
    for name, one in sorted(findings.screened.items()):
        if one.apart != (one.right < one.least):
            where = "stands apart" if one.apart else "is in the tables"
            solved = f"`{findings.baseline}` solves {one.right:.1%} of {one.n}"
            yield f"{name} {where}, though {solved} (limit {one.least:.0%})"


def _absent(findings: Findings) -> Iterator[str]:
    """Yields a sentence for each group of arms that are planned and not, or not wholly, computed."""
    groups: dict[str, list[str]] = {}
    for one in findings.coverage:
        if one.found == one.planned:
            continue
        where = f"{one.split} half" + (", open prompts" if one.open else "")
        how = f" (`{one.by}`)" if one.by else ""
        kind = "not computed yet" if not one.found else "computed in part"
        share = f" {one.found}/{one.planned}" if one.found else ""
        groups.setdefault(f"{kind} on the {where}{how}", []).append(f"`{one.arm}`{share}")
    for kind, arms in groups.items():
        yield f"{kind}: {', '.join(arms)}"


def _chapter(findings: Findings, sections: Sequence[Section]) -> Iterator[Block]:
    yield Heading(findings.model)
    for split, title in _HALVES.items():
        half = findings.halves.get(split)
        if half is not None and (half.tables or half.open):
            yield Heading(f"{findings.model}: {title}", 3)
            yield from _half(findings, split, half)
    yield from _timed(findings)
    for section in sections:
        yield from section(findings)
    yield from _families(findings)
    yield from _provenance(findings)


def _half(findings: Findings, split: Split, half: Half) -> Iterator[Block]:
    if half.tables:
        yield Text(
            f"{half.tables[0].n} questions with a known answer, in {max(1, len(half.tables) - 1)} families."
        )
        yield table_grid(half.tables[0], findings.baseline)
        for picture in pictures(findings):
            if picture.file == _file(findings.model, split):
                yield Text(f"![{picture.caption}]({picture.file})")
                yield Text(picture.caption)
    if half.equal:
        yield Heading(f"{findings.model}, {split} half: at equal tokens", 4)
        yield Text(
            "Several looks at a prompt against each other: the difference between the arm and votes, "
            "best-of-n or the cascade of as many tokens, whose accuracy is interpolated between the two "
            "settings around the arm's tokens. An empty cell: the arm's tokens lie outside the curve."
        )
        yield _equal_grid(half)
    if half.open:
        yield Heading(f"{findings.model}, {split} half: open prompts", 4)
        yield Text(
            "Means over the replies. Repeated 4-grams: share of a reply's runs of four words that stood in "
            "it before. Distinct n-grams: different over all, within a reply, and over all replies together. "
            "Surprisal: under the model itself. Rules and votes need an answer, so they say nothing here."
        )
        yield open_grid(half)


def _equal_grid(half: Half) -> Grid:
    curves = list(dict.fromkeys(one.against for one in half.equal))
    cells = {(one.arm, one.against): one for one in half.equal}
    arms = list(dict.fromkeys(one.arm for one in half.equal))
    rows = []
    for arm in sorted(arms, key=lambda arm: max(one.spent for one in half.equal if one.arm == arm)):
        spent = next(one.spent for one in half.equal if one.arm == arm)
        found = [cells.get((arm, curve)) for curve in curves]
        rows.append(
            (arm, f"{spent:.0f}", *("" if one is None else in_points(one.difference) for one in found))
        )
    return Grid(("arm", "tokens", *curves), tuple(rows))


def _timed(findings: Findings) -> Iterator[Block]:
    if not findings.seconds:
        return
    yield Heading(f"{findings.model}: time to the answer", 3)
    yield Text(
        "One question at a time, from the request to the answer, on the machine and beside the work that the "
        "results were made with: compare within this table only."
    )
    rows = []
    for arm, times in findings.seconds.items():
        row = findings.rows("test", arm).get(POOLED)
        tokens = "" if row is None else f"{row.spent:.0f}"
        right = "" if row is None else f"{row.accuracy.estimate * 100:.1f}"
        rows.append((arm, str(times.n), right, tokens, f"{times.median:.2f}", f"{times.high:.2f}"))
    yield Grid(("arm", "questions", "right, %", "tokens", "median, s", "90 % within, s"), tuple(rows))


def _families(findings: Findings) -> Iterator[Block]:
    found: dict[str, dict[Split, Table]] = {}
    for split in _HALVES:
        half = findings.halves.get(split)
        for table in () if half is None else half.tables[1:]:
            found.setdefault(table.family, {})[split] = table
    if not found:
        return
    yield Heading(f"{findings.model}: every family", 3)
    for family in sorted(found):
        tables = found[family]
        counts = ", ".join(f"{tables[split].n} of the {split} half" for split in _HALVES if split in tables)
        yield Heading(f"{findings.model}: {family}", 4)
        yield Text(f"{counts}.")
        yield _family_grid(findings, tables)


def _family_grid(findings: Findings, tables: Mapping[Split, Table]) -> Grid:
    head = ["arm"]
    by_split: dict[Split, dict[str, Row]] = {}
    for split in _HALVES:
        if split in tables:
            head += [f"{split}: right, %", "minus greedy", "tokens", "times"]
            by_split[split] = {row.arm: row for row in tables[split].rows}
    arms: list[str] = []
    for table in tables.values():
        arms += [row.arm for row in ordered(table, findings.baseline) if row.arm not in arms]
    rows = []
    for arm in arms:
        cells = [arm]
        for own in by_split.values():
            cells += _family_cells(own.get(arm))
        rows.append(tuple(cells))
    return Grid(tuple(head), tuple(rows))


def _family_cells(row: Row | None) -> list[str]:
    if row is None or not row.accuracy.n:
        return ["", "", "", ""]
    gain = "" if row.difference is None else in_points(row.difference)
    return [f"{row.accuracy.estimate * 100:.1f}", gain, f"{row.spent:.1f}", f"{row.relative:.2f}"]


def _provenance(findings: Findings) -> Iterator[Block]:
    there = [one for one in findings.provenance if one.replies]
    if not there:
        return
    yield Heading(f"{findings.model}: where the results come from", 3)
    yield Text(
        f"{sum(one.replies for one in there)} replies, {sum(one.tokens for one in there)} generated tokens. "
        "*Code*: the digest of the code, and of the profile where the arm reads it. *Taken over*: results of "
        "older code that a random part, computed again, showed to be unchanged."
    )
    rows = []
    for one in there:
        stamps = "; ".join(
            f"{stamp.date}: {stamp.again} of {stamp.of} again, all equal" for stamp in one.stamps
        )
        rows.append((one.arm, str(one.replies), str(one.tokens), " ".join(one.codes), stamps))
    yield Grid(("arm", "replies", "tokens", "code", "taken over"), tuple(rows))


def pictures(findings: Findings) -> list[Picture]:
    """Returns the plots of a model: accuracy against tokens on each half."""
    found = []
    for split in SPLITS:
        half = findings.halves.get(split)
        rows = (
            [row for row in half.tables[0].rows if row.accuracy.n] if half is not None and half.tables else []
        )
        if len(rows) < 2:
            continue
        points = [Point(r.arm, r.spent, *limits(r.accuracy), r.arm == findings.baseline) for r in rows]
        best = pareto({row.arm: (row.spent, row.accuracy.estimate) for row in rows})
        svg = accuracy_against_tokens(points, best, {*best, findings.baseline, findings.default})
        caption = f"{findings.model}, {split} half: accuracy against generated tokens an item"
        found.append(Picture(_file(findings.model, split), svg, caption))
    return found


def _file(model: str, split: Split) -> str:
    return f"evidence-{re.sub(r'[^a-z0-9]+', '-', model.lower())}-{split}.svg"
