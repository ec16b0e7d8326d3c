"""THE table of signals: every signal once, with its unit, shape, meaning and buckets.

The wire protocol, the Prometheus collectors, the documentation and the columns of
:class:`~entropick_sampler.stats.StepStats` are generated from these rows; nothing else may list signals.
The reference implementations named here are float64 and importable (docs/reference.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Group = Literal["logits", "attention", "token", "reply", "window"]


@dataclass(frozen=True, slots=True)
class Signal:
    """A number that is measured of each token.

    ``group`` says from what it is measured: ``logits`` [V], ``attention`` [layers, heads, keys], the emitted
    ``token`` (known only after the draw), the ``reply`` before the token, or a rolling ``window`` of the
    reply's steps up to the one that drew the token. ``buckets`` are upper bounds of the Prometheus histogram,
    in the signal's unit.
    """

    name: str
    unit: str
    group: Group
    help: str
    reference: str
    buckets: tuple[float, ...]
    panel: str
    metric: str

    @property
    def known_before_draw(self) -> bool:
        """True if the signal is a column of StepStats, which the formulas of ``decide`` read."""
        return self.group in ("logits", "attention")


_BITS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0)
_BITS2 = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
_EXCESS = (-8.0, -4.0, -2.0, -1.0, -0.5, -0.25, -0.1, -0.01, 0.01, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_UNIT = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_SHARE = (0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
_VAR = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_SCORE = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
_LENGTH = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
_SMALL = (0.0003, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_G = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
_COST = (0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)
_RELATIVE = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)

SIGNALS: Final[tuple[Signal, ...]] = (
    Signal(
        "logits_entropy",
        "bits",
        "logits",
        "Shannon entropy of the next-token distribution after masks, before penalties and filters.",
        "entropick_kernels.logits_stats.reference.logits_entropy",
        _BITS,
        "Logits",
        "entropick_logits_entropy_bits",
    ),
    Signal(
        "logits_varentropy",
        "bits^2",
        "logits",
        "Variance of the surprisal under the same distribution: sum p (log2 p + H)^2.",
        "entropick_kernels.logits_stats.reference.logits_varentropy",
        _BITS2,
        "Logits",
        "entropick_logits_varentropy_bits2",
    ),
    Signal(
        "surprisal",
        "bits",
        "token",
        "-log2 p of the token that was emitted, under the measured distribution.",
        "entropick_kernels.logits_stats.reference.surprisal",
        _BITS,
        "Logits",
        "entropick_surprisal_bits",
    ),
    Signal(
        "excess_surprisal",
        "bits",
        "token",
        "Surprisal of the emitted token minus the entropy of its distribution: about 0 where the model chose "
        "freely among equals, large where it had to be right and was not sure, below 0 for a likely token.",
        "entropick_kernels.logits_stats.reference.excess_surprisal",
        _EXCESS,
        "Logits",
        "entropick_excess_surprisal_bits",
    ),
    Signal(
        "repeated_suffix",
        "tokens",
        "reply",
        "Length of the longest run of newest tokens, before this token, that stood in the reply before; at "
        "most 32, within its newest 1024 tokens.",
        "entropick_sampler.repetition.repeated_suffix_reference",
        _LENGTH,
        "Reply",
        "entropick_repeated_suffix_tokens",
    ),
    Signal(
        "attention_entropy",
        "bits",
        "attention",
        "Entropy of a query head's attention over the valid keys of the newest query; "
        "mean over heads, then over the monitored layers.",
        "entropick_kernels.attention_stats.reference.attention_entropy",
        _BITS,
        "Attention",
        "entropick_attention_entropy_bits",
    ),
    Signal(
        "attention_entropy_normalized",
        "ratio",
        "attention",
        "Each head's attention entropy over log2(valid keys), 0 where there is one key; "
        "mean over heads, then over the monitored layers.",
        "entropick_kernels.attention_stats.reference.attention_entropy_normalized",
        _UNIT,
        "Attention",
        "entropick_attention_entropy_normalized_ratio",
    ),
    Signal(
        "attention_varentropy",
        "bits^2",
        "attention",
        "Population variance over query heads of the attention entropy; mean over the monitored layers.",
        "entropick_kernels.attention_stats.reference.attention_varentropy",
        _VAR,
        "Attention",
        "entropick_attention_varentropy_bits2",
    ),
    Signal(
        "agreement",
        "ratio",
        "attention",
        "1 - mean over heads of half the L1 distance between a head's attention and the mean head; "
        "mean over the monitored layers.",
        "entropick_kernels.attention_stats.reference.agreement",
        _UNIT,
        "Attention",
        "entropick_agreement_ratio",
    ),
    Signal(
        "agreement_seed",
        "probability",
        "attention",
        "Mean absolute difference of the heads' attention from the mean head over heads and valid keys "
        "(the 2024 guide's formula, a DISagreement that shrinks with the context); read by preset seed only.",
        "entropick_kernels.attention_stats.reference.agreement_seed",
        _SMALL,
        "Attention",
        "entropick_agreement_seed_probability",
    ),
    Signal(
        "interaction_strength",
        "score",
        "attention",
        "Mean absolute attention score entering the softmax (after scaling and softcap) over valid keys and "
        "heads; mean over the monitored layers.",
        "entropick_kernels.attention_stats.reference.interaction_strength",
        _SCORE,
        "Attention",
        "entropick_interaction_strength_score",
    ),
    Signal(
        "attention_to_previous",
        "probability",
        "attention",
        "Attention of the newest token to the token just before it, mean over heads, then over the monitored "
        "layers; absent where that token does not exist or lies outside a layer's sliding window.",
        "entropick_kernels.attention_stats.reference.attention_to_previous",
        _SHARE,
        "Attention",
        "entropick_attention_to_previous_probability",
    ),
    Signal(
        "genuineness",
        "score",
        "window",
        "G: population variance of a head's attention_entropy_normalized over the last 64 steps, plus the "
        "share of steps at which it fell by more than 0.2; mean over the heads of the monitored layers.",
        "entropick_sampler.genuineness.reference.genuineness",
        _G,
        "Genuineness",
        "entropick_genuineness_score",
    ),
    Signal(
        "entropy_variance",
        "ratio^2",
        "window",
        "The variance in genuineness, mean over the heads of the monitored layers.",
        "entropick_sampler.genuineness.reference.entropy_variance",
        _G,
        "Genuineness",
        "entropick_entropy_variance_ratio2",
    ),
    Signal(
        "collapse_rate",
        "ratio",
        "window",
        "The share of collapses in genuineness, mean over the heads of the monitored layers.",
        "entropick_sampler.genuineness.reference.collapse_rate",
        _SHARE,
        "Genuineness",
        "entropick_collapse_rate_ratio",
    ),
    Signal(
        "genuineness_seed",
        "score",
        "window",
        "genuineness of the attention entropy in bits: the source's form, which calls uniform attention near "
        "the beginning of a text genuine; for requests that ask for it.",
        "entropick_sampler.genuineness.reference.genuineness_seed",
        _VAR,
        "Genuineness",
        "entropick_genuineness_seed_score",
    ),
    Signal(
        "entropy_window_variance",
        "bits^2",
        "window",
        "Population variance of logits_entropy over the last 64 steps.",
        "entropick_sampler.genuineness.reference.entropy_window_variance",
        _BITS2,
        "Genuineness",
        "entropick_entropy_window_variance_bits2",
    ),
    Signal(
        "token_cost",
        "bits",
        "window",
        "Surprisal of the text that a head looks at: sum over keys of attention times surprisal, mean over "
        "the last 64 steps, then over the heads of the monitored layers; for requests that ask for it.",
        "entropick_sampler.genuineness.reference.token_cost",
        _COST,
        "Genuineness",
        "entropick_token_cost_bits",
    ),
    Signal(
        "token_cost_relative",
        "ratio",
        "window",
        "The token cost of each step over the mean surprisal of the visible keys, which uniform attention "
        "has; mean over heads, then over the last 64 steps; for requests that ask for it.",
        "entropick_sampler.genuineness.reference.token_cost_relative",
        _RELATIVE,
        "Genuineness",
        "entropick_token_cost_relative_ratio",
    ),
    Signal(
        "sink_mass",
        "ratio",
        "window",
        "Attention to the first token of the text, whose surprisal counts 0; mean over heads, then over the "
        "last 64 steps; for requests that ask for it.",
        "entropick_sampler.genuineness.reference.sink_mass",
        _UNIT,
        "Genuineness",
        "entropick_sink_mass_ratio",
    ),
)
"""Every signal, in the order of a telemetry row; signals of a window come last."""

SIGNAL_NAMES: Final[tuple[str, ...]] = tuple(s.name for s in SIGNALS)
STEP_SIGNALS: Final[tuple[Signal, ...]] = tuple(s for s in SIGNALS if s.group != "window")
"""The signals that a sampling step measures, the first of all."""
WINDOW_SIGNALS: Final[tuple[Signal, ...]] = tuple(s for s in SIGNALS if s.group == "window")
"""The signals of a rolling window, which :mod:`.genuineness` computes beside the step."""
POLICY_SIGNALS: Final[tuple[Signal, ...]] = tuple(s for s in SIGNALS if s.known_before_draw)
"""The signals that the formulas of ``decide`` see: the columns of StepStats.values."""
ATTENTION_SIGNALS: Final[tuple[Signal, ...]] = tuple(s for s in SIGNALS if s.group == "attention")
"""Columns of the per-layer attention statistics that the kernels return, in their order."""

HESITATION_SIGNAL: Final = "surprisal"
HESITATION: Final = 1.0
"""The surprisal (bits) from which on the model is said to hesitate: the token had at most an even chance."""
