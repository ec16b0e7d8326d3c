"""Attention of some consecutive tokens of one sequence, by one key-value head, over paged keys.

A token that was generated, a prompt's and one that is computed again go through the same code, and every sum
runs over the token's own keys in their order: a score over the dimensions, an output over the keys, one after
the other; the normaliser in an order that their number gives. So a token's numbers are the same, bit for bit,
alone, in a chunk of any size, and recomputed.

Keys lie in a block [P, Hk, block, D] in an order of their own, so that 16 of them make a vector: where 16
divides the block's size, 16 keys' first dimensions, then their second, ..., then the next 16 keys. In blocks
of other sizes keys lie one behind the other. Values always do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._native import native
from .._threads import address
from ..attention_stats.numba_loops import softmax
from ..attention_stats.stats import FIGURES
from ._tile import paged_tile
from .formats import LANES

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

MOST_ROWS: Final = 6
"""queries (tokens times heads of a group) that meet 16 keys at a time"""
FLOAT: Final = 4
"""bytes of a float32"""
_ZERO: Final = np.float32(0.0)
_ARRANGED_AT_ONCE: Final = 256
"""blocks whose keys are copied at a time"""
# more columns at a time for few rows: a lone column would leave the processor waiting
_SCORES_ONE: Final = paged_tile((1,), 4, go_on=False)
_SCORES_FEW: Final = paged_tile((2, 3), 2, go_on=False)
_SCORES_ANY: Final = paged_tile(range(1, MOST_ROWS + 1), 1, go_on=False)
_BLEND_ONE: Final = paged_tile((1,), 4, go_on=True)
_BLEND_FEW: Final = paged_tile((2, 3), 2, go_on=True)
_BLEND_ANY: Final = paged_tile(range(1, MOST_ROWS + 1), 1, go_on=True)


class QueryRun(NamedTuple):
    """A run of consecutive tokens of one sequence, whose queries of one group of heads attend together.

    A row is a token's query of one head: row r belongs to token r // group. All but ``blocks`` are numbers;
    the arrays are given by their addresses.
    """

    queries: int
    """[tokens, group, width], times the scale"""
    tokens: int
    group: int
    """query heads that share the key-value head"""
    width: int
    """dimensions of a head"""
    length: int
    """keys that the first token sees; the second sees one more, and so on"""
    window: int
    """how many of the last keys a token sees; 0 for all"""
    keys: int
    """where the key-value head's keys lie in the layer's first block"""
    values: int
    blocks: Int32
    """the sequence's block ids"""
    block: int
    """tokens of a block"""
    block_floats: int
    """floats of a block: its keys, or values, of all key-value heads"""
    probabilities: int
    """[tokens, group, span], filled from key ``first_key`` of the first token on"""
    span: int
    out: int
    """[tokens, group, width]"""
    figures: int
    """[tokens, group, figures_stride], of which all but the deviation are filled"""
    figures_stride: int


@native()
def vector(place: int, n: int) -> Any:
    """Returns n floats at an address as an array."""
    return numba.carray(address(place), (n,), np.float32)


@native()
def key_cell(offset: int, block: int, width: int) -> tuple[int, int]:
    """Returns where in a block's head a key begins and how far apart its dimensions are, in floats."""
    if block % LANES:
        return offset * width, 1
    return offset // LANES * LANES * width + offset % LANES, LANES


def arrange_keys(layers: Sequence[Tensor], blocks: Sequence[int]) -> None:
    """Brings keys in the order of their positions into the order of this module, in place.

    ``layers``: the keys of each, [P, Hk, block, D]; ``blocks``: the numbers of the blocks, each to be given
    once, for a second time would bring them into disorder.
    """
    if not layers or layers[0].shape[2] % LANES:
        return
    index = torch.tensor(blocks, dtype=torch.int64)
    for keys in layers:
        _, heads, block, width = keys.shape
        for some in torch.split(index, _ARRANGED_AT_ONCE):
            panels = keys[some].view(len(some), heads, block // LANES, LANES, width)
            keys[some] = panels.transpose(-1, -2).reshape(len(some), heads, block, width)


@native("contract")
def _score_plain(q: int, rows: int, width: int, k: int, count: int, out: int, span: int) -> None:
    """Scores any number of queries and keys that follow each other in a block, in the order of the tiles."""
    for r in range(rows):
        query, line = vector(q + r * width * FLOAT, width), vector(out + r * span * FLOAT, count)
        for j in range(count):
            key = vector(k + j * width * FLOAT, width)
            total = _ZERO
            for d in range(width):
                total += query[d] * key[d]
            line[j] = total


@native("contract")
def _blend_plain(p: int, span: int, rows: int, v: int, count: int, width: int, first: int, out: int) -> None:
    """Computes :func:`_blend` for the dimensions from ``first`` on."""
    for r in range(rows):
        line, result = vector(p + r * span * FLOAT, count), vector(out + r * width * FLOAT, width)
        for j in range(count):
            value, share = vector(v + j * width * FLOAT, width), line[j]
            for d in range(first, width):
                result[d] += share * value[d]


@native()
def _blend(p: int, span: int, rows: int, v: int, count: int, width: int, out: int, ahead: int) -> None:
    """Adds p [rows, count] @ v [count, width] to out [rows, width], for up to 6 rows.

    Meanwhile the values of as many keys are fetched from ``ahead`` on.
    """
    panels = width // LANES
    step, share = LANES * FLOAT, count * LANES * FLOAT
    c = 0
    if rows == 1:
        while c + 4 <= panels:
            w, a = v + c * step, ahead + c * share
            _BLEND_ONE(
                rows, p, span, w, w + step, w + 2 * step, w + 3 * step, width, count, out + c * step, width,
                a, a + share, a + 2 * share, a + 3 * share,
            )  # fmt: skip
            c += 4
    elif rows <= MOST_ROWS // 2:
        while c + 2 <= panels:
            w, a = v + c * step, ahead + c * share
            _BLEND_FEW(rows, p, span, w, w + step, width, count, out + c * step, width, a, a + share)
            c += 2
    while c < panels:
        _BLEND_ANY(rows, p, span, v + c * step, width, count, out + c * step, width, ahead + c * share)
        c += 1
    if panels * LANES < width:
        _blend_plain(p, span, rows, v, count, width, panels * LANES, out)


@native()
def _keys_at(run: QueryRun, at: int) -> Any:
    """Returns the address of the 16 keys from ``at`` on."""
    block = run.blocks[at // run.block] * run.block_floats
    return run.keys + (block + at % run.block * run.width) * FLOAT


@native()
def _scores(run: QueryRun, base: int) -> None:
    """Sets p[r, j] = q[r] . key base + j, for the keys that any row of a tile may see, and some more."""
    rows, end = run.tokens * run.group, run.length + run.tokens - 1
    q, p, width, span = run.queries, run.probabilities, run.width, run.span
    at = base
    if run.block % LANES:
        while at < end:
            to = p + (at - base) * FLOAT
            _score_plain(q, rows, width, _keys_at(run, at), min(run.block, end - at), to, span)
            at += run.block
        return
    if rows <= MOST_ROWS // 2:
        wide = LANES * (4 if rows == 1 else 2)
        while at + wide - LANES < end:
            following = at + wide
            # the keys to fetch meanwhile: the next ones, where there are as many
            ahead = following if following + wide - LANES < end else at
            to = p + (at - base) * FLOAT
            k0, k1 = _keys_at(run, at), _keys_at(run, at + LANES)
            a0, a1 = _keys_at(run, ahead), _keys_at(run, ahead + LANES)
            if rows == 1:
                k2, k3 = _keys_at(run, at + 2 * LANES), _keys_at(run, at + 3 * LANES)
                a2, a3 = _keys_at(run, ahead + 2 * LANES), _keys_at(run, ahead + 3 * LANES)
                _SCORES_ONE(rows, q, width, k0, k1, k2, k3, LANES, width, to, span, a0, a1, a2, a3)
            else:
                _SCORES_FEW(rows, q, width, k0, k1, LANES, width, to, span, a0, a1)
            at = following
    tiles = (rows + MOST_ROWS - 1) // MOST_ROWS
    while at < end:
        k = _keys_at(run, at)
        a = _keys_at(run, at + LANES) if at + LANES < end else k
        first = 0
        for tile in range(tiles):
            last = rows * (tile + 1) // tiles
            seen = run.length + (last - 1) // run.group
            gone = max(run.length + first // run.group - run.window, 0) if run.window else 0
            if at < seen and at + LANES > gone:
                to = p + (first * span + at - base) * FLOAT
                _SCORES_ANY(last - first, q + first * width * FLOAT, width, k, LANES, width, to, span, a)
            first = last
        at += LANES


@native()
def _blend_row(run: QueryRun, base: int, r: int, start: int, stop: int, v: int) -> None:
    """Adds keys start..stop to the output of row r; the first value of ``v`` is that of key ``start``."""
    if start < stop:
        p = run.probabilities + (r * run.span + start - base) * FLOAT
        out = run.out + r * run.width * FLOAT
        _blend(p, run.span, 1, v, stop - start, run.width, out, v)


@native()
def _outputs(run: QueryRun, base: int) -> None:
    """Sets out[r] = sum of p[r, j] times value base + j over the keys of row r."""
    rows, end = run.tokens * run.group, run.length + run.tokens - 1
    width, group, length, window = run.width, run.group, run.length, run.window
    every = vector(run.out, rows * width)
    every[:] = _ZERO
    tiles = (rows + MOST_ROWS - 1) // MOST_ROWS
    at = base
    while at < end:
        following = min(at + run.block, end)
        v = run.values + run.blocks[at // run.block] * run.block_floats * FLOAT
        ahead = v
        if following < end:
            ahead = run.values + run.blocks[following // run.block] * run.block_floats * FLOAT
        first = 0
        for tile in range(tiles):
            last = rows * (tile + 1) // tiles
            # what every row of the tile sees; then row by row what only some do, in the order of the keys
            low = max(length + (last - 1) // group - window, 0) if window else 0
            high = length + first // group
            begin, until = max(low, at), min(high, following)
            for r in range(first, last):
                start = max(length + r // group - window, 0) if window else 0
                start, stop = max(start, at), min(low, length + r // group, following)
                _blend_row(run, base, r, start, stop, v + (start - at) * width * FLOAT)
            if begin < until:
                p = run.probabilities + (first * run.span + begin - base) * FLOAT
                _blend(
                    p, run.span, last - first, v + (begin - at) * width * FLOAT, until - begin, width,
                    run.out + first * width * FLOAT, ahead,
                )  # fmt: skip
            for r in range(first, last):
                start, stop = max(high, low, at), min(length + r // group, following)
                _blend_row(run, base, r, start, stop, v + (start - at) * width * FLOAT)
            first = last
        at = following


@native()
def first_key(length: int, window: int, block: int) -> int:
    """Returns the first key of the first block that a token with ``length`` keys looks into."""
    return max(length - window, 0) // block * block if window else 0


@native()
def attend(run: QueryRun) -> None:
    """Computes the attention of a run: probabilities, outputs, each row's figures but the deviation."""
    base = first_key(run.length, run.window, run.block)
    _scores(run, base)
    for r in range(run.tokens * run.group):
        seen = run.length + r // run.group
        start = max(seen - run.window, 0) if run.window else 0
        place = run.probabilities + (r * run.span + start - base) * FLOAT
        figures = vector(run.figures + r * run.figures_stride * FLOAT, FIGURES)
        softmax(vector(place, seen - start), seen - start, figures)
    _outputs(run, base)
