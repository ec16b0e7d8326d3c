"""The metrics of genuineness: gauges that follow a choice and go with it, and what is counted at its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open

from entropick_sampler.genuineness.counts import HeadCounts
from entropick_sampler.genuineness.quadrants import Quadrant
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_server.engine.types import (
    EngineGauges,
    FinishReason,
    GenerationDefaults,
    ModelInfo,
    RequestOutput,
    StepReport,
    Token,
    WatchedLayers,
)
from entropick_server.metrics import ChoiceFigures, GenuinenessFigures, Metrics, ServerFacts

COSTED = HeadCounts(6, 2, 4, 3, 1, 0, 2)
PLAIN = HeadCounts(6, 2, 2, 0, 0, 0, 0)


@pytest.fixture
def metrics() -> Metrics:
    model = ModelInfo(
        "m", "folder", "llama", 64, 300, (1,), (0, 1), 10, "float32", "cpu", GenerationDefaults(), 0
    )
    found = Metrics()
    found.bind(model, None, ServerFacts("1", "embedded", 8, True), lambda: EngineGauges(0, 0, 0, 8))
    return found


def token(counts: HeadCounts | None) -> Token:
    figures = {"genuineness": 0.25, "token_cost": 3.0, "collapse_rate": 0.05, "sink_mass": 0.4}
    return Token(65, -1.0, tuple(figures.get(name) for name in SIGNAL_NAMES), None, None, counts=counts)


def report(*rows: tuple[str, int, HeadCounts | None], running: int = 1, **more: Any) -> StepReport:
    outputs = tuple(RequestOutput(name, (token(counts),)) for name, _, counts in rows)
    return StepReport(
        outputs, tuple(slot for _, slot, _ in rows), EngineGauges(running, 0, 1, 8), (), 0.01, **more
    )


def ended(name: str, slot: int, running: int = 0) -> StepReport:
    output = RequestOutput(name, (token(COSTED),), FinishReason.STOP)
    return StepReport((output,), (slot,), EngineGauges(running, 0, 1, 8), (), 0.01)


def page(metrics: Metrics, prefix: str) -> dict[tuple[str, ...], float]:
    """The samples whose names begin so: name and labels but the model's, in their order -> value."""
    text, _ = metrics.snapshot().encode("application/openmetrics-text; version=1.0.0")
    return {
        (s.name.removeprefix("entropick_"), *(v for k, v in s.labels.items() if k != "model_name")): s.value
        for family in parse_open(text.decode())
        for s in family.samples
        if s.name.startswith(f"entropick_{prefix}")
    }


def test_a_slots_shares_follow_its_choice_and_go_with_it(metrics: Metrics) -> None:
    metrics.on_step(report(("a", 0, COSTED), ("b", 3, PLAIN), running=2))
    shares = page(metrics, "live_quadrant")
    name = "live_quadrant_share_ratio"
    counts = (3, 1, 0, 2, 4)
    assert shares == {
        **{(name, q.label, "0"): n / 10 for q, n in zip(Quadrant, counts, strict=True)},
        (name, "genuine", "3"): 0.6,
        (name, "mechanical", "3"): 0.2,
        (name, "transition", "3"): 0.2,
    }
    for signal, value in (
        ("genuineness_score", 0.25),
        ("token_cost_bits", 3.0),
        ("collapse_rate_ratio", 0.05),
        ("sink_mass_ratio", 0.4),
    ):
        assert page(metrics, f"live_{signal}") == {(f"live_{signal}", slot): value for slot in ("0", "3")}
    metrics.on_step(ended("a", 0, running=1))
    assert {slot for _, _, slot in page(metrics, "live_quadrant")} == {"3"}
    # a preempted choice comes back in another slot
    metrics.on_step(replace(report(), preempted=("b",)))
    assert not page(metrics, "live_")
    metrics.on_step(report(("b", 1, COSTED)))
    assert {slot for _, _, slot in page(metrics, "live_quadrant")} == {"1"}
    # a choice whose heads have no figure has no shares, rather than old ones
    metrics.on_step(report(("b", 1, None)))
    assert not page(metrics, "live_quadrant")
    metrics.on_step(report(("b", 1, COSTED)))
    metrics.on_end("b", "cancelled", 1.0, ChoiceFigures(1, 0, 1, 1))
    assert not page(metrics, "live_")


def test_collapses_are_counted_as_they_come(metrics: Metrics) -> None:
    assert page(metrics, "head_collapses") == {("head_collapses_total",): 0}, "the series begins at 0"
    fell = replace(token(PLAIN), collapsed=3)
    step = report(("a", 0, PLAIN), ("b", 1, PLAIN))
    metrics.on_step(replace(step, outputs=(step.outputs[0], replace(step.outputs[1], tokens=(fell, fell)))))
    metrics.on_step(report(("a", 0, PLAIN)))
    assert page(metrics, "head_collapses") == {("head_collapses_total",): 6}
    assert page(metrics, "generation_tokens") == {("generation_tokens_total",): 4}


def test_layers_last_as_long_as_something_runs(metrics: Metrics) -> None:
    layers = WatchedLayers((0, 5), (0.125, 0.5), (2.5, None))
    metrics.on_step(report(("a", 0, COSTED), layers=layers))
    metrics.on_step(report(("a", 0, COSTED)))
    assert page(metrics, "layer_") == {
        ("layer_genuineness_score", "0"): 0.125,
        ("layer_genuineness_score", "5"): 0.5,
        ("layer_token_cost_bits", "0"): 2.5,
    }
    metrics.on_step(ended("a", 0))
    assert not page(metrics, "layer_")


def test_choices_count_at_their_end(metrics: Metrics) -> None:
    figures = [
        GenuinenessFigures(0.25, 3.0, 0.05, {"genuine_diffuse": 7, "transition": 5}, True),
        GenuinenessFigures(0.5, None, 0.0, {"genuine": 2, "transition": 1}, False),
        GenuinenessFigures(None, None, None, {}, False),
    ]
    for i, of_choice in enumerate(figures):
        metrics.choices.on_begin(f"c-{i}")
        metrics.choices.on_ran(f"c-{i}")
        assert metrics.on_end(f"c-{i}", "stop", 1.0, ChoiceFigures(1, 0, 1, 1, of_choice))
    # refused: it never ran
    metrics.choices.on_begin("d")
    assert not metrics.on_end("d", "error", 1.0, ChoiceFigures(1, 0, 0, 1, figures[0]))
    heads = page(metrics, "head_quadrant_total")
    assert len(heads) == 7, "every series begins at 0"
    assert {labels: count for labels, count in heads.items() if count} == {
        ("head_quadrant_total", "genuine_diffuse"): 7,
        ("head_quadrant_total", "transition"): 6,
        ("head_quadrant_total", "genuine"): 2,
    }
    assert page(metrics, "elaboration_pull_total") == {("elaboration_pull_total",): 1}
    for name, count, total in (
        ("request_genuineness_score", 2, 0.75),
        ("request_token_cost_bits", 1, 3.0),
        ("request_collapse_rate_ratio", 2, 0.05),
    ):
        found = page(metrics, name)
        assert (found[(f"{name}_count",)], found[(f"{name}_sum",)]) == (count, pytest.approx(total))
