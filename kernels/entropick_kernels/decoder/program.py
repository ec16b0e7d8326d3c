"""A step of a decoder as one native program: every thread of the team walks through it.

Rows of activations are shared out by number, panels of weights and heads of attention by who comes first.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from .._native import native, native_worker
from .._threads import address, claim
from ..attention_stats.numba_loops import attend, finish
from . import _plan as P
from ._team import TICKET, UNIT, meet, spread, team_size
from ._tile import LANES
from .loops import gate, mean_signals, rms_norm, rotate, signals
from .products import panels_at_once, product

_FLOAT = 4
# of a type of their own: a literal 0 or 1 would be one, for which numba compiles everything again
_NONE: Any = np.int64(0)
_ADD: Any = np.int64(1)


@native()
def _vector(place: int, n: int) -> Any:
    return numba.carray(address(place), (n,), np.float32)


@native()
def _real(bits: int) -> Any:
    pattern = np.int64(bits)
    return pattern.view(np.float64)


@native()
def _padded(n: int) -> int:
    return (n + LANES - 1) // LANES * LANES


@native()
def _embed(data: Any, me: int, team: int) -> None:
    """x = the embedding of each token."""
    hidden = data[P.HIDDEN]
    ids = numba.carray(address(data[P.IDS]), (data[P.TOKENS],), np.int64)
    for t in range(me, data[P.TOKENS], team):
        x = _vector(data[P.X] + t * _padded(hidden) * _FLOAT, hidden)
        if data[P.TIED]:
            panel, lane = ids[t] // LANES, ids[t] % LANES
            weights = _vector(data[P.HEAD] + panel * LANES * hidden * _FLOAT, LANES * hidden)
            for i in range(hidden):
                x[i] = weights[i * LANES + lane]
        else:
            weights = _vector(data[P.EMBED] + ids[t] * hidden * _FLOAT, hidden)
            for i in range(hidden):
                x[i] = weights[i]


@native()
def _norms(data: Any, weight: int, first: int, me: int, team: int) -> None:
    """y = the norm of x, from token ``first`` on."""
    hidden = data[P.HIDDEN]
    scale, eps = _vector(weight, hidden), _real(data[P.EPS])
    row = _padded(hidden) * _FLOAT
    for t in range(first + me, data[P.TOKENS], team):
        rms_norm(_vector(data[P.X] + t * row, hidden), scale, eps, _vector(data[P.Y] + t * row, hidden))


@native()
def _project(
    data: Any, x: int, rows: int, stride: int, inputs: int, weights: int, bias: int, panels: int, out: int,
    out_stride: int, add: int, gated: int, team: int,
) -> None:  # fmt: skip
    """out = x @ weights + bias, whatever panels this thread gets; ``gated``: where silu goes, 0 for none."""
    some = panels_at_once(rows, inputs, panels, team)
    chunk = claim(data, UNIT)
    while chunk * some < panels:
        first, last = chunk * some, min(panels, chunk * some + some)
        product(x, rows, stride, weights, inputs, first, last, out, out_stride, add)
        n = (last - first) * LANES
        for t in range(rows):
            line = _vector(out + (t * out_stride + first * LANES) * _FLOAT, n)
            if bias:
                more = _vector(bias + first * LANES * _FLOAT, n)
                for i in range(n):
                    line[i] += more[i]
            if gated:
                gate(line, _vector(gated + (t * (out_stride // 2) + first * LANES // 2) * _FLOAT, n // 2))
        chunk = claim(data, UNIT)


@native()
def _place(data: Any, layer: Any, t: int, head: int) -> None:
    """Token t's key and value of one head into its page, and the queries of that head's group."""
    heads, kv_heads, width = data[P.HEADS], data[P.KV_HEADS], data[P.WIDTH]
    half, page, group = width // 2, data[P.PAGE], heads // kv_heads
    eps = _real(data[P.EPS])
    position = numba.carray(address(data[P.POSITIONS]), (data[P.TOKENS],), np.int64)[t]
    slot = numba.carray(address(data[P.SLOTS]), (data[P.TOKENS],), np.int32)[t]
    cos = _vector(data[P.COS] + position * half * _FLOAT, half)
    sin = _vector(data[P.SIN] + position * half * _FLOAT, half)
    joined = data[P.QKV] + t * _padded((heads + 2 * kv_heads) * width) * _FLOAT
    cell = ((slot // page * kv_heads + head) * page + slot % page) * width * _FLOAT
    for h in range(head * group, head * group + group):
        q = _vector(joined + h * width * _FLOAT, width)
        if layer[P.NORM_Q]:
            rms_norm(q, _vector(layer[P.NORM_Q], width), eps, q)
        rotate(q, cos, sin, _vector(data[P.Q] + (t * heads + h) * width * _FLOAT, width))
    k = _vector(joined + (heads + head) * width * _FLOAT, width)
    if layer[P.NORM_K]:
        rms_norm(k, _vector(layer[P.NORM_K], width), eps, k)
    rotate(k, cos, sin, _vector(layer[P.KEYS] + cell, width))
    v = _vector(joined + (heads + kv_heads + head) * width * _FLOAT, width)
    kept = _vector(layer[P.VALUES] + cell, width)
    for i in range(width):
        kept[i] = v[i]


@native()
def _attention(data: Any, layer: Any, me: int, team: int) -> None:
    """Keys and values of all tokens into the pages; attention and statistics of the rows."""
    heads, kv_heads, width = data[P.HEADS], data[P.KV_HEADS], data[P.WIDTH]
    rows, page, window = data[P.ROWS], data[P.PAGE], layer[P.WINDOW]
    before = data[P.TOKENS] - rows
    for t in range(me, before, team):
        for head in range(kv_heads):
            _place(data, layer, t, head)
    if before:
        meet(data, team)  # a row may attend to tokens of its own prompt
    if not rows:
        return
    span = min(data[P.SPAN], window) if window else data[P.SPAN]
    scale = np.float32(_real(layer[P.SCALE]))
    cache = (data[P.PAGES], kv_heads, page, width)
    k_pages = numba.carray(address(layer[P.KEYS]), cache, np.float32)
    v_pages = numba.carray(address(layer[P.VALUES]), cache, np.float32)
    monitored = layer[P.MONITORED]
    size = heads * width * _FLOAT
    for lo in range(0, rows, data[P.BLOCK]):
        some = min(rows - lo, data[P.BLOCK])
        first = before + lo
        at = (
            data[P.SCRATCH_FIGURES]
            if monitored < 0
            else data[P.FIGURES] + (monitored * rows * heads * 4 * _FLOAT)
        )
        figures = numba.carray(address(at + lo * heads * 4 * _FLOAT), (some, heads, 4), np.float32)
        lengths = numba.carray(address(data[P.LENGTHS] + lo * 4), (some,), np.int32)
        table = numba.carray(
            address(data[P.PAGE_TABLE] + lo * data[P.COLUMNS] * 4), (some, data[P.COLUMNS]), np.int32
        )
        q = numba.carray(address(data[P.Q] + first * size), (some, heads, width), np.float32)
        out = numba.carray(address(data[P.ATTENTION] + first * size), (some, heads, width), np.float32)
        p = numba.carray(address(data[P.PROBABILITIES]), (some, heads, span), np.float32)
        unit = claim(data, UNIT)
        while unit < some * kv_heads:
            _place(data, layer, first + unit // kv_heads, unit % kv_heads)
            attend(
                q, k_pages, v_pages, table, lengths, scale, window, np.float32(0.0), p, out, figures,
                unit, unit + 1,
            )  # fmt: skip
            unit = claim(data, UNIT)
        meet(data, team)
        if monitored >= 0:
            for b in range(me, some, team):
                finish(p, lengths, window, figures, b, b + 1)
                row = _vector(data[P.SIGNALS] + ((monitored * rows + lo + b) * 6) * _FLOAT, 6)
                keys = min(lengths[b], window) if window else lengths[b]
                signals(figures[b], keys, row)
            if lo + some < rows:
                meet(data, team)


@native()
def _before(data: Any, layer: Any, me: int, team: int) -> None:
    """From x to the attention of the rows, and q, keys and values of every token."""
    tokens, hidden = data[P.TOKENS], _padded(data[P.HIDDEN])
    joined = _padded((data[P.HEADS] + 2 * data[P.KV_HEADS]) * data[P.WIDTH])
    _norms(data, layer[P.NORM_IN], _NONE, me, team)
    meet(data, team)
    _project(
        data, data[P.Y], tokens, hidden, data[P.HIDDEN], layer[P.W_QKV], layer[P.B_QKV], joined // LANES,
        data[P.QKV], joined, _NONE, _NONE, team,
    )  # fmt: skip
    meet(data, team)
    _attention(data, layer, me, team)


@native()
def _behind(data: Any, layer: Any, me: int, team: int) -> None:
    """From the attention of every token to the next layer's x."""
    tokens, hidden = data[P.TOKENS], _padded(data[P.HIDDEN])
    wide = data[P.HEADS] * data[P.WIDTH]
    ffn = _padded(data[P.FFN])
    _project(
        data, data[P.ATTENTION], tokens, wide, wide, layer[P.W_OUT], layer[P.B_OUT], hidden // LANES,
        data[P.X], hidden, _ADD, _NONE, team,
    )  # fmt: skip
    meet(data, team)
    _norms(data, layer[P.NORM_POST], _NONE, me, team)
    meet(data, team)
    _project(
        data, data[P.Y], tokens, hidden, data[P.HIDDEN], layer[P.W_GATE_UP], layer[P.B_GATE_UP],
        2 * ffn // LANES, data[P.QKV], 2 * ffn, _NONE, data[P.GATED], team,
    )  # fmt: skip
    meet(data, team)
    _project(
        data, data[P.GATED], tokens, ffn, data[P.FFN], layer[P.W_DOWN], layer[P.B_DOWN], hidden // LANES,
        data[P.X], hidden, _ADD, _NONE, team,
    )  # fmt: skip
    meet(data, team)


@native()
def _logits(data: Any, monitored: int, me: int, team: int) -> None:
    """Logits and mean signals of the rows."""
    rows, hidden = data[P.ROWS], _padded(data[P.HIDDEN])
    first = data[P.TOKENS] - rows
    _norms(data, data[P.NORM], first, me, team)
    if me == 0 and monitored:
        by_layer = numba.carray(address(data[P.SIGNALS]), (monitored, rows, 6), np.float32)
        mean = data[P.SIGNALS] + monitored * rows * 6 * _FLOAT
        mean_signals(by_layer, numba.carray(address(mean), (rows, 6), np.float32))
    meet(data, team)
    _project(
        data, data[P.Y] + first * hidden * _FLOAT, rows, hidden, data[P.HIDDEN], data[P.HEAD], _NONE,
        data[P.VOCAB_PANELS], data[P.LOGITS], data[P.VOCAB_PANELS] * LANES, _NONE, _NONE, team,
    )  # fmt: skip


@native()
def run_stages(data: Any) -> None:
    """One thread's way through stages BEGIN to END."""
    team, me = team_size(data), claim(data, TICKET)
    spread(data, me, team)
    layers = numba.carray(address(data[P.LAYER_TABLE]), (data[P.LAYERS], P.FIELDS), np.int64)
    monitored = _NONE
    for i in range(data[P.LAYERS]):
        monitored += layers[i, P.MONITORED] >= 0
    for stage in range(data[P.BEGIN], data[P.END]):
        if stage == 0:
            _embed(data, me, team)
        if stage == 2 * data[P.LAYERS]:
            _logits(data, monitored, me, team)
        elif stage % 2 == 0:
            _before(data, layers[stage // 2], me, team)
        else:
            _behind(data, layers[stage // 2], me, team)


def _worker(data: Any) -> None:
    run_stages(data)


@functools.cache
def compiled() -> Any:
    """The program as machine code ``void(int64*)``; compiled at the first use, not at import."""
    return native_worker(_worker)
