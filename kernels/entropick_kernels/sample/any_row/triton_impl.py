"""The draw of a row with any parameters, and the functions that the kernel of the short rows uses too.

Equal values must be cut by lowest id, so the search is for a value: the key at which top-k or top-p cuts, two
bits a walk over the row. Above it everything stays, of its equals the first few. Then come sums of the
survivors block by block (128 tokens), and the draw reads only the block that it falls into.
"""

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

from ..reference import FILTER_TOLERANCE
from ..torch_impl import SHORT_LIST

BLOCK = tl.constexpr(128)
SHORT = tl.constexpr(SHORT_LIST)
DRAWS = tl.constexpr(16)
NOWHERE = tl.constexpr(2**31 - 1)
TOLERANCE = tl.constexpr(FILTER_TOLERANCE)

STRIDES: Final = ["candidates", "t_stride", "k_stride", "p_stride", "m_stride", "u_stride", "u_step"]
"""arguments whose values must not make a new kernel"""


@triton.jit
def ordered_key(x, STEPS: tl.constexpr):
    """Returns the upper 2 * STEPS bits of an unsigned key in the order of float32; +0 and -0 have one key.

    No key is 0.
    """
    bits = x.to(tl.uint32, bitcast=True)
    bits = tl.where(bits == 0x80000000, bits ^ bits, bits)
    return tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits | 0x80000000) >> (32 - 2 * STEPS)


@triton.jit
def value_of_key(key, STEPS: tl.constexpr):
    """Returns the float32 of a key, for values that have no more bits than the key."""
    low: tl.constexpr = 32 - 2 * STEPS
    bits = key << low
    bits = tl.where(
        bits >= 0x80000000, bits ^ 0x80000000, (bits ^ 0xFFFFFFFF) & (0xFFFFFFFF << low & 0xFFFFFFFF)
    )
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _first_nan(x_at, vocabulary, WALK: tl.constexpr):
    """Returns the id of the first NaN of a row, NOWHERE where there is none."""
    first = tl.full((WALK,), NOWHERE, tl.int32)
    for start in range(0, vocabulary, WALK):
        token = start + tl.arange(0, WALK)
        x = tl.load(x_at + token, mask=token < vocabulary, other=0.0).to(tl.float32)
        first = tl.minimum(first, tl.where(x != x, token, NOWHERE))
    return tl.min(first, axis=0)


@triton.jit
def row_top(x_at, maxima_at, vocabulary, blocks, BLOCKS: tl.constexpr, WALK: tl.constexpr):
    """Returns a row's maximum and its lowest id; of a row with a NaN, +inf and the first NaN's id."""
    block = tl.arange(0, BLOCKS)
    maxima = tl.load(maxima_at + block, mask=block < blocks, other=float("-inf"))
    top = tl.max(maxima, axis=0)
    first = tl.min(tl.where((maxima == top) & (block < blocks), block, NOWHERE), axis=0)
    token = first * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_at + token, mask=token < vocabulary, other=float("nan")).to(tl.float32)
    best = tl.min(tl.where(x == top, token, NOWHERE), axis=0)
    if top == float("inf"):
        nan = _first_nan(x_at, vocabulary, WALK)
        best = tl.where(nan < vocabulary, nan, best)
    return top, best


@triton.jit
def fill(out_at, token, candidates):
    """Writes one token into every column."""
    for start in range(0, candidates, DRAWS):
        n = start + tl.arange(0, DRAWS)
        tl.store(out_at + n, tl.zeros_like(n).to(tl.int64) + token, mask=n < candidates)


@triton.jit
def _weight(x, top, scale):
    """Returns exp((x - top) * scale)."""
    return tl.exp((x - top) * scale)


@triton.jit
def _cut(x_at, vocabulary, top, scale, goal, WALK: tl.constexpr, STEPS: tl.constexpr, MASS: tl.constexpr):
    """Returns the largest key at or above which lie ``goal`` tokens (MASS: weights), and the sum above it.

    Tokens: any smaller key will do, if just ``goal`` tokens lie above it.
    """
    kind: tl.constexpr = tl.float64 if MASS else tl.int32
    threshold = tl.full((), 0, tl.uint32)
    unit = tl.full((), 1, tl.uint32) << (2 * STEPS - 2)
    above = tl.full((), 0, kind)
    while unit > 0:
        t1, t2, t3 = threshold + unit, threshold + unit * 2, threshold + unit * 3
        a1, a2, a3 = tl.zeros((WALK,), kind), tl.zeros((WALK,), kind), tl.zeros((WALK,), kind)
        for start in range(0, vocabulary, WALK):
            token = start + tl.arange(0, WALK)
            inside = token < vocabulary
            x = tl.load(x_at + token, mask=inside, other=float("-inf")).to(tl.float32)
            key = tl.where(inside, ordered_key(x, STEPS), 0)
            amount = _weight(x, top, scale).to(tl.float64) if MASS else tl.full((WALK,), 1, tl.int32)
            a1 += tl.where(key >= t1, amount, 0)
            a2 += tl.where(key >= t2, amount, 0)
            a3 += tl.where(key >= t3, amount, 0)
        n1, n2, n3 = tl.sum(a1, axis=0), tl.sum(a2, axis=0), tl.sum(a3, axis=0)
        in1, in2, in3 = n1 >= goal, n2 >= goal, n3 >= goal
        above = tl.where(in3, above, tl.where(in2, n3, tl.where(in1, n2, n1)))
        threshold = tl.where(in3, t3, tl.where(in2, t2, tl.where(in1, t1, threshold)))
        unit = unit >> 2
        if not MASS:
            # just as many as asked for at or above the threshold: all above the key before it, no sharper
            exact = (n1 == goal) | (n2 == goal) | (n3 == goal)
            above = tl.where(exact, goal, above)
            threshold = tl.where(exact, threshold - 1, threshold)
            unit = tl.where(exact, 0, unit)
    return threshold, above


@triton.jit
def _mass_above(x_at, vocabulary, top, scale, threshold, WALK: tl.constexpr, STEPS: tl.constexpr):
    """Sums the weights of a row above a key."""
    mass = tl.zeros((WALK,), tl.float64)
    for start in range(0, vocabulary, WALK):
        token = start + tl.arange(0, WALK)
        x = tl.load(x_at + token, mask=token < vocabulary, other=float("-inf")).to(tl.float32)
        mass += tl.where(ordered_key(x, STEPS) > threshold, _weight(x, top, scale), 0.0).to(tl.float64)
    return tl.sum(mass, axis=0)


@triton.jit
def _sum_blocks(
    x_at, mass_at, equal_at, vocabulary, blocks, top, scale, floor, threshold,
    WALK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Sums each block's weights above the threshold that pass the floor, and counts its equals."""
    ROWS: tl.constexpr = WALK // BLOCK
    for start in range(0, blocks, ROWS):
        block = start + tl.arange(0, ROWS)
        token = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        inside = token < vocabulary
        x = tl.load(x_at + token, mask=inside, other=float("-inf")).to(tl.float32)
        key = tl.where(inside, ordered_key(x, STEPS), 0)
        weight = _weight(x, top, scale)
        weight = tl.where((key > threshold) & (weight >= floor), weight, 0.0).to(tl.float64)
        tl.store(mass_at + block, tl.sum(weight, axis=1), mask=block < blocks)
        equal = (inside & (key == threshold)).to(tl.int32)
        tl.store(equal_at + block, tl.sum(equal, axis=1), mask=block < blocks)


@triton.jit
def _draw_from_blocks(
    x_at, mass_at, equal_at, u_at, out_at, vocabulary, blocks, candidates, u_step,
    top, scale, floor, threshold, room, total, best,
    STEPS: tl.constexpr,
):  # fmt: skip
    """Draws with mass_at = (cdf or -1, mass before) [2, blocks] and equal_at = equals before [blocks]."""
    for start in range(0, candidates, DRAWS):
        n = start + tl.arange(0, DRAWS)
        u = tl.load(u_at + n * u_step, mask=n < candidates, other=0.0).to(tl.float64)
        target = u * total
        found = tl.full((DRAWS,), NOWHERE, tl.int32)
        for at in range(0, blocks, BLOCK):
            block = at + tl.arange(0, BLOCK)
            reach = tl.load(mass_at + block, mask=block < blocks, other=-1.0)
            beyond = reach[None, :] > target[:, None]
            found = tl.minimum(found, tl.min(tl.where(beyond, block[None, :], NOWHERE), axis=1))
        hit = found < blocks
        base = tl.load(mass_at + blocks + found, mask=hit, other=0.0)
        earlier = tl.load(equal_at + found, mask=hit, other=0)
        token = tl.where(hit, found, 0)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        inside = hit[:, None] & (token < vocabulary)
        x = tl.load(x_at + token, mask=inside, other=float("-inf")).to(tl.float32)
        key = tl.where(inside, ordered_key(x, STEPS), 0)
        equal = inside & (key == threshold)
        rank = earlier[:, None] + tl.cumsum(equal.to(tl.int32), axis=1)
        weight = _weight(x, top, scale)
        keep = (key > threshold) | (equal & (rank <= room))
        keep &= (weight >= floor) & (weight > 0.0)
        cdf = base[:, None] + tl.cumsum(tl.where(keep, weight, 0.0).to(tl.float64), axis=1)
        drawn = tl.min(tl.where(keep & (cdf > target[:, None]), token, NOWHERE), axis=1)
        # a block's sum and its running sum may differ by a rounding
        drawn = tl.where(drawn < vocabulary, drawn, tl.max(tl.where(keep, token, -1), axis=1))
        drawn = tl.where(drawn >= 0, drawn, best)
        tl.store(out_at + n, drawn.to(tl.int64), mask=n < candidates)


@triton.jit(do_not_specialize=STRIDES)
def draw_any(
    x_at, maxima_at, mass_at, equal_at, t_at, k_at, p_at, m_at, u_at, out_at,
    vocabulary, blocks, candidates, x_stride, t_stride, k_stride, p_stride, m_stride, u_stride, u_step,
    BLOCKS: tl.constexpr, WALK: tl.constexpr, STEPS: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    """Draws a row of any parameters a program.

    Without ALL, rows of a short top_k are left to the other kernel.
    """
    row = tl.program_id(0).to(tl.int64)
    k = tl.load(k_at + row * k_stride).to(tl.int64)
    if (k <= 0) | (k > SHORT) | ALL:
        x_at += row * x_stride
        maxima_at += row * blocks
        out_at += row * candidates
        top, best = row_top(x_at, maxima_at, vocabulary, blocks, BLOCKS, WALK)
        temperature = tl.load(t_at + row * t_stride).to(tl.float64)
        if (temperature > 0) & (top > float("-inf")) & (top < float("inf")):
            scale = (1.0 / temperature).to(tl.float32)
            # survivors: the keys above the threshold, and of its equals the first ``room``
            threshold = tl.full((), 0, tl.uint32)
            room = tl.full((), 0, tl.int32)
            if (k > 0) & (k < vocabulary):
                threshold, above = _cut(x_at, vocabulary, top, scale, k.to(tl.int32), WALK, STEPS, False)
                room = k.to(tl.int32) - above
            top_p = tl.load(p_at + row * p_stride).to(tl.float64)
            if top_p < 1.0:
                total = _mass_above(x_at, vocabulary, top, scale, threshold, WALK, STEPS)
                if room > 0:
                    total += _weight(value_of_key(threshold, STEPS), top, scale).to(tl.float64) * room
                # above 0, so that the most probable token stays
                goal = tl.maximum((top_p - TOLERANCE) * total, 1e-300)
                lowest, before = _cut(x_at, vocabulary, top, scale, goal, WALK, STEPS, True)
                wanted = (goal - before) / _weight(value_of_key(lowest, STEPS), top, scale).to(tl.float64)
                whole = wanted.to(tl.int32)
                whole += (whole.to(tl.float64) < wanted).to(tl.int32)
                room = tl.where(lowest == threshold, tl.minimum(room, whole), whole)
                threshold = lowest
            min_p = tl.minimum(tl.load(m_at + row * m_stride).to(tl.float64), 1.0)
            floor = (min_p * (1.0 - TOLERANCE)).to(tl.float32)
            mass_at += row * (2 * blocks)
            equal_at += row * blocks
            _sum_blocks(
                x_at, mass_at, equal_at, vocabulary, blocks, top, scale, floor, threshold, WALK, STEPS
            )
            tl.debug_barrier()  # what follows reads what other threads wrote
            block = tl.arange(0, BLOCKS)
            equal = tl.load(equal_at + block, mask=block < blocks, other=0)
            mass = tl.load(mass_at + block, mask=block < blocks, other=0.0)
            earlier = tl.cumsum(equal, axis=0) - equal
            if room > 0:
                each = _weight(value_of_key(threshold, STEPS), top, scale)
                each = tl.where(each >= floor, each, 0.0).to(tl.float64)
                mass += each * tl.minimum(tl.maximum(room - earlier, 0), equal)
            cdf = tl.cumsum(mass, axis=0)
            base = cdf - mass
            cdf = tl.where(mass > 0.0, cdf, -1.0)
            total = tl.max(cdf, axis=0)
            tl.debug_barrier()  # all have read before it is overwritten
            tl.store(mass_at + block, cdf, mask=block < blocks)
            tl.store(mass_at + blocks + block, base, mask=block < blocks)
            tl.store(equal_at + block, earlier, mask=block < blocks)
            tl.debug_barrier()
            u_at += row * u_stride
            _draw_from_blocks(
                x_at, mass_at, equal_at, u_at, out_at, vocabulary, blocks, candidates, u_step,
                top, scale, floor, threshold, room, total, best, STEPS,
            )  # fmt: skip
        else:
            fill(out_at, best, candidates)
