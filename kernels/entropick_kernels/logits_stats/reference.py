"""The logits statistics in float64; every other implementation is checked against them.

p = softmax(logits / T) over the last axis, H = -sum p log2 p (bits), V = sum p (log2 p + H)^2 (bits^2);
terms with p = 0 count 0, a -inf logit is a mask. A row that holds a NaN or a +inf has no distribution: its
figures are NaN. A row that is -inf throughout gives 0; :func:`logits_stats_reference` tells them apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import ArrayLike, FloatArray, as_float64, as_numpy


class ReferenceStats(NamedTuple):
    """The result of :func:`logits_stats_reference`: the fields of ``LogitsStats``, float64 [...]."""

    entropy: FloatArray
    varentropy: FloatArray
    max_logit: FloatArray
    log_z: FloatArray
    flags: npt.NDArray[np.int32]


def _scaled(logits: ArrayLike, temperature: float) -> FloatArray:
    """Returns logits / T as float64 minus the row's maximum, [..., V]; an all -inf row stays -inf."""
    x = as_float64(logits)
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"logits must have shape [..., V] with V >= 1, got {x.shape}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    top = x.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.asarray((x - np.where(np.isneginf(top), 0.0, top)) / temperature)


def _moments(d: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns (ln z, H in bits, V in bits^2) of rows of log weights [..., V] whose maximum is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.exp(d)
        z = weights.sum(axis=-1, keepdims=True)
        log_z = np.log(np.where(z == 0, 1.0, z))
        p = weights / np.where(z == 0, 1.0, z)
        log2_p = np.where(p == 0, 0.0, (d - log_z) / np.log(2.0))
        entropy = -(p * log2_p).sum(axis=-1, keepdims=True)
        varentropy = (p * np.square(log2_p + entropy)).sum(axis=-1)
    return log_z[..., 0], entropy[..., 0], varentropy


def logits_entropy(logits: ArrayLike, temperature: float = 1.0) -> FloatArray:
    """Computes H = -sum p log2 p in bits; logits [..., V] -> [...].

    Raises ValueError unless temperature > 0 and V >= 1.
    """
    return _moments(_scaled(logits, temperature))[1][()]


def logits_varentropy(logits: ArrayLike, temperature: float = 1.0) -> FloatArray:
    """Computes V = sum p (log2 p + H)^2 in bits^2; logits [..., V] -> [...].

    Raises as :func:`logits_entropy`.
    """
    return _moments(_scaled(logits, temperature))[2][()]


def surprisal(logits: ArrayLike, token: ArrayLike) -> FloatArray:
    """Computes -log2 p(token) in bits; logits [..., V], token int [...] -> [...]; +inf for a masked token.

    Raises IndexError where a token is outside 0..V-1.
    """
    d = _scaled(logits, 1.0)
    index = np.asarray(as_numpy(token), dtype=np.int64)
    if np.any(index < 0) or np.any(index >= d.shape[-1]):
        raise IndexError(f"token outside 0..{d.shape[-1] - 1}")
    chosen = np.take_along_axis(d, index[..., None], axis=-1)[..., 0]
    return np.asarray((_moments(d)[0] - chosen) / np.log(2.0))[()]


def excess_surprisal(logits: ArrayLike, token: ArrayLike) -> FloatArray:
    """Computes -log2 p(token) - H in bits; logits [..., V], token int [...] -> [...].

    Below 0 for a likely token, 0 for every token of a choice among equals and on average over draws of the
    distribution; +inf for a masked token. Raises as :func:`surprisal`.
    """
    return np.asarray(surprisal(logits, token) - logits_entropy(logits))[()]


def logits_stats_reference(logits: ArrayLike) -> ReferenceStats:
    """Computes every field of ``LogitsStats`` at temperature 1, in float64; logits [..., V].

    Flags: 1 the row holds a NaN, else 2 a +inf, else 4 only -inf, else 0.
    """
    x = as_float64(logits)
    log_z, entropy, varentropy = _moments(_scaled(x, 1.0))
    top = x.max(axis=-1)
    flags = np.where(np.isnan(top), 1, np.where(np.isposinf(top), 2, np.where(np.isneginf(top), 4, 0)))
    return ReferenceStats(
        entropy=entropy,
        varentropy=varentropy,
        max_logit=top,
        log_z=log_z,
        flags=np.asarray(flags, dtype=np.int32),
    )
