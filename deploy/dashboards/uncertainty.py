"""The dashboard of the model's uncertainty: strategies, drift from the calibration, signals by strategy."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard

from entropick_sampler.signals import SIGNALS, Signal

from .page import Row, page
from .panels import MODEL, AnyPanel, Query, buckets, number, quantiles, rate, rows, stacked, time_series


def uncertainty() -> Dashboard:
    """Returns the dashboard ``entropick: uncertainty``."""
    groups = dict.fromkeys(signal.panel for signal in SIGNALS if signal.group != "window")
    return page(
        "entropick-uncertainty",
        "entropick: uncertainty",
        "How sure the model is, what the policy makes of it, and whether it is as it was calibrated.",
        [
            Row("At a glance", _glance()),
            Row("Strategies", _strategies()),
            Row("Against the calibration", _drift()),
            *(Row(group, list(_signals(group)), collapsed=group != "Logits") for group in groups),
            Row("Clarifying texts, branches, votes", _actions()),
        ],
    )


def _glance() -> list[AnyPanel]:
    return [
        number(
            "Highly uncertain",
            "Share of the drawn tokens with strategy high_uncertainty, over 10 minutes.",
            Query(f"max(entropick:high_uncertainty_share:ratio_rate10m{{{MODEL}}})"),
            "percentunit",
        ),
        number(
            "Mean entropy",
            "Mean entropy of the next-token distribution in bits, over 10 minutes.",
            Query(f"max(entropick:logits_entropy_bits:mean_rate10m{{{MODEL}}})"),
        ),
        number(
            "Entropy drift",
            "Population stability index of the entropy against the calibration, over 30 minutes; above 0.25 "
            "it has shifted.",
            Query(f'max(entropick:signal_drift:psi30m{{{MODEL}, signal="logits_entropy"}})'),
        ),
        number(
            "Clarified",
            "Clarifying texts a choice, over 10 minutes.",
            Query(f"max(entropick:clarifying_texts:ratio_rate10m{{{MODEL}}})"),
            "percentunit",
        ),
    ]


def _strategies() -> list[AnyPanel]:
    return [
        stacked(
            "Strategies",
            "Share of the drawn tokens that each strategy picked, over 10 minutes.",
            [Query(f"entropick:strategy_share:ratio_rate10m{{{MODEL}}}", "{{strategy}}")],
            "percentunit",
        ),
        time_series(
            "Highly uncertain tokens and their baseline",
            "Their share over 10 minutes, and its mean over the day up to an hour ago.",
            [
                Query(f"entropick:high_uncertainty_share:ratio_rate10m{{{MODEL}}}", "now"),
                Query(f"entropick:high_uncertainty_share:baseline1d{{{MODEL}}}", "baseline"),
            ],
            "percentunit",
        ),
        stacked(
            "Tokens by strategy",
            "Tokens a second, by the strategy that picked them (none: the policy was off).",
            [rate("entropick_tokens_total", "strategy")],
        ),
    ]


def _drift() -> list[AnyPanel]:
    return [
        time_series(
            "Entropy and its calibration",
            "Median entropy over 10 minutes beside two quantiles of the calibration text, bits.",
            [
                Query(f"entropick:logits_entropy_bits:median_rate10m{{{MODEL}}}", "median now"),
                *(
                    Query(
                        "max by (model_name) (entropick_calibration_quantile"
                        f'{{{MODEL}, signal="logits_entropy", level="{level}"}})',
                        f"calibration {level}",
                    )
                    for level in ("0.5", "0.9")
                ),
            ],
        ),
        time_series(
            "Drift of every signal",
            "Population stability index over 30 minutes: 0 as calibrated, above 0.25 shifted.",
            [Query(f"entropick:signal_drift:psi30m{{{MODEL}}}", "{{signal}}")],
        ),
        time_series(
            "Entropy drift and its baseline",
            "The index of the entropy, and its mean over the day up to an hour ago.",
            [
                Query(f'entropick:signal_drift:psi30m{{{MODEL}, signal="logits_entropy"}}', "now"),
                Query(f'entropick:signal_drift:baseline1d{{{MODEL}, signal="logits_entropy"}}', "baseline"),
            ],
        ),
        rows(
            "Where the entropy fell",
            "Share of the tokens in each bin of the profile, now and of the calibration text.",
            [
                Query(
                    "sum by (level) (entropick:calibration_bin_share:ratio_rate30m"
                    f'{{{MODEL}, signal="logits_entropy"}})'
                ),
                Query(f"max by (level) (entropick_calibration_bin_share_ratio{{{MODEL}}})"),
            ],
            names={"level": "up to quantile", "Value #A": "now", "Value #B": "calibration"},
        ).span(12),
        rows(
            "Thresholds in force",
            "The cut points of the profile.",
            [Query(f"max by (threshold) (entropick_calibration_threshold{{{MODEL}}})")],
        ).span(12),
    ]


def _signals(group: str) -> Iterator[AnyPanel]:
    for signal in SIGNALS:
        if signal.panel == group and signal.group != "window":
            yield from signal_panels(signal)


def signal_panels(signal: Signal) -> Iterator[AnyPanel]:
    """Yields a signal's heat map over all tokens, and its median by strategy."""
    title = signal.name.replace("_", " ")
    yield buckets(f"{title} ({signal.unit})", signal.help, signal.metric).span(12)
    yield time_series(
        f"{title} by strategy ({signal.unit})",
        f"Median of {signal.name} of the tokens of each strategy.",
        quantiles(signal.metric, (0.5,), "strategy"),
    ).span(12)


def _actions() -> list[AnyPanel]:
    replies, verdicts = (rate(f"entropick_consensus_{name}_total").expr for name in ("replies", "verdicts"))
    return [
        time_series(
            "Clarifying texts",
            "Times a second that CLARIFY inserted its text.",
            [rate("entropick_clarifying_texts_total", legend="texts")],
        ),
        stacked(
            "Rollouts of branches",
            "Rollouts a second, by what was kept: first is the reply without branching.",
            [rate("entropick_branch_rollouts_total", "kept")],
        ),
        time_series(
            "Tokens that were not kept",
            "Tokens a second of branches that lost, and of replies that lost a vote.",
            [
                rate("entropick_branch_tokens_total", legend="branches"),
                rate("entropick_consensus_tokens_total", legend="votes"),
            ],
        ),
        stacked(
            "Votes",
            "Votes a second, by why no more replies were drawn.",
            [rate("entropick_consensus_verdicts_total", "reason")],
        ),
        time_series(
            "Replies a vote",
            "Replies that took part in a vote, mean.",
            [Query(f"{replies} / {verdicts}", "replies")],
        ),
    ]
