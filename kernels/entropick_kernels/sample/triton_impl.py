"""The draw and its uniform numbers on the GPU, in Triton: no synchronisation, no dependence on the batch.

Three kernels. The first keeps the maximum of every 128 neighbouring logits (a block). The second serves rows
with 0 < top_k <= 64, a program each: the k best blocks hold the k best tokens, since each of those blocks has
a token that goes before all in the blocks that follow; so it reads 8192 logits at most. The third, in
``any_row``, serves the others in several walks over the row. Both end in an inverse CDF in float64.

A row takes its path by its own parameters; sizes and orders of summation depend on the vocabulary alone.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from .any_row.triton_impl import (
    BLOCK,
    DRAWS,
    NOWHERE,
    SHORT,
    STRIDES,
    TOLERANCE,
    draw_any,
    fill,
    ordered_key,
    row_top,
    value_of_key,
)
from .reference import PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL
from .torch_impl import SHORT_LIST

_M0 = tl.constexpr(PHILOX_MULTIPLIERS[0])
_M1 = tl.constexpr(PHILOX_MULTIPLIERS[1])
_W0 = tl.constexpr(PHILOX_WEYL[0])
_W1 = tl.constexpr(PHILOX_WEYL[1])
_ROUNDS = tl.constexpr(PHILOX_ROUNDS)
_WORD = tl.constexpr(0xFFFFFFFF)

_CHUNK_BLOCKS: Final = 32
_WALK: Final = 4096
_UNIFORMS: Final = 128
_STEPS: Final = {torch.bfloat16: 8, torch.float16: 10, torch.float32: 16}
"""pairs of key bits that differ between the values of a type: float32 has 32 bits, bfloat16 its upper half"""


@triton.jit
def _philox_words(c0, c1, c2, c3, k0, k1):
    """Computes Philox-4x32-10 on words in uint64."""
    for _ in tl.static_range(_ROUNDS):
        left, right = c0 * _M0, c2 * _M1
        c0, c1 = (right >> 32) ^ c1 ^ k0, right & _WORD
        c2, c3 = (left >> 32) ^ c3 ^ k1, left & _WORD
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return c0, c1, c2, c3


@triton.jit
def _philox(
    seed_at, position_at, draw_at, stream_at, out_at, size, columns,
    seed_row, seed_column, position_row, position_column, draw_row, draw_column, stream_row, stream_column,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Computes SIZE uniform numbers a program, of inputs that are views of [rows, columns]."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < size
    row, column = at // columns, at % columns
    seed = tl.load(seed_at + row * seed_row + column * seed_column, mask=inside, other=0).to(tl.uint64)
    c0 = tl.load(position_at + row * position_row + column * position_column, mask=inside, other=0)
    c1 = tl.load(draw_at + row * draw_row + column * draw_column, mask=inside, other=0)
    c2 = tl.load(stream_at + row * stream_row + column * stream_column, mask=inside, other=0)
    c0, c1, c2 = c0.to(tl.uint64) & _WORD, c1.to(tl.uint64) & _WORD, c2.to(tl.uint64) & _WORD
    x0, x1, _, _ = _philox_words(c0, c1, c2, tl.zeros_like(c0), seed & _WORD, seed >> 32)
    bits = (x0 << 21) | (x1 >> 11)
    tl.store(out_at + at, bits.to(tl.int64).to(tl.float64) * 2.0**-53, mask=inside)


@triton.jit
def _block_maxima(x_at, maxima_at, vocabulary, blocks, x_stride, BLOCKS: tl.constexpr):
    """Finds the maximum of each block, a chunk of blocks of a row a program; a NaN counts as +inf."""
    row = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    token = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_at + row * x_stride + token, mask=token < vocabulary, other=float("-inf")).to(tl.float32)
    top = tl.max(tl.where(x == x, x, float("inf")), axis=1)
    tl.store(maxima_at + row * blocks + block, top, mask=block < blocks)


@triton.jit
def _first_k(key, k, low, high, STEPS: tl.constexpr):
    """Returns which of fewer than 2^16 keys are the k largest, the first of equals; a key of 0 is none.

    The k-th largest lies in low..high: the leading bits that these share need no search.
    """
    threshold = tl.full((), 0, tl.uint32)
    unit = tl.full((), 1, tl.uint32) << (2 * STEPS - 2)
    while unit > 0:
        if (low ^ high) < unit:
            threshold += high & (unit * 3)
            unit = unit >> 2
        else:
            t1, t2, t3 = threshold + unit, threshold + unit * 2, threshold + unit * 3
            # three counts in one reduction
            beyond = (
                (key >= t1).to(tl.int64) + ((key >= t2).to(tl.int64) << 16) + ((key >= t3).to(tl.int64) << 32)
            )
            n = tl.sum(beyond, axis=0)
            n1, n2, n3 = n & 0xFFFF, (n >> 16) & 0xFFFF, n >> 32
            lower = tl.where(n1 >= k, t1, threshold)
            threshold = tl.where(n3 >= k, t3, tl.where(n2 >= k, t2, lower))
            # just k at or above the threshold: it separates, no need to be sharper
            exact = (n1 == k) | (n2 == k) | (n3 == k)
            unit = tl.where(exact, 0, unit >> 2)
    above, equal = key > threshold, (key == threshold) & (key > 0)
    room = k - tl.sum(above.to(tl.int32), axis=0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= room))


@triton.jit(do_not_specialize=STRIDES)
def _draw_short(
    x_at, maxima_at, list_at, t_at, k_at, p_at, m_at, u_at, out_at,
    vocabulary, blocks, candidates, x_stride, t_stride, k_stride, p_stride, m_stride, u_stride, u_step,
    BLOCKS: tl.constexpr, WALK: tl.constexpr, STEPS: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    """Draws a row of a short top_k a program.

    ALL: no other kernel runs, so rows that broke the promise are served as well.
    """
    row = tl.program_id(0).to(tl.int64)
    k = tl.load(k_at + row * k_stride).to(tl.int64)
    short = (k > 0) & (k <= SHORT)
    k = tl.where(short, k, SHORT)
    if short | ALL:
        x_at += row * x_stride
        maxima_at += row * blocks
        out_at += row * candidates
        top, best = row_top(x_at, maxima_at, vocabulary, blocks, BLOCKS, WALK)
        temperature = tl.load(t_at + row * t_stride).to(tl.float64)
        if (temperature > 0) & (top > float("-inf")) & (top < float("inf")):
            list_at += row * (3 * SHORT)
            # the k best blocks, in order of id
            block = tl.arange(0, BLOCKS)
            maxima = tl.load(maxima_at + block, mask=block < blocks, other=float("-inf"))
            some = maxima > float("-inf")
            key = tl.where(some, ordered_key(maxima, STEPS), 0)
            high = tl.max(key, axis=0)
            chosen = _first_k(key, k, high ^ high, high, STEPS)
            # k tokens at least are no less than the least of k maxima
            low = tl.min(tl.where(chosen, key, high), axis=0)
            tl.store(list_at + tl.cumsum(chosen.to(tl.int32), axis=0) - 1, block, mask=chosen)
            count = tl.sum(chosen.to(tl.int32), axis=0)
            low = tl.where(count < k, 0, low)
            tl.debug_barrier()  # what follows reads what other threads wrote
            # their k best tokens, in order of id
            entry = tl.arange(0, SHORT)
            block = tl.load(list_at + entry, mask=entry < count, other=0)
            tokens = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
            inside = (entry < count)[:, None] & (tokens < vocabulary)
            x = tl.load(x_at + tokens, mask=inside, other=float("-inf")).to(tl.float32)
            key = tl.where(x > float("-inf"), ordered_key(x, STEPS), 0)
            key = tl.reshape(key, (SHORT * BLOCK,))
            chosen = _first_k(key, k, low, high, STEPS)
            place = SHORT + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
            tl.store(list_at + place, tl.arange(0, SHORT * BLOCK), mask=chosen)
            tl.store(list_at + SHORT + place, key.to(tl.int32, bitcast=True), mask=chosen)
            count = tl.sum(chosen.to(tl.int32), axis=0)
            tl.debug_barrier()
            listed = entry < count
            at = tl.load(list_at + SHORT + entry, mask=listed, other=0)
            token = tl.load(list_at + at // BLOCK, mask=listed, other=0) * BLOCK + at % BLOCK
            key = tl.load(list_at + 2 * SHORT + entry, mask=listed, other=0).to(tl.uint32, bitcast=True)
            x = tl.where(listed, value_of_key(key, STEPS), float("-inf"))
            scale = (1.0 / temperature).to(tl.float32).to(tl.float64)
            weight = tl.exp((x - top).to(tl.float64) * scale)
            # ranks from all pairs: the mass of those that go before
            equal_before = (x[:, None] == x[None, :]) & (entry[:, None] < entry[None, :])
            ahead = (x[:, None] > x[None, :]) | equal_before
            before = tl.sum(tl.where(ahead, weight[:, None], 0.0), axis=0)
            top_p = tl.load(p_at + row * p_stride).to(tl.float64)
            target = (top_p - TOLERANCE) * tl.sum(weight, axis=0)
            target = tl.where(top_p < 1.0, target, float("inf"))
            floor = tl.minimum(tl.load(m_at + row * m_stride).to(tl.float64), 1.0) * (1.0 - TOLERANCE)
            # nothing goes before the most probable token: it stays whatever top_p says
            keep = ((before < target) | (before == 0.0)) & (weight >= floor) & (weight > 0.0)
            cdf = tl.where(keep, tl.cumsum(tl.where(keep, weight, 0.0), axis=0), -1.0)
            total = tl.max(cdf, axis=0)
            for start in range(0, candidates, DRAWS):
                n = start + tl.arange(0, DRAWS)
                u = tl.load(u_at + row * u_stride + n * u_step, mask=n < candidates, other=0.0).to(tl.float64)
                beyond = cdf[None, :] > (u * total)[:, None]
                drawn = tl.min(tl.where(beyond, token[None, :], NOWHERE), axis=1)
                drawn = tl.where(drawn < vocabulary, drawn, best)
                tl.store(out_at + n, drawn.to(tl.int64), mask=n < candidates)
        else:
            fill(out_at, best, candidates)


def philox_uniform_triton(seed: Tensor, position: Tensor, draw: Tensor, stream: Tensor) -> Tensor:
    """Implements :func:`entropick_kernels.sample.philox_uniform`; int64 tensors on the GPU."""
    given = (seed, position, draw, stream)
    shape = torch.broadcast_shapes(*(t.shape for t in given))
    out = torch.empty(shape, dtype=torch.float64, device=seed.device)
    if out.numel() == 0:
        return out
    columns = shape[-1] if shape else 1
    # views, as long as there are no more than two dimensions
    flat = [t.expand((1,) * (2 - len(shape)) + shape).reshape(-1, columns) for t in given]
    grid = (triton.cdiv(out.numel(), _UNIFORMS),)
    strides = (stride for t in flat for stride in t.stride())
    _philox[grid](*flat, out, out.numel(), columns, *strides, SIZE=_UNIFORMS, num_warps=1)
    return out


def draw_triton(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    uniforms: Tensor,
    *,
    max_top_k: int | None = None,
) -> Tensor:
    """Implements :func:`entropick_kernels.sample.draw`; tensors on the GPU, logits are read as float32."""
    x = logits if logits.dtype in _STEPS else logits.float()
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, vocabulary = x.shape
    candidates = uniforms.shape[1]
    tokens = torch.empty((rows, candidates), dtype=torch.int64, device=x.device)
    if tokens.numel() == 0:
        return tokens
    blocks = triton.cdiv(vocabulary, BLOCK.value)
    maxima = torch.empty((rows, blocks), dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(blocks, _CHUNK_BLOCKS), rows)
    _block_maxima[grid](x, maxima, vocabulary, blocks, x.stride(0), BLOCKS=_CHUNK_BLOCKS, num_warps=4)
    parameters = (temperature, top_k, top_p, min_p)
    tensors = (*parameters, uniforms, tokens)
    strides = (x.stride(0), *(p.stride(0) for p in parameters), *uniforms.stride())
    numbers = (vocabulary, blocks, candidates, *strides)
    sizes = {"BLOCKS": max(16, triton.next_power_of_2(blocks)), "WALK": _WALK, "STEPS": _STEPS[x.dtype]}
    all_short = max_top_k is not None and 0 < max_top_k <= SHORT_LIST
    if max_top_k != 0:
        ids = torch.empty((rows, 3 * SHORT_LIST), dtype=torch.int32, device=x.device)
        _draw_short[(rows,)](x, maxima, ids, *tensors, *numbers, **sizes, ALL=all_short, num_warps=16)
    if not all_short:
        mass = torch.empty((rows, 2, blocks), dtype=torch.float64, device=x.device)
        equal = torch.empty((rows, blocks), dtype=torch.int32, device=x.device)
        draw_any[(rows,)](
            x, maxima, mass, equal, *tensors, *numbers, **sizes, ALL=max_top_k == 0, num_warps=16
        )
    return tokens
