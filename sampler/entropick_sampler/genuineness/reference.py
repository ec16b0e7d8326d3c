"""The figures of genuineness in float64; every other implementation is checked against them.

A *series* holds a head's figures, a step a line: [T], [T, heads] or [T, layers, heads], NaN where a step has
none. The last ``window`` steps count. A head with fewer than ``least`` values in them has no figure (NaN); a
mean over heads is of those that have one, NaN where none has.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

FloatArray = npt.NDArray[np.float64]

WINDOW: Final = 64
"""Steps of a window."""
LEAST: Final = 8
"""Values that a variance or a rate is made of, at least."""
DROP: Final = 0.2
"""A larger fall of the entropy from a step to the next is a collapse; of the normalised entropy or, in form
``seed``, bits."""
TOLERANCE: Final = 1e-9
"""by which a fall must exceed the drop, so that rounding decides no tie"""
PULL_WINDOW: Final = 5
"""Scores at either end of a reply that :func:`elaboration_pull` compares."""
_CODE_FLOOR: Final = 1e-9
_CODE_COST, _CODE_SCORE = 10.0, 0.5
"""the scales of the source's code, on which it cuts"""


def normalised_entropy(entropy: ArrayLike, keys: ArrayLike) -> FloatArray:
    """Computes z = H / log2 N of attention entropies (bits) over N visible keys, 0..1.

    NaN where there is one key: such a step is left out, or it would count as a collapse to certainty.
    ``keys`` is broadcast: give it a last axis of 1 for heads.
    """
    h, n = np.broadcast_arrays(_float64(entropy), _float64(keys))
    return np.where(n > 1, h / np.log2(np.maximum(n, 2)), np.nan)


def head_entropy_variance(series: ArrayLike, *, window: int = WINDOW, least: int = LEAST) -> FloatArray:
    """Computes the population variance of a series over the window, [heads]."""
    values, count = _window(series, window, least)
    mean = np.nansum(values, axis=0) / count
    return np.asarray(np.nansum(np.square(values - mean), axis=0) / count)


def head_collapses(series: ArrayLike, *, window: int = WINDOW, drop: float = DROP) -> FloatArray:
    """Counts the falls x_t - x_(t-1) < -drop - 1e-9 between neighbouring steps of the window, [heads]."""
    values = _float64(series)[-window:]
    return np.asarray((np.diff(values, axis=0) < -drop - TOLERANCE).sum(axis=0, dtype=np.float64))


def head_collapse_rate(
    series: ArrayLike, *, window: int = WINDOW, least: int = LEAST, drop: float = DROP
) -> FloatArray:
    """Computes the collapses in the window over the values in it, 0..1, [heads]."""
    count = _window(series, window, least)[1]
    return np.asarray(head_collapses(series, window=window, drop=drop) / count)


def head_genuineness(
    series: ArrayLike, *, window: int = WINDOW, least: int = LEAST, drop: float = DROP
) -> FloatArray:
    """Computes G = :func:`head_entropy_variance` + :func:`head_collapse_rate` of each head, [heads]."""
    variance = head_entropy_variance(series, window=window, least=least)
    return variance + head_collapse_rate(series, window=window, least=least, drop=drop)


def entropy_variance(entropy: ArrayLike, keys: ArrayLike, *, window: int = WINDOW) -> float:
    """Averages the variance of the normalised entropy over heads.

    ``entropy`` [T, .., heads] in bits, ``keys`` [T, ..]: visible keys of each step and layer.
    """
    return _mean(head_entropy_variance(_normalised(entropy, keys), window=window))


def collapse_rate(entropy: ArrayLike, keys: ArrayLike, *, window: int = WINDOW) -> float:
    """Averages the collapse rate of the normalised entropy over heads; arguments as above."""
    return _mean(head_collapse_rate(_normalised(entropy, keys), window=window))


def genuineness(entropy: ArrayLike, keys: ArrayLike, *, window: int = WINDOW) -> float:
    """Averages G of the normalised entropy over heads; arguments as :func:`entropy_variance`."""
    return _mean(head_genuineness(_normalised(entropy, keys), window=window))


def genuineness_seed(entropy: ArrayLike, *, window: int = WINDOW) -> float:
    """Averages G of the entropy in bits, [T, .., heads], over heads: the source's literal form."""
    return _mean(head_genuineness(entropy, window=window))


def entropy_window_variance(entropy: ArrayLike, *, window: int = WINDOW) -> float:
    """Computes the population variance of a reply's logits entropies [T] over the window, bits^2."""
    return float(head_entropy_variance(entropy, window=window))


def token_cost(series: ArrayLike, *, window: int = WINDOW) -> float:
    """Averages the costs of steps (``head_token_cost`` of the kernels) over the window, then heads; bits.

    The form ``token_cost_sum``, the sum over steps, is that times the steps.
    """
    values, count = _window(series, window, 1)
    return _mean(np.asarray(np.nansum(values, axis=0) / count))


def token_cost_relative(series: ArrayLike, *, window: int = WINDOW) -> float:
    """Averages the relative costs (``head_token_cost_relative``) of steps [T, heads].

    The mean over heads of each step is taken first, then the mean over the window.
    """
    return _mean_of_steps(series, window)


def sink_mass(series: ArrayLike, *, window: int = WINDOW) -> float:
    """Averages the attention to position 0 (``head_sink_mass``) as :func:`token_cost_relative`; 0..1."""
    return _mean_of_steps(series, window)


def layer_collapse_rate(entropy: ArrayLike, drop: float = DROP) -> float:
    """Computes the share of neighbouring layers between which the mean head entropy falls by over ``drop``.

    ``entropy`` [layers, heads]: of one step, normalised or in bits. NaN for one layer.
    """
    of_layer = _float64(entropy).mean(axis=-1)
    if len(of_layer) < 2:
        return math.nan
    return float(head_collapses(of_layer, window=len(of_layer), drop=drop) / (len(of_layer) - 1))


class Pull(NamedTuple):
    """The change of a reply's score: mean of its first scores, of its last scores, and their difference."""

    start: float
    end: float
    delta: float


def elaboration_pull(scores: ArrayLike, window: int = PULL_WINDOW) -> Pull | None:
    """Compares the mean of the first ``window`` scores of a reply with that of the last, which may overlap.

    Returns None for fewer scores. The source calls it a pull where ``delta`` < -0.20 on its scale, G / 0.5.
    """
    known = _float64(scores)
    if len(known) < window:
        return None
    start, end = float(known[:window].mean()), float(known[-window:].mean())
    return Pull(start, end, end - start)


class CodePoint(NamedTuple):
    """The point of a head in the plane of the source's code, and the figures that it is made of."""

    cost: float
    """mean over queries, bits"""
    variance: float
    """sample variance of the entropies, bits^2"""
    collapse_rate: float
    x: float
    y: float


def code_point(attention: ArrayLike, surprisals: ArrayLike, drop: float = DROP) -> CodePoint:
    """Computes a head's point as the source's code does, from attention [T, T] and surprisals [T] (bits).

    It takes log2(A + 1e-9), the sample variance and collapses / (T - 1), and clips X / 10 and G / 0.5 to
    0..1.
    """
    a = _float64(attention)
    entropy = -(a * np.log2(a + _CODE_FLOOR)).sum(axis=-1)
    cost = float((a @ _float64(surprisals)).mean())
    variance = float(entropy.var(ddof=1))
    rate = float(head_collapses(entropy, window=len(entropy), drop=drop)) / (len(entropy) - 1)
    x, y = np.clip((cost / _CODE_COST, (variance + rate) / _CODE_SCORE), 0.0, 1.0)
    return CodePoint(cost, variance, rate, float(x), float(y))


def _float64(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def _normalised(entropy: ArrayLike, keys: ArrayLike) -> FloatArray:
    return normalised_entropy(entropy, _float64(keys)[..., None])


def _window(series: ArrayLike, window: int, least: int) -> tuple[FloatArray, FloatArray]:
    """Returns the series' values in the window, and how many each head has, NaN where too few."""
    values = _float64(series)[-window:]
    count = np.isfinite(values).sum(axis=0).astype(np.float64)
    return values, np.where(count >= max(least, 1), count, np.nan)


def _mean(figures: FloatArray) -> float:
    known = figures[np.isfinite(figures)]
    return float(known.mean()) if known.size else math.nan


def _mean_of_steps(series: ArrayLike, window: int) -> float:
    return _mean(np.array([_mean(step) for step in _float64(series)[-window:]]))
