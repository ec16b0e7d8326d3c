"""The dashboard of genuineness: the plane of token cost and G, collapses, quadrants (docs/glossary.md)."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import xychart
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.xychart import ScatterShow, SeriesMapping

from entropick_sampler.signals import SIGNALS

from .page import Row, page
from .panels import (
    HEIGHT,
    MODEL,
    PROMETHEUS,
    AnyPanel,
    Query,
    number,
    quantiles,
    rate,
    stacked,
    target,
    time_series,
)
from .uncertainty import signal_panels

_PARTS = (
    ("genuineness score", "G, mean over the monitored heads", "genuineness_score"),
    (
        "token cost (bits)",
        "Token cost, mean over the monitored heads; of requests that ask for it",
        "token_cost_bits",
    ),
    (
        "collapse rate",
        "Share of steps at which a head's attention entropy fell, mean over heads",
        "collapse_rate_ratio",
    ),
    ("sink mass", "Attention to the first token; of requests that ask for the token cost", "sink_mass_ratio"),
)


def genuineness() -> Dashboard:
    """Returns the dashboard ``entropick: genuineness``."""
    window = [panel for signal in SIGNALS if signal.group == "window" for panel in signal_panels(signal)]
    return page(
        "entropick-genuineness",
        "entropick: genuineness",
        "How the attention of the heads moves, and what the text that they look at costs. Only a change "
        "means something: a third of the calibration's windows is transition by construction.",
        [
            Row("The plane", _plane()),
            Row("Quadrants and collapses", _shares()),
            Row("Running choices, by slot", _live()),
            Row("By layer", _layers()),
            Row("Finished requests", _requests()),
            Row("Every token, by strategy", window, collapsed=True),
        ],
    )


def _plane() -> list[AnyPanel]:
    cuts = [
        number(title, why, Query(f'max(entropick_calibration_threshold{{{MODEL}, threshold="{name}"}})'))
        for title, why, name in (
            ("Genuine from", "G from which a head is genuine.", "genuineness_genuine"),
            ("Mechanical up to", "G up to which a head is mechanical.", "genuineness_mechanical"),
            ("Committed from", "Token cost from which a head is committed, bits.", "genuineness_cost"),
        )
    ]
    return [
        _scatter(
            "Running choices in the plane",
            "A dot a running choice: token cost (bits) against G.",
            f"sum by (slot) (entropick_live_token_cost_bits{{{MODEL}}})",
            f"sum by (slot) (entropick_live_genuineness_score{{{MODEL}}})",
        ),
        _scatter(
            "Layers in the plane",
            "A dot a layer, mean over the running choices: token cost (bits) against G.",
            f"avg by (layer) (entropick_layer_token_cost_bits{{{MODEL}}})",
            f"avg by (layer) (entropick_layer_genuineness_score{{{MODEL}}})",
        ),
        *cuts,
    ]


def _scatter(title: str, why: str, x: str, y: str) -> AnyPanel:
    panel = (
        xychart.Panel()
        .title(title)
        .description(why)
        .datasource(PROMETHEUS)
        .height(HEIGHT + 4)
        .span(12)
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .show(ScatterShow.POINTS)
        .series_mapping(SeriesMapping.MANUAL)
        .series([xychart.ScatterSeriesConfig().x("Value #A").y("Value #B").name("G")])
    )
    for ref_id, expr in (("A", x), ("B", y)):
        panel = panel.with_target(target(Query(expr), ref_id, PromQueryFormat.TABLE))
    return panel


def _shares() -> list[AnyPanel]:
    return [
        stacked(
            "Quadrants",
            "Share of the windows of all heads in each quadrant, over 10 minutes.",
            [Query(f"entropick:quadrant_share:ratio_rate10m{{{MODEL}}}", "{{quadrant}}")],
            "percentunit",
        ),
        time_series(
            "Collapse rate and its baseline",
            "Mean collapse rate of finished requests over 10 minutes, and over the day up to an hour ago.",
            [
                Query(f"entropick:collapse_rate:mean_rate10m{{{MODEL}}}", "now"),
                Query(f"entropick:collapse_rate:baseline1d{{{MODEL}}}", "baseline"),
            ],
            "percentunit",
        ),
        time_series(
            "Collapses a token",
            "Heads whose attention entropy collapsed in a step, a generated token in the mean.",
            [
                Query(
                    f"sum(rate(entropick_head_collapses_total{{{MODEL}}}[$__rate_interval])) / "
                    f"sum(rate(entropick_generation_tokens_total{{{MODEL}}}[$__rate_interval]))",
                    "heads",
                )
            ],
        ),
        time_series(
            "Drift of the quadrants and its baseline",
            "Jensen-Shannon divergence of genuine, mechanical and transition from a third each, bits.",
            [
                Query(f"entropick:region_drift:js_rate10m{{{MODEL}}}", "now"),
                Query(f"entropick:region_drift:baseline1d{{{MODEL}}}", "baseline"),
            ],
        ),
        time_series(
            "Elaboration pulls",
            "Choices a second whose G fell from their beginning to their end.",
            [rate("entropick_elaboration_pull_total", legend="pulls")],
        ),
    ]


def _live() -> list[AnyPanel]:
    panels: list[AnyPanel] = [
        time_series(
            f"{title} by slot",
            f"{why}, of every running choice.",
            [Query(f"entropick_live_{name}{{{MODEL}}}", "slot {{slot}}")],
        ).span(12)
        for title, why, name in _PARTS
    ]
    shares = f"avg by (quadrant) (entropick_live_quadrant_share_ratio{{{MODEL}}})"
    return [
        *panels,
        stacked(
            "Quadrants of the running choices",
            "Mean share of the heads in each quadrant.",
            [Query(shares, "{{quadrant}}")],
            "percentunit",
        ).span(24),
    ]


def _layers() -> list[AnyPanel]:
    return [
        time_series(
            f"{title} by layer",
            f"{why}; a line a layer, mean over running choices.",
            [Query(f"avg by (layer) (entropick_layer_{name}{{{MODEL}}})", "layer {{layer}}")],
        ).span(12)
        for title, why, name in _PARTS[:2]
    ]


def _requests() -> Sequence[AnyPanel]:
    return [
        time_series(
            f"{title} of requests", f"{why}, at the end of a choice.", quantiles(f"entropick_request_{name}")
        )
        for title, why, name in _PARTS[:3]
    ]
