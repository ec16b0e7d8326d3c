"""Calibration: from measured tokens to a profile of quantiles, cut points and a discriminant for CLARIFY.

Knows nothing about models: it gets a table of signals, a row a token, and for CLARIFY labels that say at
which tokens a clarifying question would have been right and at which the model merely had a free choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from .profile import DEFAULT_CLARIFY_TEXT, QUANTILE_LEVELS, Profile
from .signals import POLICY_SIGNALS

_H: Final = 0
_V: Final = 1
_UNREAD: Final = frozenset({"attention_to_previous"})
"""Signals that have quantiles, and that no formula of the policy reads."""
MIN_LABELLED: Final = 20
"""Positions of each kind below which no discriminant is fitted."""


@dataclass(frozen=True, slots=True)
class MeasuredTokens:
    """The N tokens that calibration measured.

    ``values`` float64 [N, S]: their signals, in the order of POLICY_SIGNALS. ``valid`` bool [N, S]: False
    where a signal was not measured and its value says nothing. ``ambiguous`` bool [N]: a clarifying question
    would be right at this token.
    """

    values: Tensor
    valid: Tensor
    ambiguous: Tensor


def fit(
    measured: MeasuredTokens,
    *,
    model_hash: str,
    data_hash: str,
    layers: Sequence[int],
    date: str,
    clarify_text: str = DEFAULT_CLARIFY_TEXT,
) -> Profile:
    """Returns the profile of the measured tokens: quantiles, cut points, and where labels allow it weights.

    A token whose logits were not measured is left out; a signal that was measured nowhere gets no quantiles
    and no weight. Raises ValueError for fewer than 100 tokens: quantiles of less mean nothing.
    """
    known = measured.valid[:, [_H, _V]].all(1)
    lost, n = int((~known).sum()), int(known.sum())
    if n < 100:
        raise ValueError(f"calibration needs at least 100 measured tokens, got {n}")
    measured = MeasuredTokens(measured.values[known], measured.valid[known], measured.ambiguous[known])
    quantiles = {
        signal.name: tuple(_quantiles(measured.values[measured.valid[:, i], i]))
        for i, signal in enumerate(POLICY_SIGNALS)
        if bool(measured.valid[:, i].any())
    }
    thresholds, notes = cut_points(measured)
    if lost:
        notes.append(f"{lost} tokens left out: their figures were lost")
    if absent := [signal.name for signal in POLICY_SIGNALS if signal.name not in quantiles]:
        notes.append(f"not measured on the engine that calibrated, without ranks: {', '.join(absent)}")
    profile = Profile(
        model_hash=model_hash,
        data_hash=data_hash,
        layers=tuple(layers),
        date=date,
        tokens=n,
        quantiles=quantiles,
        thresholds=thresholds,
        clarify_text=clarify_text,
    )
    weights, bias, more = _discriminant(measured, profile)
    return replace(profile, clarify_weights=weights, clarify_bias=bias, notes=(*notes, *more))


def _quantiles(values: Tensor) -> list[float]:
    levels = torch.tensor(QUANTILE_LEVELS, dtype=torch.float64)
    return [float(q) for q in torch.quantile(values.to(torch.float64)[: 1 << 23], levels)]


def _at(values: Tensor, level: float) -> float:
    return float(torch.quantile(values.to(torch.float64)[: 1 << 23], level))


def cut_points(measured: MeasuredTokens) -> tuple[dict[str, float], list[str]]:
    """Returns the thresholds of the five regions from the distribution of (H, V), and notes for the profile.

    GREEDY takes the half of the tokens that is surest. Among the others ("open" tokens) the varentropy
    says whether the doubt is spread evenly (low: a choice, CLARIFY's side) or lopsided (high: EXPLORE and
    HIGH_UNCERTAINTY, split by entropy). The literal CLARIFY needs V < 0.1, which leaked tail mass alone
    forbids: hence cut points relative to the model's own open tokens. With labelled ambiguous tokens,
    CLARIFY's corner is put where it holds at least 95 % of them on either axis; without any, nothing says
    that a question would be right, and the corner is kept small (the highest 5 % of H, the lowest 25 % of V).
    """
    h, v = measured.values[:, _H], measured.values[:, _V]
    greedy_h = max(min(_at(h, 0.5), 0.5), 0.01)
    sure = h < greedy_h
    greedy_v = max(_at(v[sure], 0.95), 0.1) if bool(sure.any()) else 0.1
    is_open = h >= greedy_h
    if int(is_open.sum()) < 20:
        is_open = torch.ones_like(sure)
    h_open, v_open = h[is_open], v[is_open]
    uneven = max(_at(v_open, 0.80), greedy_v)
    wide = _at(h_open[v_open > uneven], 0.60) if bool((v_open > uneven).any()) else _at(h_open, 0.90)
    clarify_h, clarify_v = _at(h_open, 0.95), min(_at(v_open, 0.25), uneven)
    notes = ["cut points from quantiles of the open tokens (entropy above the greedy cut)"]
    if int(measured.ambiguous.sum()) >= MIN_LABELLED:
        clarify_h = min(_at(h[measured.ambiguous], 0.05), _at(h_open, 0.60))
        clarify_v = min(_at(v[measured.ambiguous], 0.95), uneven)
        notes.append("the corner of CLARIFY holds 95 % of the labelled tokens on either axis")
    return {
        "greedy_entropy": greedy_h,
        "greedy_varentropy": min(greedy_v, uneven),
        "clarify_entropy": max(clarify_h, greedy_h),
        "clarify_varentropy": clarify_v,
        "explore_entropy": wide,
        "explore_varentropy": uneven,
        "high_uncertainty_entropy": wide,
        "high_uncertainty_varentropy": uneven,
    }, notes


def _discriminant(measured: MeasuredTokens, profile: Profile) -> tuple[Mapping[str, float], float, list[str]]:
    """Returns weights, bias and notes of the line between ambiguous tokens and others in CLARIFY's corner.

    Over the signals that were measured and are read, and the tokens that have all of these. True entropy and
    varentropy cannot tell an ambiguous question from a free choice of the same size; the attention may.
    """
    h, v = measured.values[:, _H], measured.values[:, _V]
    t = profile.thresholds
    read = profile.quantiles.keys() - _UNREAD
    columns = [i for i, signal in enumerate(POLICY_SIGNALS) if signal.name in read]
    corner = (h > t["clarify_entropy"]) & (v < t["clarify_varentropy"])
    corner &= measured.valid[:, columns].all(1)
    positive, negative = corner & measured.ambiguous, corner & ~measured.ambiguous
    if int(positive.sum()) < MIN_LABELLED or int(negative.sum()) < MIN_LABELLED:
        return {}, 1.0, ["no discriminant for CLARIFY: too few labelled tokens"]
    signals = measured.values[corner][:, columns].to(torch.float64)
    label = measured.ambiguous[corner]
    weights, bias = separate(signals, label)
    score = signals @ weights + bias
    hit = float((score[label] > 0).double().mean())
    false = float((score[~label] > 0).double().mean())
    names = [POLICY_SIGNALS[i].name for i in columns]
    return (
        {name: round(float(weight), 6) for name, weight in zip(names, weights, strict=True)},
        round(bias, 6),
        [
            f"discriminant of CLARIFY on the calibration file: {hit:.1%} of {int(positive.sum())} ambiguous "
            f"and {false:.1%} of {int(negative.sum())} other tokens in its corner pass"
        ],
    )


def separate(signals: Tensor, label: Tensor) -> tuple[Tensor, float]:
    """Returns weights [K] and a bias such that signals [N, K] @ weights + bias > 0 means label [N] (bool).

    Logistic regression (:func:`logistic`) with a penalty of 1e-2 a row. The bias then puts the cut where at
    most 5 % of the unlabelled pass, or at the logistic boundary if that is stricter.
    """
    weights, bias = logistic(signals, label, 1e-2)
    cut = max(_at((signals @ weights + bias)[~label], 0.95), 0.0)
    return weights, bias - cut


def logistic(
    signals: Tensor, label: Tensor, strength: float, cost: Tensor | None = None
) -> tuple[Tensor, float]:
    """Returns weights [K] and a bias of a logistic regression of label [N] (bool) on signals [N, K].

    :func:`newton` on standardised signals.
    """
    mean, std = signals.mean(0), signals.std(0).clamp_min(1e-6)
    scaled, bias = newton((signals - mean) / std, label, strength, cost)
    weights = scaled / std
    return weights, bias - float((weights * mean).sum())


def newton(
    signals: Tensor, label: Tensor, strength: float, cost: Tensor | None = None
) -> tuple[Tensor, float]:
    """Returns weights [K] and a bias of a logistic regression of label [N] on signals [N, K] as they are.

    Both classes have equal weight, and within a class each row the share that ``cost`` [N] gives it (None:
    all alike); Newton steps with an L2 penalty of ``strength`` a row.
    """
    wanted = label.to(torch.float64)
    cost = torch.ones_like(wanted) if cost is None else cost
    totals = torch.where(label, (cost * wanted).sum(), (cost * (1 - wanted)).sum())
    balance = 0.5 * len(label) * cost / totals
    x = torch.cat([signals, torch.ones(len(signals), 1, dtype=torch.float64)], dim=1)
    penalty = torch.full((x.shape[1],), strength * len(signals), dtype=torch.float64)
    penalty[-1] = 0.0
    w = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(25):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (balance * (p - wanted)) + penalty * w
        hessian = x.T @ ((balance * p * (1 - p)).unsqueeze(1) * x) + torch.diag(penalty + 1e-9)
        step = torch.linalg.solve(hessian, gradient)
        w = w - step
        if float(step.abs().max()) < 1e-9:
            break
    return w[:-1], float(w[-1])
