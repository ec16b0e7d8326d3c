"""Kernels of decode attention over a paged cache, measured while it runs; ``triton_impl`` launches them.

With m the largest score so far, y = (s - m) log2 e and p = 2^y the sums are L = sum p, T = sum p y and
S = sum |s|; a new maximum m' turns (L, T) into a (L, T + (m - m') log2 e L), a = 2^((m - m') log2 e), and the
entropy is log2 L - T / L bits. Splits and tiles lie at fixed positions of the sequence and are added in
blocks of a fixed size, so a row's numbers are the same bits whatever its neighbours, the width of the block
table and the blocks are. Nothing is read that this call has not written for this very row.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
# below every score and far enough from the end of float32 that a difference stays finite: -inf would make NaN
_LOWEST = tl.constexpr(-1e38)
# 2^-200 is 0 in float32, and 0 * -200 is 0
_FLOOR = tl.constexpr(-200.0)
# of a head: the float fields of HeadStats
FIGURES = tl.constexpr(5)
# of a head: costs.COST_FIGURES, and costs.LEAST_KNOWN
COSTS = tl.constexpr(4)
_LEAST_KNOWN = tl.constexpr(0.5)
_SPLIT_BLOCK = tl.constexpr(16)
_TILE_BLOCK = tl.constexpr(128)


@triton.jit
def _tanh(x):
    """Computes tanh to about 2e-7, relative: a series near 0, where 1 - e would cancel."""
    square = tl.minimum(x * x, 0.0625)
    series = square * (-0.33333334 + square * (0.13333334 + square * (-0.05396825 + square * 0.021869488)))
    e = tl.exp2(tl.abs(x) * (-2.0 * _LOG2_E))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.25, x + x * series, tl.where(x < 0, -far, far))


@triton.jit
def _span(lengths, b, window, capacity):
    """Returns the first valid key of row b and the end of its keys."""
    end = tl.minimum(tl.load(lengths + b).to(tl.int32), capacity)
    return tl.maximum(end - window, 0), end


@triton.jit
def _pack(p):
    """Returns p in 0..1 as the 16 bits of a float without sign: 4 of exponent, 12 of mantissa.

    2^-15 is added so that the exponent is in range. Error: 2^-13 of p, 2^-28 near 0; 0 and 1 are exact. A
    float16 has 2^-11 of p.
    """
    bits = (p + 0.000030517578125).to(tl.int32, bitcast=True)
    return ((bits - (112 << 23) + 1024) >> 11).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _unpack(packed):
    """Inverts :func:`_pack`."""
    bits = packed.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    return ((bits << 11) + (112 << 23)).to(tl.float32, bitcast=True) - 0.000030517578125


@triton.jit(do_not_specialize=["window", "capacity", "splits", "table_row", "known_keys"])
def attend(
    q, k_blocks, v_blocks, table, lengths, partial, sums, weights, tops, figures,
    surprisals, cost_sums, costs, scale, softcap, window, capacity, splits, table_row, q_row, q_head,
    k_block, k_head, k_offset, v_block, v_head, v_offset, known_keys,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, SPLIT: tl.constexpr,
    CAPPED: tl.constexpr, VALUES: tl.constexpr, STATS: tl.constexpr, KEEP: tl.constexpr,
    COSTED: tl.constexpr, BY_POSITION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Attends to one split of keys with the query heads of one key-value head: partial [.., D], sums.

    The sums are (m, L, T, S). The score of the second newest key goes to the last figure of its head, where
    ``merge`` finds it.

    Without VALUES neither values nor an output exist: ``v_blocks`` and ``partial`` are not touched. COSTED:
    with c the surprisal of a known key, cost_sums are (sum p c, sum p, sum c, number) over the known keys,
    and the score of position 0 goes to the third of its head's ``costs``, where ``merge`` finds it. The
    surprisals lie beside the blocks, or, BY_POSITION, row by row, [B, known_keys].
    """
    b = (tl.program_id(0) // KV_HEADS).to(tl.int64)
    kv = tl.program_id(0) % KV_HEADS
    start, end = _span(lengths, b, window, capacity)
    first = start // SPLIT * SPLIT
    begin = first + tl.program_id(1) * SPLIT
    stop = tl.minimum(end, begin + SPLIT)
    if begin >= stop:
        return
    g = tl.arange(0, GROUP_PAD)
    d = tl.arange(0, WIDTH_PAD)
    heads = b * (KV_HEADS * GROUP) + kv * GROUP + g
    real = (g < GROUP)[:, None] & (d < WIDTH)[None, :]
    query = tl.load(q + b * q_row + (kv * GROUP + g)[:, None] * q_head + d[None, :], mask=real, other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    keys = k_blocks + kv * k_head + d[None, :]
    m = tl.full([GROUP_PAD], _LOWEST, tl.float32)
    # summed over the tile's columns at the very end: a step has one reduction, the maximum
    mass = tl.zeros([GROUP_PAD, TILE], tl.float32)
    t = tl.zeros([GROUP_PAD, TILE], tl.float32)
    size = tl.zeros([GROUP_PAD, TILE], tl.float32)
    if COSTED:
        cost = tl.zeros([GROUP_PAD, TILE], tl.float32)
        known_mass = tl.zeros([GROUP_PAD, TILE], tl.float32)
        bits_sum = tl.zeros([TILE], tl.float32)
        number = tl.zeros([TILE], tl.float32)
    if VALUES:
        values = v_blocks + kv * v_head + d[None, :]
        out = tl.zeros([GROUP_PAD, WIDTH_PAD], tl.float32)
    # a step ahead: while keys wait for their block's id, the compiler keeps but one tile in flight
    lo = tl.maximum(begin, start // TILE * TILE)
    now = lo + tl.arange(0, TILE)
    ahead = tl.load(table + b * table_row + now // BLOCK, mask=(now >= start) & (now < stop), other=0)
    for at in range(lo, stop, TILE):
        position = at + tl.arange(0, TILE)
        valid = (position >= start) & (position < end)
        block = ahead.to(tl.int64)
        later = position + TILE
        ahead = tl.load(table + b * table_row + later // BLOCK, mask=later < stop, other=0)
        offset = position % BLOCK
        # a stale block may hold anything
        readable = valid[:, None] if WIDTH == WIDTH_PAD else valid[:, None] & (d < WIDTH)[None, :]
        k = tl.load(keys + (block * k_block + offset * k_offset)[:, None], mask=readable, other=0.0)
        if VALUES:
            v = tl.load(values + (block * v_block + offset * v_offset)[:, None], mask=readable, other=0.0)
        if UPCAST:
            k = k.to(tl.float32)
            if VALUES:
                v = v.to(tl.float32)
        s = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        if CAPPED:
            s = softcap * _tanh(s / softcap)
        top = tl.maximum(m, tl.max(tl.where(valid[None, :], s, _LOWEST), 1))
        y = (s - top[:, None]) * _LOG2_E
        # not a maximum: that would hide a NaN
        y = tl.where(valid[None, :], tl.where(y < _FLOOR, _FLOOR, y), _FLOOR)
        p = tl.exp2(y)
        shift = (m - top) * _LOG2_E
        fade = tl.exp2(shift)[:, None]
        if STATS:
            t = fade * (t + shift[:, None] * mass) + p * y
            size += tl.where(valid[None, :], tl.abs(s), 0.0)
            previous = figures + (heads * FIGURES + 4)[:, None] + tl.zeros([TILE], tl.int64)[None, :]
            second = valid & (position == end - 2)
            tl.store(previous, s, mask=(g < GROUP)[:, None] & second[None, :])
        mass = fade * mass + p
        if COSTED:
            if BY_POSITION:
                place_of_c = b * known_keys + position
                c = tl.load(surprisals + place_of_c, mask=valid & (position < known_keys), other=-1.0)
            else:
                c = tl.load(surprisals + block * BLOCK + offset, mask=valid, other=-1.0)
            known = c >= 0
            c = tl.where(known, c, 0.0)
            counted = tl.where(known, 1.0, 0.0)
            cost = fade * cost + p * c[None, :]
            known_mass = fade * known_mass + p * counted[None, :]
            bits_sum += c
            number += counted
            sink = costs + (heads * COSTS + 2)[:, None] + tl.zeros([TILE], tl.int64)[None, :]
            tl.store(sink, s, mask=(g < GROUP)[:, None] & (valid & (position == 0))[None, :])
        if VALUES:
            out = fade * out + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        if KEEP:
            column = at - first + tl.arange(0, TILE)
            kept = weights + (heads * (splits * SPLIT))[:, None] + column[None, :]
            tl.store(kept, _pack(p), mask=(g < GROUP)[:, None])
            tl.store(tops + heads * (splits * (SPLIT // TILE)) + (at - first) // TILE, top, mask=g < GROUP)
        m = top
    place = heads * splits + tl.program_id(1)
    if VALUES:
        tl.store(partial + place[:, None] * WIDTH + d[None, :], out, mask=real)
    tl.store(sums + place * 4, m, mask=g < GROUP)
    tl.store(sums + place * 4 + 1, tl.sum(mass, 1), mask=g < GROUP)
    if STATS:
        tl.store(sums + place * 4 + 2, tl.sum(t, 1), mask=g < GROUP)
        tl.store(sums + place * 4 + 3, tl.sum(size, 1), mask=g < GROUP)
    if COSTED:
        none = tl.zeros([GROUP_PAD], tl.float32)
        tl.store(cost_sums + place * 4, tl.sum(cost, 1), mask=g < GROUP)
        tl.store(cost_sums + place * 4 + 1, tl.sum(known_mass, 1), mask=g < GROUP)
        tl.store(cost_sums + place * 4 + 2, none + tl.sum(bits_sum, 0), mask=g < GROUP)
        tl.store(cost_sums + place * 4 + 3, none + tl.sum(number, 0), mask=g < GROUP)


@triton.jit(do_not_specialize=["window", "capacity", "splits"])
def merge(
    partial, sums, lengths, out, figures, softmax, keys, cost_sums, costs, window, capacity, splits,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, WIDTH_PAD: tl.constexpr, SPLIT: tl.constexpr,
    VALUES: tl.constexpr, STATS: tl.constexpr, COSTED: tl.constexpr,
):  # fmt: skip
    """Merges the splits of one head.

    Sets out [D], figures (H, H / log2 n, mean |s|, NaN, attention to the second newest key), softmax (m, L),
    the row's n keys. That attention is NaN for less than two keys. COSTED: sets costs (token cost, relative
    token cost, sink mass, known mass), as ``costs.token_costs`` does.
    """
    head = tl.program_id(0).to(tl.int64)
    start, end = _span(lengths, head // HEADS, window, capacity)
    count = tl.cdiv(end, SPLIT) - start // SPLIT
    d = tl.arange(0, WIDTH_PAD)
    m = tl.full([], _LOWEST, tl.float32)
    mass = tl.zeros([], tl.float32)
    t = tl.zeros([], tl.float32)
    size = tl.zeros([], tl.float32)
    if COSTED:
        cost = tl.zeros([], tl.float32)
        known = tl.zeros([], tl.float32)
        bits_sum = tl.zeros([], tl.float32)
        number = tl.zeros([], tl.float32)
    if VALUES:
        whole = tl.zeros([WIDTH_PAD], tl.float32)
    for at in range(0, count, _SPLIT_BLOCK):
        split = at + tl.arange(0, _SPLIT_BLOCK)
        here = split < count
        place = head * splits + split
        m_part = tl.load(sums + place * 4, mask=here, other=_LOWEST)
        mass_part = tl.load(sums + place * 4 + 1, mask=here, other=0.0)
        top = tl.maximum(m, tl.max(m_part, 0))
        shift = (m - top) * _LOG2_E
        shift_part = (m_part - top) * _LOG2_E
        fade = tl.exp2(shift)
        fade_part = tl.exp2(shift_part)
        if STATS:
            t_part = tl.load(sums + place * 4 + 2, mask=here, other=0.0)
            t = fade * (t + shift * mass) + tl.sum(fade_part * (t_part + shift_part * mass_part), 0)
            size += tl.sum(tl.load(sums + place * 4 + 3, mask=here, other=0.0), 0)
        mass = fade * mass + tl.sum(fade_part * mass_part, 0)
        if COSTED:
            parts = cost_sums + place * 4
            cost = fade * cost + tl.sum(fade_part * tl.load(parts, mask=here, other=0.0), 0)
            known = fade * known + tl.sum(fade_part * tl.load(parts + 1, mask=here, other=0.0), 0)
            bits_sum += tl.sum(tl.load(parts + 2, mask=here, other=0.0), 0)
            number += tl.sum(tl.load(parts + 3, mask=here, other=0.0), 0)
        if VALUES:
            readable = here[:, None] & (d < WIDTH)[None, :]
            part = tl.load(partial + place[:, None] * WIDTH + d[None, :], mask=readable, other=0.0)
            whole = fade * whole + tl.sum(fade_part[:, None] * part, 0)
        m = top
    mass = tl.where(mass == 0, 1.0, mass)  # a row without keys gives zeros
    if VALUES:
        tl.store(out + head * WIDTH + d, (whole / mass).to(out.dtype.element_ty), mask=d < WIDTH)
    if STATS:
        n = end - start
        bits = tl.log2(mass) - t / mass
        bits = tl.where(bits < 0, 0.0, bits)
        ceiling = tl.log2(tl.maximum(n, 2).to(tl.float32))
        tl.store(figures + head * FIGURES, bits)
        tl.store(figures + head * FIGURES + 1, tl.where(n > 1, bits / ceiling, 0.0))
        tl.store(figures + head * FIGURES + 2, size / tl.maximum(n, 1).to(tl.float32))
        tl.store(figures + head * FIGURES + 3, float("nan"))
        score = tl.load(figures + head * FIGURES + 4, mask=n > 1, other=m)
        second = tl.exp2((score - m) * _LOG2_E) / mass
        tl.store(figures + head * FIGURES + 4, tl.where(n > 1, second, float("nan")))
        tl.store(softmax + head * 2, m)
        tl.store(softmax + head * 2 + 1, mass)
        if head % HEADS == 0:
            tl.store(keys + head // HEADS, n.to(tl.int64))
    if COSTED:
        nan = float("nan")
        told = tl.where(known / mass >= _LEAST_KNOWN, cost / tl.where(known == 0, 1.0, known), nan)
        mean = bits_sum / tl.where(number == 0, 1.0, number)
        relative = tl.where(mean > 0, told / tl.where(mean > 0, mean, 1.0), nan)
        seen = (start == 0) & (end > 0)
        score = tl.load(costs + head * COSTS + 2, mask=seen, other=m)
        tl.store(costs + head * COSTS, told)
        tl.store(costs + head * COSTS + 1, relative)
        tl.store(costs + head * COSTS + 2, tl.where(seen, tl.exp2((score - m) * _LOG2_E) / mass, nan))
        tl.store(costs + head * COSTS + 3, known / mass)


@triton.jit
def _attention(weights, tops, softmax, heads, real, tile, splits, TILE: tl.constexpr, SPLIT: tl.constexpr):
    """Returns the attention of some heads to a tile's keys, [heads, TILE]; 0 for heads beyond the last."""
    place = heads * (splits * SPLIT) + tile * TILE
    top = tl.load(tops + place // TILE, mask=real, other=0.0)
    m = tl.load(softmax + heads * 2, mask=real, other=0.0)
    mass = tl.load(softmax + heads * 2 + 1, mask=real, other=1.0)
    column = place[:, None] + tl.arange(0, TILE)[None, :]
    p = _unpack(tl.load(weights + column, mask=real[:, None], other=0.0))
    return tl.where(real, tl.exp2((top - m) * _LOG2_E) / mass, 0.0)[:, None] * p


@triton.jit
def _summed(
    first, weights, tops, softmax, b, tile, splits,
    HEADS: tl.constexpr, HEAD_TILE: tl.constexpr, TILE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Sums the attention of all heads of row b, [TILE]; ``first``: that of the first HEAD_TILE of them."""
    attended = tl.sum(first, 0)
    for lo in tl.static_range(HEAD_TILE, HEADS, HEAD_TILE):
        h = lo + tl.arange(0, HEAD_TILE)
        more = _attention(weights, tops, softmax, b * HEADS + h, h < HEADS, tile, splits, TILE, SPLIT)
        attended += tl.sum(more, 0)
    return attended


@triton.jit
def _outside(lengths, b, tile, window, capacity, TILE: tl.constexpr, SPLIT: tl.constexpr):
    """Returns whether no key of row b lies in the tile."""
    start, end = _span(lengths, b, window, capacity)
    at = start // SPLIT * SPLIT + tile * TILE
    return (at + TILE <= start) | (at >= end)


@triton.jit(do_not_specialize=["window", "capacity", "splits"])
def sum_heads(
    weights, tops, softmax, lengths, attended, window, capacity, splits,
    HEADS: tl.constexpr, HEAD_TILE: tl.constexpr, TILE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Sums the attention of all heads to each key of one tile, attended [B, K]."""
    b = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    if _outside(lengths, b, tile, window, capacity, TILE, SPLIT):
        return
    h = tl.arange(0, HEAD_TILE)
    first = _attention(weights, tops, softmax, b * HEADS + h, h < HEADS, tile, splits, TILE, SPLIT)
    found = _summed(first, weights, tops, softmax, b, tile, splits, HEADS, HEAD_TILE, TILE, SPLIT)
    tl.store(attended + b * (splits * SPLIT) + tile * TILE + tl.arange(0, TILE), found)


@triton.jit(do_not_specialize=["window", "capacity", "splits"])
def deviate(
    weights, tops, softmax, lengths, attended, distances, window, capacity, splits,
    HEADS: tl.constexpr, ALL_HEADS: tl.constexpr, GIVEN: tl.constexpr, HEAD_TILE: tl.constexpr,
    TILE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Computes each head's L1 distance to the mean head in one tile of keys, distances [B, H, tiles].

    The mean of ALL_HEADS heads: these HEADS, or, GIVEN, those whose sum ``attended`` holds.
    """
    b = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    if _outside(lengths, b, tile, window, capacity, TILE, SPLIT):
        return
    tiles = splits * (SPLIT // TILE)
    h = tl.arange(0, HEAD_TILE)
    a = _attention(weights, tops, softmax, b * HEADS + h, h < HEADS, tile, splits, TILE, SPLIT)
    if GIVEN:
        mean = tl.load(attended + b * (splits * SPLIT) + tile * TILE + tl.arange(0, TILE))
    else:
        mean = _summed(a, weights, tops, softmax, b, tile, splits, HEADS, HEAD_TILE, TILE, SPLIT)
    mean = mean / ALL_HEADS
    distance = tl.sum(tl.abs(a - mean[None, :]), 1)
    tl.store(distances + (b * HEADS + h) * tiles + tile, distance, mask=h < HEADS)
    for lo in tl.static_range(HEAD_TILE, HEADS, HEAD_TILE):
        heads = b * HEADS + lo + h
        more = _attention(weights, tops, softmax, heads, lo + h < HEADS, tile, splits, TILE, SPLIT)
        distance = tl.sum(tl.abs(more - mean[None, :]), 1)
        tl.store(distances + heads * tiles + tile, distance, mask=lo + h < HEADS)


@triton.jit(do_not_specialize=["window", "capacity", "splits"])
def total(
    distances, lengths, figures, window, capacity, splits,
    HEADS: tl.constexpr, TILE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Sets one head's deviation: half the sum of its distances over the row's own tiles."""
    head = tl.program_id(0).to(tl.int64)
    start, end = _span(lengths, head // HEADS, window, capacity)
    first = start // SPLIT * SPLIT
    begin = (start - first) // TILE
    stop = tl.cdiv(end - first, TILE)
    found = tl.zeros([_TILE_BLOCK], tl.float32)
    for at in range(begin, stop, _TILE_BLOCK):
        tile = at + tl.arange(0, _TILE_BLOCK)
        place = distances + head * (splits * (SPLIT // TILE)) + tile
        found += tl.load(place, mask=tile < stop, other=0.0)
    tl.store(figures + head * FIGURES + 3, 0.5 * tl.sum(found, 0))
