"""The chapter on error probability: judged on the stored replies to the questions of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from entropick_eval.blocks import Block
from entropick_eval.error_blocks import error_probability_blocks
from entropick_eval.error_findings import find
from entropick_eval.error_probability import open_store
from entropick_eval.tasks import Item

from .document import Section
from .findings import Findings
from .plan import EvidencePlan


def error_section(plan: EvidencePlan, results: Path, resamples: int) -> Section:
    """Returns the part of a model's chapter that says how well its wrong answers are predicted."""

    def section(findings: Findings) -> Iterator[Block]:
        if not (results / findings.model).is_dir():
            return
        runs = [run for run in plan.runs_of(findings.model) if not run.apart]
        items: dict[str, Item] = {i.id: i for run in runs for i in run.items if i.check is not None}
        found = find(list(items.values()), open_store(results, findings.model), resamples)
        if found is not None:
            yield from error_probability_blocks(found, level=3)

    return section
