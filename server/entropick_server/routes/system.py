"""The routes GET /health, /version, /metrics and /v1/policy."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from entropick_sampler.branch_config import (
    BRANCH_RANGES,
    BRANCH_STRATEGIES,
    MAX_UNTIL,
    SCORERS,
    UNTIL_END,
    BranchConfig,
)
from entropick_sampler.one_formula import ONE_FORMULA, OneFormula
from entropick_sampler.params import FIXED_BASE, FORMULA_BASE, PARAM_RANGES, SEED_PARAMS, FormulaParams
from entropick_sampler.profile import QUANTILE_LEVELS
from entropick_sampler.signals import HESITATION, HESITATION_SIGNAL, SIGNALS
from entropick_sampler.strategy import Strategy

from ..answers import NAMED, PATTERNED
from ..consensus.config import CHOICES, FLAGS, RANGES, SIMILAR
from ..offload import LARGE
from ..state import server_state
from ..streaming.pieces import PieceResponse
from ..version import server_version
from ._common import beside_the_loop

router = APIRouter()


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """Answers 200 while requests are taken, 503 while loading, draining or stopped."""
    server_state(request).check_ready()
    return {"status": "ok"}


@router.get("/load")
async def load(request: Request) -> dict[str, int]:
    """Returns the number of prompts that wait or run, in the form of vLLM's server load."""
    return {"server_load": server_state(request).in_flight}


@router.get("/version")
async def version() -> dict[str, str]:
    """Returns the server's version."""
    return {"version": server_version()}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Returns Prometheus' page; OpenMetrics with exemplars where the scraper accepts it."""
    accept = request.headers.get("accept", "")
    snapshot = server_state(request).metrics.snapshot()
    # some thousand lines: written in the loop they would hold up every stream at every scrape
    page, content_type = await beside_the_loop(request, LARGE, lambda: snapshot.encode(accept))
    return PieceResponse([page], media_type=content_type)


@router.get("/v1/policy")
async def policy(request: Request) -> dict[str, Any]:
    """Returns the thresholds and the profile in force with its provenance, and the table of signals."""
    state = server_state(request)
    state.check_ready()
    settings, profile = state.settings, state.engine.profile
    presets = {"seed": asdict(SEED_PARAMS)}
    if profile is not None:
        presets["calibrated"] = asdict(profile.params)
    preset = settings.preset if settings.preset in presets else "seed"
    branch, consensus = state.default_policy.branch, state.default_consensus
    lens = state.default_policy.layer_entropy
    return {
        "default": {
            "policy": settings.policy,
            "preset": preset,
            "overrides": settings.overrides,
            "branch": None if branch is None else {**asdict(branch), "on": _names(branch)},
            "consensus": None if consensus is None else consensus.as_dict(),
            "telemetry": settings.telemetry,
            "genuineness": settings.genuineness,
            "layer_entropy": None if lens is None else {"every": lens.every, "layers": list(lens.layers)},
        },
        "presets": presets,
        "fixed": {name: asdict(FIXED_BASE)[name] for name in ("temperature", "top_p", "top_k", "min_p")},
        "formulas": {name: _formula(row) for name, row in ONE_FORMULA.items()},
        "overrides": {name: {"min": low, "max": high} for name, (low, high) in PARAM_RANGES.items()},
        "branch": {
            **{name: {"min": low, "max": high} for name, (low, high) in BRANCH_RANGES.items()},
            "until": {"named": [UNTIL_END], "min_length": 1, "max_length": MAX_UNTIL},
            "scorer": SCORERS,
            "on": BRANCH_STRATEGIES,
        },
        "consensus": {
            **{name: {"min": low, "max": high} for name, (low, high) in RANGES.items()},
            "extract": [*NAMED, *PATTERNED, SIMILAR],
            **CHOICES,
            **{name: [True, False] for name in FLAGS},
        },
        "profile": None if profile is None else {"id": profile.id, **profile.as_dict()},
        "quantile_levels": QUANTILE_LEVELS,
        "answer": list(NAMED),
        "strategies": [strategy.label for strategy in Strategy],
        "hesitation": {"signal": HESITATION_SIGNAL, "from": HESITATION, "unit": "bits"},
        "signals": [
            {"name": s.name, "unit": s.unit, "group": s.group, "help": s.help, "metric": s.metric}
            for s in SIGNALS
        ],
    }


def _formula(row: OneFormula) -> dict[str, Any]:
    """Returns a policy with one formula in words: the parameter it sets, how, and its numbers' defaults."""
    numbers = FormulaParams()
    limits = ("temperature_min", "temperature_max") if row.sets == "temperature" else ()
    return {
        "sets": row.sets,
        "formula": row.meaning,
        "parameters": {
            **{name: getattr(numbers, name) for name in row.names},
            **{name: getattr(FORMULA_BASE, name) for name in limits},
        },
    }


def _names(branch: BranchConfig) -> list[str]:
    """Returns the strategies that open branches, in order."""
    return [strategy.label for strategy in Strategy if strategy in branch.on]
