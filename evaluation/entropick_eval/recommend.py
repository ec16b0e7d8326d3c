"""Chooses the settings to serve with: the best arm of the fit half, which the test half confirms or not."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .arms import Arm, RuleArm
from .comparison import Row, Table
from .rules import ConsensusRule

BUDGETS: Final = (1.6, 3.5, math.inf)
"""tokens as a multiple of the baseline's, up to which an arm is chosen"""
SURE: Final = 0.05
_BLOCK: Final = "entropick"
_TELEMETRY: Final = "telemetry"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The arm that was chosen under a budget, with its figures on both halves."""

    budget: float
    arm: str
    fit: Row
    test: Row | None
    """None where no test item has a reply"""
    confirmed: bool
    """whether the test half says that it is better than the baseline"""


def recommend(fit: Table, test: Table | None, baseline: str) -> list[Recommendation]:
    """Returns the most accurate arm of the fit half under each budget; of equals the cheaper.

    A choice that is that of the smaller budget is left out. Arms without all of their replies are not chosen.
    """
    found: list[Recommendation] = []
    on_test = {row.arm: row for row in test.rows} if test is not None else {}
    for budget in BUDGETS:
        complete = [row for row in fit.rows if not row.missing and row.accuracy.n]
        allowed = [row for row in complete if row.arm == baseline or row.relative <= budget]
        if not allowed:
            continue
        best = max(allowed, key=lambda row: (row.accuracy.estimate, -row.spent))
        if any(one.arm == best.arm for one in found):
            continue
        seen = on_test.get(best.arm)
        confirmed = seen is not None and is_better(seen)
        found.append(Recommendation(budget, best.arm, best, seen, confirmed))
    return found


def is_better(row: Row) -> bool:
    """True if an arm's interval lies above 0 and random signs seldom do as well (p below 0.05, one test)."""
    return row.difference is not None and row.difference.low > 0 and row.p is not None and row.p < SURE


@dataclass(frozen=True, slots=True)
class ServeWith:
    """A setting as a client sends it, and as the server's own default."""

    body: str
    """the fields of a request, JSON"""
    command: str
    """the command line that makes them the default"""
    by_clients: tuple[str, ...]
    """fields that the server has no option for: clients send them"""


def as_consensus(arm: RuleArm, of: Arm, extract: Any) -> Arm | None:
    """Returns the request arm by which the server does as a rule does; None where it has no such rule.

    ``extract``: the extractor of answers, in the words of the server's consensus.
    """
    rule = arm.rule
    if isinstance(rule, ConsensusRule):
        config = rule.config.as_dict() | {"extract": extract}
    elif (
        rule.choose == "vote" and not rule.answered and rule.weight in ("none", "mean_logprob") and rule.k > 1
    ):
        weight = {"by": rule.weight, "scale": rule.scale, "cut": rule.cut_weight}
        first = "sample" if arm.first is None else "greedy"
        config = {"extract": extract, "k": rule.k, "weight": weight, "stop": "all", "first": first}
    else:
        return None
    body = dict(of.body)
    body[_BLOCK] = {**body.get(_BLOCK, {}), "consensus": config}
    return Arm(f"{arm.name}, by the server", body)


def serve_with(arm: Arm, model: str) -> ServeWith:
    """Returns the ways to serve with a request arm. ``model`` is the argument of ``entropick serve``."""
    block: Mapping[str, Any] = arm.body.get(_BLOCK, {})
    policy = block.get("policy", "entropix")
    options: list[str] = []
    left: list[str] = []
    overrides = dict(block.get("overrides") or {})
    for name, value in arm.body.items():
        if name == _BLOCK:
            continue
        if name in ("temperature", "top_p", "top_k", "min_p") and policy == "entropix":
            overrides = {name: value, **overrides}
        else:
            left.append(name)
    for name, value in block.items():
        if name in ("overrides", _TELEMETRY):
            continue
        shown = value if isinstance(value, str) else json.dumps(value)
        options += [f"--{name.replace('_', '-')}", shlex.quote(shown)]
    if overrides:
        options += ["--overrides", shlex.quote(json.dumps(overrides))]
    command = " ".join(["entropick serve", *([shlex.quote(model)] if model else []), *options])
    return ServeWith(json.dumps(dict(arm.body)), command, tuple(left))
