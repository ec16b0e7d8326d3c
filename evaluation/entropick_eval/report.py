"""Writes the report of a comparison: negative findings, tables and plots, then the settings to serve with."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from .arms import Arm
from .blocks import Block, Bullets, Code, Figure, Grid, Heading, Text, to_html, to_markdown
from .comparison import pareto
from .grids import in_points, limits, negatives, open_grid, ordered, table_grid, triple
from .plots import Point, accuracy_against_tokens, differences
from .recommend import Recommendation, as_consensus, serve_with
from .rules import ConsensusRule
from .summary import Half, Summary

TITLE: Final = "entropick eval"
_SHOWN: Final = 3
"""extractors that the report shows beside the first"""
_HALVES: Final = (("test", "Test half"), ("fit", "Fit half: settings were chosen on it"))


def write_report(summary: Summary, folder: Path, model_argument: str) -> None:
    """Writes ``report.html``, ``report.md`` and ``report.json`` into a folder.

    ``model_argument``: the MODEL that ``entropick serve`` would be given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = list(report_blocks(summary, model_argument))
    title = f"{TITLE}: {summary.model}"
    (folder / "report.html").write_text(to_html(title, blocks), encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(title, blocks), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(as_data(summary), indent=1) + "\n", encoding="utf-8")


def report_blocks(summary: Summary, model_argument: str) -> Iterator[Block]:
    """Yields the parts of the report."""
    yield Text(
        f"Model `{summary.model}`, {summary.server}; tasks {', '.join(summary.tasks)}. Differences are "
        f"paired with `{summary.baseline}` on the same items; intervals hold 95 % (bootstrap over items, "
        "within families); p is by random signs of the differences, adjusted for the number of arms (Holm). "
        "Tokens are all that were generated for an item, for losing branches and replies too."
    )
    yield Heading("What did not come out")
    yield Bullets(tuple(_negatives(summary)) or ("Nothing to report here.",))
    for split, title in _HALVES:
        half = next((found for name, found in summary.halves.items() if name == split), None)
        if half is not None:
            yield Heading(title)
            yield from _half(half, summary.baseline)
    yield Heading("Arms")
    yield Grid(("arm", "request fields"), tuple(_bodies(summary)))
    yield Heading("Serve with")
    yield from _serve_with(summary, model_argument)


def _negatives(summary: Summary) -> Iterator[str]:
    for name, message in summary.refused.items():
        yield f"`{name}` was refused by the server: {message}"
    for (name, message), count in summary.errors.items():
        yield f"`{name}`: {count} items without a reply: {message}"
    for name in summary.dropped:
        yield f"`{name}` was left behind on the fit half by halving"
    half = summary.halves.get("test") or summary.halves.get("fit")
    if half is None or not half.tables:
        return
    yield from negatives(half, summary.baseline)


def _half(half: Half, baseline: str) -> Iterator[Block]:
    if half.tables:
        pooled = half.tables[0]
        rows = ordered(pooled, baseline)
        yield Text(f"{pooled.n} items with a known answer.")
        yield table_grid(pooled, baseline)
        points = {row.arm: (row.spent, row.accuracy.estimate) for row in rows if row.accuracy.n}
        if len(points) > 1:
            shown = [
                Point(row.arm, row.spent, *limits(row.accuracy), row.arm == baseline)
                for row in rows
                if row.accuracy.n
            ]
            best = pareto(points)
            yield Figure(
                accuracy_against_tokens(shown, best),
                "Accuracy against tokens; no arm is both cheaper and better than those on the dashed line.",
            )
            compared = [
                Point(row.arm, row.spent, *limits(row.difference))
                for row in rows
                if row.difference is not None and row.difference.n
            ]
            yield Figure(differences(compared, baseline), f"Paired differences from {baseline}.")
        if half.equal:
            yield Heading("At equal tokens", 3)
            yield Text(
                "Against votes and best-of-n of as many tokens: their accuracy is interpolated between the "
                "two numbers of replies around the arm's tokens."
            )
            yield Grid(
                ("arm", "against", "tokens", "difference, points"),
                tuple(
                    (one.arm, one.against, f"{one.spent:.0f}", in_points(one.difference))
                    for one in half.equal
                ),
            )
        for table in half.tables[1:]:
            yield Heading(f"Family {table.family}", 3)
            yield table_grid(table, baseline)
    if half.open:
        yield Heading("Open prompts", 3)
        yield Text(
            "Means over the replies. Repeated 4-grams: share of a reply's runs of four words that stood in "
            "it before. Distinct n-grams: different over all, within a reply, and over all replies together. "
            "Surprisal: under the model itself."
        )
        yield open_grid(half)
    if half.scores:
        yield Heading("Which score tells right from wrong", 3)
        yield Text(
            f"Of `{baseline}`'s replies: AUROC within families (mean) and pooled, and the prediction "
            "rejection ratio over the first half of rejections. Entropies count as doubt."
        )
        yield Grid(
            ("score", "AUROC within families", "AUROC pooled", "PRR"),
            tuple((row.score, *map(triple, (row.within, row.pooled, row.prr))) for row in half.scores),
        )
    if half.calibration is not None:
        found = half.calibration
        yield Text(
            f"The server's `error_probability` of {found.n} replies: expected calibration error "
            f"{found.ece:.3f} (15 bins of equal mass), Brier score {found.brier:.3f}, of the base rate alone "
            f"{found.base:.3f}."
        )


def _bodies(summary: Summary) -> Iterator[tuple[str, str]]:
    for name, arm in summary.arms.requests.items():
        yield name, f"`{json.dumps(dict(arm.body))}`"
    for name, rule in summary.arms.rules.items():
        if isinstance(rule.rule, ConsensusRule):
            fields = {"consensus": {**rule.rule.config.as_dict(), "extract": "the item's"}}
        else:
            fields = {key: value for key, value in asdict(rule.rule).items() if value}
        first = {"first": rule.first} if rule.first else {}
        yield name, f"`{json.dumps({'rule': {'of': rule.of, **first, **fields}})}`"


def _serve_with(summary: Summary, model_argument: str) -> Iterator[Block]:
    if not summary.recommended:
        yield Text("There is no fit half with an answer of every arm, so nothing is recommended.")
        return
    if "test" not in summary.halves:
        yield Text("There is no test half: nothing below is confirmed.")
    elif not any(one.confirmed for one in summary.recommended):
        yield Text(
            f"Nothing is surely better than `{summary.baseline}` on the test half: serve with it. "
            "Below are the best settings of the fit half all the same."
        )
        yield from _setting(summary, summary.baseline, model_argument)
    for one in summary.recommended:
        if one.arm != summary.baseline:
            yield Text(_verdict(one, summary.baseline))
            yield from _setting(summary, one.arm, model_argument)


def _verdict(one: Recommendation, baseline: str) -> str:
    budget = "at any price" if math.isinf(one.budget) else f"at up to {one.budget:g} times the tokens"
    fit = "" if one.fit.difference is None else f" ({in_points(one.fit.difference)} points on the fit half)"
    said = f"Best {budget}: `{one.arm}`{fit}"
    if one.test is None or one.test.difference is None or not one.test.difference.n:
        return f"{said}. There is no test half to confirm it."
    word = "confirmed" if one.confirmed else "NOT confirmed"
    return (
        f"{said}. The test half: {in_points(one.test.difference)} points over `{baseline}` at "
        f"{one.test.relative:.2f} times its tokens: {word}."
    )


def _setting(summary: Summary, name: str, model_argument: str) -> Iterator[Block]:
    arms = summary.arms
    rule = arms.rules.get(name)
    if rule is None:
        arm: Arm | None = arms.requests[name]
    else:
        extract = summary.extracts[0] if summary.extracts else "text"
        arm = as_consensus(rule, arms.requests[rule.of], extract)
        if len(summary.extracts) > 1:
            others = ", ".join(f"`{json.dumps(other)}`" for other in summary.extracts[1:][:_SHOWN])
            more = len(summary.extracts) - 1 - _SHOWN
            rest = f" and {more} others" if more > 0 else ""
            yield Text(f"`extract` belongs to the kind of question; these tasks also need {others}{rest}.")
    if arm is None and rule is not None:
        yield Text(
            f"`{name}` is for the client: ask for up to {rule.rule.k} replies with these fields, and pick."
        )
        arm = arms.requests[rule.of]
    if arm is None:
        return
    found = serve_with(arm, model_argument)
    yield Text("In a request:")
    yield Code(found.body)
    yield Text("As the server's default:")
    yield Code(found.command)
    if found.by_clients:
        fields = ", ".join(f"`{field}`" for field in found.by_clients)
        yield Text(f"The server has no option for {fields}: clients have to send this.")


def as_data(summary: Summary) -> dict[str, Any]:
    """Returns the whole outcome as plain data, for JSON: a number that is not known is null."""
    plain = {
        "model": summary.model,
        "server": summary.server,
        "baseline": summary.baseline,
        "tasks": list(summary.tasks),
        "arms": {name: dict(arm.body) for name, arm in summary.arms.requests.items()},
        "rules": {name: asdict(arm) for name, arm in summary.arms.rules.items()},
        "halves": {name: asdict(half) for name, half in summary.halves.items()},
        "recommended": [asdict(one) for one in summary.recommended],
        "refused": dict(summary.refused),
        "errors": [[arm, message, count] for (arm, message), count in summary.errors.items()],
        "dropped": list(summary.dropped),
    }
    found: dict[str, Any] = _finite(plain)
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
