"""Calibration of the opening score: from labelled first-token distributions to a profile's opening weights.

A labelled prompt asks for something that cannot be answered without a missing piece (``ambiguous``), looks
like that and can be answered (``look-alike``), or is any other request (``other``). What counts is not how
well the fit tells its own prompts apart, so the cut is taken from scores of prompts whose whole group was
left out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .calibrate import MIN_LABELLED, newton
from .profile import Profile

Kind = Literal["ambiguous", "look-alike", "other"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
FALSE_ALARMS: Final[dict[Kind, float]] = {"look-alike": 0.05, "other": 0.01}
"""The share of prompts at which CLARIFY may fire, on groups left out."""
RESAMPLINGS: Final = 1000
CONFIDENCE: Final = 0.95
"""The share of resamplings of the groups in which the cut holds FALSE_ALARMS. A few odd groups move a cut;
on the groups as they are this one passes about half of FALSE_ALARMS."""
TOKENS: Final = 1600
"""Tokens whose probabilities are read: the most probable first tokens over all labelled prompts. Of 200,
400, 800 and 1600 the best on groups left out (smollm2)."""
COSTS: Final[dict[Kind, float]] = {"ambiguous": 1.0, "look-alike": 1.0, "other": 4.0}
"""The weight of a prompt in the fit: a false alarm among others is dearer (2, 4 and 8 do the same)."""
STRENGTH: Final = 0.01
"""The L2 penalty a prompt; of 0.3, 0.1, 0.03 and 0.01 the best on groups left out (smollm2)."""
FOLDS: Final = 10
NO_VARIANCE: Final = 1e-8
"""Axes with less of the largest axis' variance are left out: the penalty leaves them no weight."""
_NOTE: Final = "CLARIFY at the first token"
"""how the notes about opening weights begin, which a new fit replaces"""
_LN2: Final = math.log(2.0)


@dataclass(frozen=True, slots=True)
class MeasuredOpenings:
    """The first-token distributions of N labelled prompts.

    ``logprobs`` float32 [N, V]: log probabilities, nats; ``kinds`` [N]; ``groups`` [N]: prompts of equal
    group were made from one template, or from two that are a pair, and are left out together.
    """

    logprobs: npt.NDArray[np.float32]
    kinds: tuple[Kind, ...]
    groups: tuple[str, ...]

    def of(self, kind: Kind) -> Tensor:
        """Returns which of the prompts are of a kind, bool [N]."""
        return torch.tensor([k == kind for k in self.kinds])


def with_opening(profile: Profile, measured: MeasuredOpenings) -> Profile:
    """Returns the profile with opening weights for CLARIFY in the place of any other discriminant.

    CLARIFY's corner of the (H, V) plane is opened so far that it holds 99 % of the ambiguous prompts on
    either axis. Where a kind has fewer than MIN_LABELLED prompts the profile only gets a note that says so.
    """
    counts = {kind: measured.kinds.count(kind) for kind in KINDS}
    short = [f"{count} {kind}" for kind, count in counts.items() if count < MIN_LABELLED]
    if short:
        note = f"no opening weights for CLARIFY: too few labelled prompts ({', '.join(short)})"
        return replace(profile, notes=(*profile.notes, note))
    ids = likely_tokens(measured.logprobs)
    signals = torch.from_numpy(measured.logprobs[:, ids].astype(np.float64) / _LN2)
    label = measured.of("ambiguous")
    cost = torch.tensor([COSTS[kind] for kind in measured.kinds], dtype=torch.float64)
    mean, axes = principal_axes(signals)
    reduced = (signals - mean) @ axes
    scores = left_out_scores(reduced, label, cost, measured.groups)
    cut = max(_safe_cut(scores, measured, kind, share) for kind, share in FALSE_ALARMS.items())
    along, bias = newton(reduced, label, STRENGTH, cost)
    weights = axes @ along
    bias -= float(mean @ weights)
    rates = [
        f"{float((scores[measured.of(kind)] > cut).double().mean()):.1%} of {counts[kind]} {kind} prompts"
        for kind in KINDS
    ]
    entropy, varentropy = _corner(measured.logprobs[label.numpy()])
    thresholds = {
        **profile.thresholds,
        "clarify_entropy": max(entropy, profile.thresholds["greedy_entropy"]),
        "clarify_varentropy": varentropy,
    }
    kept = [note for note in profile.notes if not note.startswith(("no discriminant", _NOTE))]
    return replace(
        profile,
        thresholds=thresholds,
        clarify_weights={},
        clarify_bias=round(bias - cut, 6),
        opening_weights={int(t): round(float(w), 6) for t, w in zip(ids, weights, strict=True)},
        notes=(*kept, f"{_NOTE}, on templates left out: {', '.join(rates)}"),
    )


def likely_tokens(logprobs: npt.NDArray[np.float32], count: int = TOKENS) -> npt.NDArray[np.int64]:
    """Returns the ids of the ``count`` tokens with the largest mean probability, ascending.

    A token without probability in some distribution is passed over.
    """
    mean = np.zeros(logprobs.shape[1])
    for row in logprobs:  # all rows at once as float64 would be gigabytes
        mean += np.exp(row, dtype=np.float64)
    mean[~np.isfinite(logprobs).all(0)] = 0.0
    best = np.argsort(-mean, kind="stable")[:count]
    return np.sort(best[mean[best] > 0])


def principal_axes(signals: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the means [K] of signals [N, K] and a basis [K, R] of their principal axes.

    (signals - means) @ basis has the inner products of the standardised signals: a penalised fit on it is the
    fit on these, in fewer dimensions. Log probabilities are linear in the last hidden state but for one
    constant, so that no more axes have any variance than that has dimensions, and one.
    """
    mean, std = signals.mean(0), signals.std(0).clamp_min(1e-6)
    scaled = (signals - mean) / std
    variance, basis = torch.linalg.eigh(scaled.T @ scaled)
    kept = basis[:, variance > variance[-1] * NO_VARIANCE]
    return mean, kept / std[:, None]


def left_out_scores(signals: Tensor, label: Tensor, cost: Tensor, groups: Sequence[str]) -> Tensor:
    """Returns the score of each row [N] from a fit without all rows of its fold; a group lies in one fold."""
    order = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    fold_of = {group: i % FOLDS for i, group in enumerate(order)}
    folds = torch.tensor([fold_of[group] for group in groups])
    scores = torch.zeros(len(signals), dtype=torch.float64)
    for fold in range(FOLDS):
        out = folds == fold
        if bool(out.any()):
            weights, bias = newton(signals[~out], label[~out], STRENGTH, cost[~out])
            scores[out] = signals[out] @ weights + bias
    return scores


def _safe_cut(scores: Tensor, measured: MeasuredOpenings, kind: Kind, share: float) -> float:
    """Returns the cut that at most a share of a kind's prompts exceed, in CONFIDENCE of the resamplings."""
    of_kind = scores.numpy()[measured.of(kind).numpy()]
    names = np.array([g for g, k in zip(measured.groups, measured.kinds, strict=True) if k == kind])
    groups = [of_kind[names == name] for name in sorted(set(names))]
    rng = np.random.default_rng(0)
    cuts = [
        np.quantile(np.concatenate([groups[g] for g in drawn]), 1 - share, method="higher")
        for drawn in rng.integers(0, len(groups), (RESAMPLINGS, len(groups)))
    ]
    return float(np.quantile(cuts, CONFIDENCE))


def _corner(logprobs: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Returns the 1 % quantile of the entropies (bits) and the 99 % quantile of the varentropies (bits^2)."""
    bits = logprobs.astype(np.float64) / _LN2
    p = np.exp2(bits)
    seen = np.where(p > 0, bits, 0.0)
    entropy = -(p * seen).sum(1)
    varentropy = (p * (seen + entropy[:, None]) ** 2).sum(1)
    return float(np.quantile(entropy, 0.01)), float(np.quantile(varentropy, 0.99))
