"""The arithmetic of decode attention with statistics, as native loops: CPU, float32, paged KV cache.

One unit of work is (row, key-value head): keys are read once for the whole group of query heads, scores are
kept, and every sum runs over the row's own keys in their order. So a row's numbers depend on that row alone.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .._exp2 import LOG2_E, exp2
from .._native import native

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_ZERO: Final = np.float32(0.0)
_HALF: Final = np.float32(0.5)
_ONE: Final = np.float32(1.0)
_NAN: Final = np.float32(math.nan)


@native("contract", "reassoc", "nsz")
def dots(query: Float32, keys: Float32, first: int, count: int, scale: Any, scores: Float32, at: int) -> None:
    """Computes scores[at:] = scale * keys[first : first + count] @ query; keys [block, D], four at a time."""
    width = query.shape[0]
    j = 0
    while j + 4 <= count:
        i = first + j
        s0 = s1 = s2 = s3 = _ZERO
        for d in range(width):
            x = query[d]
            s0 += x * keys[i, d]
            s1 += x * keys[i + 1, d]
            s2 += x * keys[i + 2, d]
            s3 += x * keys[i + 3, d]
        scores[at + j] = s0 * scale
        scores[at + j + 1] = s1 * scale
        scores[at + j + 2] = s2 * scale
        scores[at + j + 3] = s3 * scale
        j += 4
    while j < count:
        s0 = _ZERO
        for d in range(width):
            s0 += query[d] * keys[first + j, d]
        scores[at + j] = s0 * scale
        j += 1


@native("contract", "reassoc", "nsz")
def transposed_dots(
    query: Float32, keys: Float32, first: int, count: int, scale: Any, scores: Float32, at: int
) -> None:
    """Computes :func:`dots` of transposed keys [D or more, block], four dimensions at a time."""
    for j in range(count):
        scores[at + j] = _ZERO
    width, d = query.shape[0], 0
    while d + 4 <= width:
        x0, x1, x2, x3 = query[d], query[d + 1], query[d + 2], query[d + 3]
        for j in range(count):
            i = first + j
            scores[at + j] += (
                x0 * keys[d, i] + x1 * keys[d + 1, i] + x2 * keys[d + 2, i] + x3 * keys[d + 3, i]
            )
        d += 4
    while d < width:
        for j in range(count):
            scores[at + j] += query[d] * keys[d, first + j]
        d += 1
    for j in range(count):
        scores[at + j] *= scale


@native("contract", "reassoc", "nsz")
def blend(weights: Float32, at: int, values: Float32, first: int, count: int, out: Float32) -> None:
    """Adds weights[at : at + count] @ values[first : first + count] to out; values [block, D]."""
    width = out.shape[0]
    j = 0
    while j + 4 <= count:
        i = first + j
        w0, w1, w2, w3 = weights[at + j], weights[at + j + 1], weights[at + j + 2], weights[at + j + 3]
        for d in range(width):
            out[d] += (
                w0 * values[i, d] + w1 * values[i + 1, d] + w2 * values[i + 2, d] + w3 * values[i + 3, d]
            )
        j += 4
    while j < count:
        w0 = weights[at + j]
        for d in range(width):
            out[d] += w0 * values[first + j, d]
        j += 1


@native("contract", "reassoc", "nsz")
def softmax(scores: Float32, n: int, figures: Float32) -> None:
    """Replaces scores[:n] by their probabilities; sets all figures of the head but its deviation, figures[3].

    The figures are the entropy in bits, the entropy over log2 n, the mean of |score|, and figures[4], the
    probability of the second newest key, NaN where there is one key.
    """
    top = scores[0]
    for t in range(n):
        top = scores[t] if scores[t] > top else top
    z = moment = size = _ZERO
    for t in range(n):
        s = scores[t]
        y = np.float32((s - top) * LOG2_E)
        e = exp2(y)
        scores[t] = e
        z += e
        moment += e * y
        size += abs(s)
    inverse = _ONE / z
    for t in range(n):
        scores[t] *= inverse
    entropy = np.float32(np.float32(math.log2(z)) - moment * inverse)
    figures[0] = entropy
    figures[1] = entropy / np.float32(math.log2(np.float32(n))) if n > 1 else _ZERO
    figures[2] = size / np.float32(n)
    figures[4] = scores[n - 2] if n > 1 else _NAN


@native("contract", "reassoc", "nsz")
def deviations(p: Float32, n: int, mean: Float32, figures: Float32) -> None:
    """Sets figures[h, 3], half the L1 distance of p[h, :n] to the mean head; ``mean`` is scratch of n."""
    heads = p.shape[0]
    share = _ONE / np.float32(heads)
    for t in range(n):
        mean[t] = p[0, t]
    for h in range(1, heads):
        for t in range(n):
            mean[t] += p[h, t]
    for t in range(n):
        mean[t] *= share
    for h in range(heads):
        total = _ZERO
        for t in range(n):
            total += abs(p[h, t] - mean[t])
        figures[h, 3] = total * _HALF


@native()
def check(table: Int32, lengths: Int32, blocks: int, block: int, window: int, least: int = 1) -> int:
    """Counts the keys that will be read, all rows together.

    ``least`` is the smallest length that is in range. Raises IndexError on a block or a length out of range.
    """
    total = 0
    for b in range(lengths.shape[0]):
        length = lengths[b]
        if length < least or length > table.shape[1] * block:
            raise IndexError("a length is outside its block table")
        start = length - window if 0 < window < length else 0
        for j in range(start // block, (length - 1) // block + 1):
            if table[b, j] < 0 or table[b, j] >= blocks:
                raise IndexError("a block id is outside the cache")
        total += length - start
    return total


@native()
def attend(
    queries: Float32,
    keys: Float32,
    values: Float32,
    block_table: Int32,
    lengths: Int32,
    scale: Any,
    softcap: Any,
    window: int,
    probabilities: Float32,
    out: Float32,
    figures: Float32,
    attends: bool,
    transposed: bool,
    begin: int,
    end: int,
) -> None:
    """Computes units begin..end of (row, key-value head): probabilities, outputs, figures but the deviation.

    queries, out [B, H, D]; keys, values [P, Hk, block, D], or ``transposed`` keys [P, Hk, D or more, block]
    in the first D rows; block_table [B, N], lengths [B]; probabilities [B, H, K], from the first key that a
    row sees; figures [B, H, 5], the float fields of ``HeadStats``. ``window`` and ``softcap`` are 0 where
    there is none. Unless it ``attends``, neither values nor outputs are touched. The arguments have passed
    :func:`check`."""
    kv_heads = keys.shape[1]
    block = keys.shape[3] if transposed else keys.shape[2]
    group, p = queries.shape[1] // kv_heads, probabilities
    for unit in range(begin, end):
        b, h = unit // kv_heads, unit % kv_heads
        length = lengths[b]
        start = length - window if 0 < window < length else 0
        n = length - start
        if n == 0:
            for g in range(h * group, h * group + group):
                figures[b, g] = _ZERO
                figures[b, g, 4] = _NAN
            continue
        t = start
        while t < length:
            i = t % block
            count = min(block - i, length - t)
            some = keys[block_table[b, t // block], h]
            for g in range(h * group, h * group + group):
                if transposed:
                    transposed_dots(queries[b, g], some, i, count, scale, p[b, g], t - start)
                else:
                    dots(queries[b, g], some, i, count, scale, p[b, g], t - start)
            t += count
        for g in range(h * group, h * group + group):
            if softcap > 0:
                for j in range(n):
                    p[b, g, j] = softcap * np.float32(math.tanh(p[b, g, j] / softcap))
            softmax(p[b, g], n, figures[b, g])
        if not attends:
            continue
        for g in range(h * group, h * group + group):
            out[b, g] = _ZERO
        t = start
        while t < length:
            i = t % block
            count = min(block - i, length - t)
            some = values[block_table[b, t // block], h]
            for g in range(h * group, h * group + group):
                blend(p[b, g], t - start, some, i, count, out[b, g])
            t += count


@native()
def compare_heads(
    probabilities: Float32, lengths: Int32, window: int, figures: Float32, begin: int, end: int
) -> None:
    """Computes the deviations of the heads of rows begin..end, once every head's probabilities are there."""
    mean = np.empty(probabilities.shape[2], dtype=np.float32)
    for b in range(begin, end):
        n = lengths[b]
        n = window if 0 < window < n else n
        deviations(probabilities[b], n, mean, figures[b])


@native()
def measure_transposed_layer(
    queries: Float32,
    keys: Float32,
    block_table: Int32,
    lengths: Int32,
    scale: Any,
    softcap: Any,
    window: int,
    probabilities: Float32,
    figures: Float32,
) -> None:
    """Computes the figures of all rows over transposed keys; arguments as :func:`attend`."""
    rows = lengths.shape[0]
    attend(
        queries=queries,
        keys=keys,
        values=keys,
        block_table=block_table,
        lengths=lengths,
        scale=scale,
        softcap=softcap,
        window=window,
        probabilities=probabilities,
        out=queries,
        figures=figures,
        attends=False,
        transposed=True,
        begin=0,
        end=rows * keys.shape[1],
    )
    compare_heads(probabilities, lengths, window, figures, 0, rows)


@native()
def store(k: Float32, v: Float32, k_blocks: Float32, v_blocks: Float32, cache_index: Int32) -> None:
    """Writes keys and values [T, Hk, D] into the cache. Raises IndexError on an index out of range."""
    block = k_blocks.shape[2]
    for t in range(cache_index.shape[0]):
        if cache_index[t] < 0 or cache_index[t] >= k_blocks.shape[0] * block:
            raise IndexError("a cache index is outside the cache")
    for t in range(k.shape[0]):
        where, offset = cache_index[t] // block, cache_index[t] % block
        for h in range(k.shape[1]):
            for d in range(k.shape[2]):
                k_blocks[where, h, offset, d] = k[t, h, d]
                v_blocks[where, h, offset, d] = v[t, h, d]
