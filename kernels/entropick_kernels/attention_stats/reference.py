"""The attention statistics of ONE query in float64; every other implementation is checked against them.

``scores`` are what enters the softmax (after scaling and softcap), [H, K] for one layer or [layers, H, K];
``valid`` is a bool mask [K] (or [layers, K]) of the keys the query may see, all of them if None. Masked
scores may hold anything. A signal is computed per layer; with a leading layer axis the result is the mean of
the per-layer figures. Every function raises ValueError for another shape or where a layer has no valid key.
"""

from __future__ import annotations

import numpy as np

from .._arrays import ArrayLike, BoolArray, FloatArray, as_float64, as_numpy


def _checked(scores: ArrayLike, valid: ArrayLike | None) -> tuple[FloatArray, BoolArray]:
    """Returns scores as [..., H, K] float64 with 0 at masked keys, and the mask as [..., 1, K]."""
    s = as_float64(scores)
    if s.ndim not in (2, 3) or 0 in s.shape:
        raise ValueError(f"scores must have shape [H, K] or [layers, H, K], got {s.shape}")
    mask = np.asarray(True if valid is None else as_numpy(valid), dtype=np.bool_)
    mask = np.broadcast_to(mask, s.shape[-1:]) if valid is None else mask
    if mask.ndim not in (1, s.ndim - 1) or mask.shape != (*s.shape[:-2], s.shape[-1])[-mask.ndim :]:
        raise ValueError(f"valid of shape {mask.shape} does not fit scores of shape {s.shape}")
    mask = np.broadcast_to(mask, (*s.shape[:-2], s.shape[-1]))[..., None, :]
    if not mask.any(axis=-1).all():
        raise ValueError("a query needs at least one valid key")
    return np.where(mask, s, 0.0), mask


def paged_scores(
    query: ArrayLike,
    k_blocks: ArrayLike,
    blocks: ArrayLike,
    length: int,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> FloatArray:
    """Computes the scores [H, K] of one query [H, D] over a sequence's cached keys, which enter the softmax.

    ``k_blocks`` [P, Hk, block, D]; key t lies at ``k_blocks[blocks[t // block], :, t % block]``; query head h
    reads key-value head h // (H // Hk). K is ``length``, or ``window`` where that is less: the last so many
    keys."""
    q, cache, ids = as_float64(query), as_numpy(k_blocks), as_numpy(blocks)
    at = np.arange(0 if window is None else max(0, length - window), length)
    keys = as_float64(cache[ids[at // cache.shape[2]], :, at % cache.shape[2]])
    keys = keys.repeat(q.shape[0] // cache.shape[1], axis=1)
    scores = np.einsum("hd,thd->ht", q, keys) * scale
    return np.asarray(scores if softcap is None else softcap * np.tanh(scores / softcap))


def attention_probabilities(scores: ArrayLike, valid: ArrayLike | None = None) -> FloatArray:
    """Computes A = softmax of the scores over the valid keys, 0 at the others; [.., H, K]."""
    s, mask = _checked(scores, valid)
    s = np.where(mask, s, -np.inf)
    weights = np.exp(s - s.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _entropy_bits(p: FloatArray) -> FloatArray:
    """Computes the entropy of distributions p [.., K] in bits."""
    return np.asarray(-(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=-1))


def head_entropy(scores: ArrayLike, valid: ArrayLike | None = None) -> FloatArray:
    """Computes -sum_j A_hj log2 A_hj of each head in bits, [.., H]."""
    return _entropy_bits(attention_probabilities(scores, valid))


def head_entropy_normalized(scores: ArrayLike, valid: ArrayLike | None = None) -> FloatArray:
    """Computes each head's entropy over log2(valid keys), 0..1, and 0 where there is one key; [.., H]."""
    mask = _checked(scores, valid)[1]
    keys = mask.sum(axis=-1)
    return np.asarray(np.where(keys > 1, head_entropy(scores, valid) / np.log2(np.maximum(keys, 2)), 0.0))


def head_varentropy(scores: ArrayLike, valid: ArrayLike | None = None) -> FloatArray:
    """Computes sum_j A_hj (log2 A_hj + H_h)^2 of each head in bits^2, [.., H]."""
    p = attention_probabilities(scores, valid)
    log2_p = np.log2(np.where(p > 0, p, 1.0))
    return np.asarray((p * np.square(log2_p + _entropy_bits(p)[..., None])).sum(axis=-1))


def head_deviation(scores: ArrayLike, valid: ArrayLike | None = None) -> FloatArray:
    """Computes half the L1 distance of each head's attention to the mean head, 0..1; [.., H]."""
    p = attention_probabilities(scores, valid)
    return np.asarray(0.5 * np.abs(p - p.mean(axis=-2, keepdims=True)).sum(axis=-1))


def head_jsd(scores: ArrayLike, valid: ArrayLike | None = None) -> FloatArray:
    """Computes the heads' Jensen-Shannon divergence: entropy of the mean head - mean entropy; bits, [..]."""
    p = attention_probabilities(scores, valid)
    return np.asarray(_entropy_bits(p.mean(axis=-2)) - _entropy_bits(p).mean(axis=-1))


def head_to_previous(scores: ArrayLike, valid: ArrayLike | None = None) -> FloatArray:
    """Computes each head's attention to the key one position before the newest valid key, 0..1; [.., H].

    The newest valid key is the query's own: keys lie in the order of their positions. NaN where the key
    before it is masked (outside a sliding window) or does not exist (there is one key). Source: RAUQ, arXiv
    2505.20045.
    """
    p = attention_probabilities(scores, valid)
    mask = np.broadcast_to(_checked(scores, valid)[1], p.shape)
    previous = p.shape[-1] - 2 - mask[..., ::-1].argmax(axis=-1, keepdims=True)
    at = np.maximum(previous, 0)
    there = np.take_along_axis(mask, at, axis=-1) & (previous >= 0)
    return np.where(there, np.take_along_axis(p, at, axis=-1), np.nan)[..., 0]


def head_token_cost(scores: ArrayLike, surprisals: ArrayLike, valid: ArrayLike | None = None) -> FloatArray:
    """Computes each head's sum of A_hj I_j over the keys of known surprisal I, over their mass; bits.

    ``surprisals`` [K]: -log2 P(token j | tokens before), below 0 or NaN where it is not known. Returns
    [.., H], NaN where the known keys have less than half of the attention.
    """
    p = attention_probabilities(scores, valid)
    known = as_float64(surprisals) >= 0
    mass = (p * known).sum(axis=-1)
    total = (p * np.where(known, as_float64(surprisals), 0.0)).sum(axis=-1)
    return np.asarray(np.where(mass >= 0.5, total / np.where(mass > 0, mass, 1.0), np.nan))


def head_token_cost_relative(
    scores: ArrayLike, surprisals: ArrayLike, valid: ArrayLike | None = None
) -> FloatArray:
    """Computes each head's token cost over the mean known surprisal of the visible keys, [.., H].

    Exactly 1 for uniform attention where all surprisals are known. NaN where that mean is 0 or not known.
    """
    known = (as_float64(surprisals) >= 0) & _checked(scores, valid)[1]
    total = np.where(known, as_float64(surprisals), 0.0).sum(axis=-1)
    cost = head_token_cost(scores, surprisals, valid)
    return np.asarray(
        np.where(total > 0, cost * known.sum(axis=-1) / np.where(total > 0, total, 1.0), np.nan)
    )


def head_sink_mass(scores: ArrayLike, valid: ArrayLike | None = None) -> FloatArray:
    """Computes each head's attention to position 0, 0..1, [.., H]; the keys must begin there.

    NaN where that key is masked (outside a sliding window).
    """
    p = attention_probabilities(scores, valid)
    return np.asarray(np.where(_checked(scores, valid)[1][..., 0], p[..., 0], np.nan))


def attention_entropy(scores: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Averages the head entropy over heads, in bits; mean over layers."""
    return float(head_entropy(scores, valid).mean())


def attention_entropy_normalized(scores: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Averages the entropy over log2(valid keys) over heads, 0..1; mean over layers."""
    return float(head_entropy_normalized(scores, valid).mean())


def attention_varentropy(scores: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Computes the population variance over heads of the head entropy, in bits^2; mean over layers."""
    return float(head_entropy(scores, valid).var(axis=-1).mean())


def agreement(scores: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Computes 1 - mean over heads of half the L1 distance to the mean head, 0..1; mean over layers."""
    return float(1.0 - head_deviation(scores, valid).mean())


def agreement_seed(scores: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Averages |A_h - mean head| over heads and valid keys (a DISagreement); mean over layers."""
    keys = _checked(scores, valid)[1].sum(axis=-1)
    return float((2.0 * head_deviation(scores, valid) / keys).mean())


def interaction_strength(scores: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Averages |score| over heads and valid keys, in score units; mean over layers."""
    s, mask = _checked(scores, valid)
    return float((np.abs(s).sum(axis=-1) / mask.sum(axis=-1)).mean())


def attention_to_previous(scores: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Averages the attention to the previous key over heads, 0..1; mean over layers.

    NaN where a layer's query does not see the previous key (:func:`head_to_previous`).
    """
    return float(head_to_previous(scores, valid).mean())
