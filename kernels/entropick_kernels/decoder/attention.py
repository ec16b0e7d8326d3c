"""Attention of some tokens of one sequence that follow each other, by one key-value head, over paged keys.

A token that was generated, a prompt's and one that is computed again go through the same code, and every sum
runs over the token's own keys in their order: a score over the dimensions, an output over the keys, one after
the other; the normaliser in an order that their number gives. So a token's numbers are the same, bit for bit,
alone, in a chunk of any size, and recomputed.

Keys lie in a page [P, Hk, page, D] in an order of their own, so that 16 of them make a vector: where 16
divides the page's size, 16 keys' first dimensions, then their second, ..., then the next 16 keys. In pages of
other sizes keys lie one behind the other. Values always do.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from .._native import native
from .._threads import address
from ..attention_stats.numba_loops import softmax
from ._strided import strided_tile
from ._tile import LANES

Float32 = npt.NDArray[np.float32]

MOST_ROWS: Final = 6
"""queries (tokens times heads of a group) that meet 16 keys at a time"""
_FLOAT: Final = 4
_ZERO: Final = np.float32(0.0)
_SCORE_1_4: Final = strided_tile(1, 4, go_on=False)
_SCORE_2_2: Final = strided_tile(2, 2, go_on=False)
_SCORE_3_2: Final = strided_tile(3, 2, go_on=False)
_SCORE_1: Final = strided_tile(1, 1, go_on=False)
_SCORE_2: Final = strided_tile(2, 1, go_on=False)
_SCORE_3: Final = strided_tile(3, 1, go_on=False)
_SCORE_4: Final = strided_tile(4, 1, go_on=False)
_SCORE_5: Final = strided_tile(5, 1, go_on=False)
_SCORE_6: Final = strided_tile(6, 1, go_on=False)
_BLEND_1_4: Final = strided_tile(1, 4, go_on=True)
_BLEND_2_2: Final = strided_tile(2, 2, go_on=True)
_BLEND_3_2: Final = strided_tile(3, 2, go_on=True)
_BLEND_1: Final = strided_tile(1, 1, go_on=True)
_BLEND_2: Final = strided_tile(2, 1, go_on=True)
_BLEND_3: Final = strided_tile(3, 1, go_on=True)
_BLEND_4: Final = strided_tile(4, 1, go_on=True)
_BLEND_5: Final = strided_tile(5, 1, go_on=True)
_BLEND_6: Final = strided_tile(6, 1, go_on=True)


@native()
def vector(place: int, n: int) -> Any:
    """n floats at an address."""
    return numba.carray(address(place), (n,), np.float32)


@native()
def key_cell(offset: int, page: int, width: int) -> tuple[int, int]:
    """Where in a page's head a key begins, and how far apart its dimensions are; floats."""
    if page % LANES:
        return offset * width, 1
    return offset // LANES * LANES * width + offset % LANES, LANES


@native()
def _score_wide(
    q: int, rows: int, width: int, k0: int, k1: int, k2: int, k3: int, out: int, span: int, a0: int, a1: int,
    a2: int, a3: int,
) -> None:  # fmt: skip
    """1 query and 64 keys, 2 or 3 queries and 32: fewer would leave the processor waiting."""
    if rows == 1:
        _SCORE_1_4(q, width, k0, k1, k2, k3, LANES, width, out, span, a0, a1, a2, a3)
    elif rows == 2:
        _SCORE_2_2(q, width, k0, k1, k2, k3, LANES, width, out, span, a0, a1, a2, a3)
    else:
        _SCORE_3_2(q, width, k0, k1, k2, k3, LANES, width, out, span, a0, a1, a2, a3)


@native()
def _score(q: int, rows: int, width: int, k: int, out: int, span: int, a: int) -> None:
    """Up to 6 queries and 16 keys."""
    if rows == 1:
        _SCORE_1(q, width, k, k, k, k, LANES, width, out, span, a, a, a, a)
    elif rows == 2:
        _SCORE_2(q, width, k, k, k, k, LANES, width, out, span, a, a, a, a)
    elif rows == 3:
        _SCORE_3(q, width, k, k, k, k, LANES, width, out, span, a, a, a, a)
    elif rows == 4:
        _SCORE_4(q, width, k, k, k, k, LANES, width, out, span, a, a, a, a)
    elif rows == 5:
        _SCORE_5(q, width, k, k, k, k, LANES, width, out, span, a, a, a, a)
    else:
        _SCORE_6(q, width, k, k, k, k, LANES, width, out, span, a, a, a, a)


@native("contract")
def _score_plain(q: int, rows: int, width: int, k: int, count: int, out: int, span: int) -> None:
    """Any number of queries and keys, where keys lie one behind the other; the tiles' order of sums."""
    for r in range(rows):
        query, line = vector(q + r * width * _FLOAT, width), vector(out + r * span * _FLOAT, count)
        for j in range(count):
            key = vector(k + j * width * _FLOAT, width)
            total = _ZERO
            for d in range(width):
                total += query[d] * key[d]
            line[j] = total


@native("contract")
def _blend_plain(p: int, span: int, rows: int, v: int, count: int, width: int, first: int, out: int) -> None:
    """:func:`_blend` for the dimensions from ``first`` on."""
    for r in range(rows):
        line, result = vector(p + r * span * _FLOAT, count), vector(out + r * width * _FLOAT, width)
        for j in range(count):
            value, share = vector(v + j * width * _FLOAT, width), line[j]
            for d in range(first, width):
                result[d] += share * value[d]


@native()
def _blend(p: int, span: int, rows: int, v: int, count: int, width: int, out: int, ahead: int) -> None:
    """out [rows, width] += p [rows, count] @ v [count, width], for up to 6 rows.

    Meanwhile the values of as many keys are fetched from ``ahead`` on.
    """
    panels = width // LANES
    step, share = LANES * _FLOAT, count * LANES * _FLOAT
    c = 0
    if rows == 1:
        while c + 4 <= panels:
            w, a = v + c * step, ahead + c * share
            _BLEND_1_4(
                p, span, w, w + step, w + 2 * step, w + 3 * step, width, count, out + c * step, width, a,
                a + share, a + 2 * share, a + 3 * share,
            )  # fmt: skip
            c += 4
    elif rows <= MOST_ROWS // 2:
        while c + 2 <= panels:
            w, a, to = v + c * step, ahead + c * share, out + c * step
            if rows == 2:
                _BLEND_2_2(p, span, w, w + step, w, w, width, count, to, width, a, a + share, a, a)
            else:
                _BLEND_3_2(p, span, w, w + step, w, w, width, count, to, width, a, a + share, a, a)
            c += 2
    while c < panels:
        w, a, to = v + c * step, ahead + c * share, out + c * step
        if rows == 1:
            _BLEND_1(p, span, w, w, w, w, width, count, to, width, a, a, a, a)
        elif rows == 2:
            _BLEND_2(p, span, w, w, w, w, width, count, to, width, a, a, a, a)
        elif rows == 3:
            _BLEND_3(p, span, w, w, w, w, width, count, to, width, a, a, a, a)
        elif rows == 4:
            _BLEND_4(p, span, w, w, w, w, width, count, to, width, a, a, a, a)
        elif rows == 5:
            _BLEND_5(p, span, w, w, w, w, width, count, to, width, a, a, a, a)
        else:
            _BLEND_6(p, span, w, w, w, w, width, count, to, width, a, a, a, a)
        c += 1
    if panels * LANES < width:
        _blend_plain(p, span, rows, v, count, width, panels * LANES, out)


@native()
def _block(cache: int, pages: Any, page: int, size: int, at: int, width: int) -> Any:
    """Address of the 16 keys from ``at`` on."""
    return cache + (pages[at // page] * size + at % page * width) * _FLOAT


@native()
def _scores(
    q: int, tokens: int, group: int, width: int, length: int, window: int, keys: int, pages: Any, page: int,
    size: int, base: int, p: int, span: int,
) -> None:  # fmt: skip
    """p[r, j] = q[r] . key base + j, for the keys that any row of a tile may see, and some more."""
    rows, end = tokens * group, length + tokens - 1
    at = base
    if page % LANES:
        while at < end:
            k = keys + pages[at // page] * size * _FLOAT
            _score_plain(q, rows, width, k, min(page, end - at), p + (at - base) * _FLOAT, span)
            at += page
        return
    if rows <= MOST_ROWS // 2:
        wide = LANES * (4 if rows == 1 else 2)
        while at + wide - LANES < end:
            k0 = _block(keys, pages, page, size, at, width)
            k1 = _block(keys, pages, page, size, at + LANES, width)
            k2 = k3 = k1
            if rows == 1:
                k2 = _block(keys, pages, page, size, at + 2 * LANES, width)
                k3 = _block(keys, pages, page, size, at + 3 * LANES, width)
            a0, a1, a2, a3 = k0, k1, k2, k3
            following = at + wide
            if following + wide - LANES < end:
                a0 = _block(keys, pages, page, size, following, width)
                a1 = _block(keys, pages, page, size, following + LANES, width)
                if rows == 1:
                    a2 = _block(keys, pages, page, size, following + 2 * LANES, width)
                    a3 = _block(keys, pages, page, size, following + 3 * LANES, width)
            _score_wide(q, rows, width, k0, k1, k2, k3, p + (at - base) * _FLOAT, span, a0, a1, a2, a3)
            at = following
    tiles = (rows + MOST_ROWS - 1) // MOST_ROWS
    while at < end:
        k = _block(keys, pages, page, size, at, width)
        a = _block(keys, pages, page, size, at + LANES, width) if at + LANES < end else k
        first = 0
        for tile in range(tiles):
            last = rows * (tile + 1) // tiles
            seen = length + (last - 1) // group
            gone = max(length + first // group - window, 0) if window else 0
            if at < seen and at + LANES > gone:
                place = p + (first * span + at - base) * _FLOAT
                _score(q + first * width * _FLOAT, last - first, width, k, place, span, a)
            first = last
        at += LANES


@native()
def _outputs(
    p: int, span: int, tokens: int, group: int, width: int, length: int, window: int, values: int, pages: Any,
    page: int, size: int, base: int, out: int,
) -> None:  # fmt: skip
    """out[r] = sum of p[r, j] times value base + j over the keys of row r; out [rows, width]."""
    rows, end = tokens * group, length + tokens - 1
    every = vector(out, rows * width)
    every[:] = _ZERO
    tiles = (rows + MOST_ROWS - 1) // MOST_ROWS
    at = base
    while at < end:
        following = min(at + page, end)
        v = values + pages[at // page] * size * _FLOAT
        ahead = values + pages[following // page] * size * _FLOAT if following < end else v
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
                if start < stop:
                    _blend(
                        p + (r * span + start - base) * _FLOAT, span, 1, v + (start - at) * width * _FLOAT,
                        stop - start, width, out + r * width * _FLOAT, v,
                    )  # fmt: skip
            if begin < until:
                _blend(
                    p + (first * span + begin - base) * _FLOAT, span, last - first,
                    v + (begin - at) * width * _FLOAT, until - begin, width, out + first * width * _FLOAT,
                    ahead,
                )  # fmt: skip
            for r in range(first, last):
                start, stop = max(high, low, at), min(length + r // group, following)
                if start < stop:
                    _blend(
                        p + (r * span + start - base) * _FLOAT, span, 1, v + (start - at) * width * _FLOAT,
                        stop - start, width, out + r * width * _FLOAT, v,
                    )  # fmt: skip
            first = last
        at = following


@native()
def first_key(length: int, window: int, page: int) -> int:
    """The first key of the first page that a token with ``length`` keys looks into."""
    return max(length - window, 0) // page * page if window else 0


@native()
def attend(
    q: int, tokens: int, group: int, width: int, length: int, window: int, keys: int, values: int, pages: Any,
    page: int, kv_heads: int, head: int, p: int, span: int, out: int, figures: int, stride: int,
) -> None:  # fmt: skip
    """Attention of ``tokens`` tokens, the first of which sees ``length`` keys, by key-value head ``head``.

    q, out [tokens, group, width], queries times the scale; p [tokens, group, span] gets the probabilities,
    those of a token from key ``first_key`` of the FIRST one on; figures [.., stride] the first three figures
    of each row. ``keys``, ``values``: a layer's pages; ``pages`` int32, the sequence's. All are addresses but
    ``pages``; ``window`` is 0 where there is none.
    """
    size = kv_heads * page * width
    inside = head * page * width * _FLOAT
    base = first_key(length, window, page)
    _scores(q, tokens, group, width, length, window, keys + inside, pages, page, size, base, p, span)
    for r in range(tokens * group):
        seen = length + r // group
        start = max(seen - window, 0) if window else 0
        place = p + (r * span + start - base) * _FLOAT
        softmax(vector(place, seen - start), seen - start, vector(figures + r * stride * _FLOAT, 4))
    _outputs(p, span, tokens, group, width, length, window, values + inside, pages, page, size, base, out)
