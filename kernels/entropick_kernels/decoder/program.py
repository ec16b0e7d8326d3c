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
from ..attention_stats.numba_loops import deviations
from . import _plan as P
from ._team import TICKET, UNIT, meet, spread, team_size
from ._tile import LANES
from .attention import attend, first_key, key_cell, vector
from .loops import gate, mean_signals, rms_norm, rotate, signals
from .products import panels_at_once, product

_FLOAT = 4
# of a type of their own: a literal 0 or 1 would be one, for which numba compiles everything again
_NONE: Any = np.int64(0)
_ADD: Any = np.int64(1)


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
        x = vector(data[P.X] + t * _padded(hidden) * _FLOAT, hidden)
        if data[P.TIED]:
            panel, lane = ids[t] // LANES, ids[t] % LANES
            weights = vector(data[P.HEAD] + panel * LANES * hidden * _FLOAT, LANES * hidden)
            for i in range(hidden):
                x[i] = weights[i * LANES + lane]
        else:
            weights = vector(data[P.EMBED] + ids[t] * hidden * _FLOAT, hidden)
            for i in range(hidden):
                x[i] = weights[i]


@native()
def _norms(data: Any, weight: int, first: int, me: int, team: int) -> None:
    """y = the norm of x, from token ``first`` on."""
    hidden = data[P.HIDDEN]
    scale, eps = vector(weight, hidden), _real(data[P.EPS])
    row = _padded(hidden) * _FLOAT
    for t in range(first + me, data[P.TOKENS], team):
        rms_norm(vector(data[P.X] + t * row, hidden), scale, eps, vector(data[P.Y] + t * row, hidden))


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
            line = vector(out + (t * out_stride + first * LANES) * _FLOAT, n)
            if bias:
                more = vector(bias + first * LANES * _FLOAT, n)
                for i in range(n):
                    line[i] += more[i]
            if gated:
                gate(line, vector(gated + (t * (out_stride // 2) + first * LANES // 2) * _FLOAT, n // 2))
        chunk = claim(data, UNIT)


@native()
def _place(data: Any, layer: Any, head: int, begin: int, end: int) -> None:
    """Keys and values of tokens begin..end of one head into their pages, and the queries of its group."""
    heads, kv_heads, width = data[P.HEADS], data[P.KV_HEADS], data[P.WIDTH]
    half, page, group = width // 2, data[P.PAGE], heads // kv_heads
    eps, scale = _real(data[P.EPS]), np.float32(_real(layer[P.SCALE]))
    positions = numba.carray(address(data[P.POSITIONS]), (data[P.TOKENS],), np.int64)
    slots = numba.carray(address(data[P.SLOTS]), (data[P.TOKENS],), np.int32)
    key = np.empty(width, dtype=np.float32)
    for t in range(begin, end):
        cos = vector(data[P.COS] + positions[t] * half * _FLOAT, half)
        sin = vector(data[P.SIN] + positions[t] * half * _FLOAT, half)
        joined = data[P.QKV] + t * _padded((heads + 2 * kv_heads) * width) * _FLOAT
        for h in range(group):
            q = vector(joined + (head * group + h) * width * _FLOAT, width)
            if layer[P.NORM_Q]:
                rms_norm(q, vector(layer[P.NORM_Q], width), eps, q)
            query = vector(_query(data, head, t) + h * width * _FLOAT, width)
            rotate(q, cos, sin, query)
            for i in range(width):
                query[i] *= scale
        k = vector(joined + (heads + head) * width * _FLOAT, width)
        if layer[P.NORM_K]:
            rms_norm(k, vector(layer[P.NORM_K], width), eps, k)
        rotate(k, cos, sin, key)
        cell = (slots[t] // page * kv_heads + head) * page * width
        at, step = key_cell(slots[t] % page, page, width)
        kept = vector(layer[P.KEYS] + (cell + at) * _FLOAT, (width - 1) * step + 1)
        for i in range(width):
            kept[i * step] = key[i]
        v = vector(joined + (heads + kv_heads + head) * width * _FLOAT, width)
        kept = vector(layer[P.VALUES] + (cell + slots[t] % page * width) * _FLOAT, width)
        for i in range(width):
            kept[i] = v[i]


@native()
def _query(data: Any, head: int, t: int) -> Any:
    """Address of token t's queries for a key-value head; tokens that follow each other lie so."""
    group = data[P.HEADS] // data[P.KV_HEADS]
    return data[P.Q] + (head * data[P.TOKENS] + t) * group * data[P.WIDTH] * _FLOAT


@native()
def _attention(data: Any, layer: Any, me: int, team: int) -> None:
    """Keys and values of all tokens into the pages; attention of all, statistics of the rows."""
    heads, kv_heads, width = data[P.HEADS], data[P.KV_HEADS], data[P.WIDTH]
    rows, tokens, page, window = data[P.ROWS], data[P.TOKENS], data[P.PAGE], layer[P.WINDOW]
    group, before = heads // kv_heads, data[P.TOKENS] - data[P.ROWS]
    # neighbours in the cache belong to neighbours in the step: no two threads write into one line
    for head in range(kv_heads):
        _place(data, layer, head, me * tokens // team, (me + 1) * tokens // team)
    meet(data, team)
    monitored = layer[P.MONITORED]
    runs = numba.carray(address(data[P.RUNS]), (data[P.UNITS], P.RUN_FIELDS), np.int64)
    every = numba.carray(address(data[P.LENGTHS]), (rows,), np.int32)
    mine = data[P.SCRATCH] + me * data[P.SCRATCH_SIZE] * _FLOAT
    of_layer = data[P.FIGURES] + monitored * rows * heads * 4 * _FLOAT
    of_layer = data[P.SCRATCH_FIGURES] if monitored < 0 else of_layer
    lo = 0
    while True:
        some = min(rows - lo, data[P.BLOCK])
        prompts = (data[P.UNITS] if lo == 0 else 0) * kv_heads
        unit = claim(data, UNIT)
        while unit < prompts + some * kv_heads:
            head = unit % kv_heads
            if unit < prompts:
                # the last tokens of a prompt see the most keys: they go first
                run = runs[data[P.UNITS] - 1 - unit // kv_heads]
                first, count, length, place = run[0], run[1], run[2], run[3]
                p, span, stride = mine, data[P.UNIT_SPAN], 0
                out = p + count * group * span * _FLOAT
                figures = out + count * group * width * _FLOAT
            else:
                b = (unit - prompts) // kv_heads
                first, count, length = before + lo + b, 1, np.int64(every[lo + b])
                place = data[P.PAGE_TABLE] + (lo + b) * data[P.COLUMNS] * 4
                span, stride = data[P.SPAN], 4
                p = data[P.PROBABILITIES] + (b * heads + head * group) * span * _FLOAT
                out = data[P.ATTENTION] + (first * heads + head * group) * width * _FLOAT
                figures = of_layer + ((lo + b) * heads + head * group) * 4 * _FLOAT
            pages = numba.carray(address(place), ((length + count - 2) // page + 1,), np.int32)
            # the one place where tokens attend, rows and prompts alike: the same instructions for all
            attend(
                _query(data, head, first), count, group, width, length, window, layer[P.KEYS],
                layer[P.VALUES], pages, page, kv_heads, head, p, span, out, figures, stride,
            )  # fmt: skip
            if unit < prompts:
                _deal_out(data, out, first, count, head)
            unit = claim(data, UNIT)
        meet(data, team)
        if monitored >= 0:
            for b in range(me, some, team):
                _measure(data, monitored, lo, b, window, of_layer)
        lo += data[P.BLOCK]
        if lo >= rows:
            return
        meet(data, team)


@native()
def _deal_out(data: Any, out: int, first: int, count: int, head: int) -> None:
    """The outputs of a run to where each token's heads lie side by side."""
    heads, width = data[P.HEADS], data[P.WIDTH]
    size = heads // data[P.KV_HEADS] * width
    for t in range(count):
        result = vector(out + t * size * _FLOAT, size)
        kept = vector(data[P.ATTENTION] + ((first + t) * heads * width + head * size) * _FLOAT, size)
        for i in range(size):
            kept[i] = result[i]


@native()
def _measure(data: Any, monitored: int, lo: int, b: int, window: int, of_layer: int) -> None:
    """What compares the heads of row lo + b, once every head's probabilities are there; the row's signals."""
    rows, heads, span = data[P.ROWS], data[P.HEADS], data[P.SPAN]
    length: Any = np.int64(numba.carray(address(data[P.LENGTHS]), (rows,), np.int32)[lo + b])
    start = max(length - window, 0) if window else 0
    n = length - start
    place = (
        data[P.PROBABILITIES] + (b * heads * span + start - first_key(length, window, data[P.PAGE])) * _FLOAT
    )
    p = numba.carray(address(place), (heads, span), np.float32)
    figures = numba.carray(address(of_layer + (lo + b) * heads * 4 * _FLOAT), (heads, 4), np.float32)
    mean = np.empty(n, dtype=np.float32)
    deviations(p, n, mean, figures)
    signals(figures, n, vector(data[P.SIGNALS] + (monitored * rows + lo + b) * 6 * _FLOAT, 6))


@native()
def _layer(data: Any, layer: Any, me: int, team: int) -> None:
    """From x to the next layer's x."""
    tokens, hidden = data[P.TOKENS], _padded(data[P.HIDDEN])
    joined = _padded((data[P.HEADS] + 2 * data[P.KV_HEADS]) * data[P.WIDTH])
    wide = data[P.HEADS] * data[P.WIDTH]
    ffn = _padded(data[P.FFN])
    _norms(data, layer[P.NORM_IN], _NONE, me, team)
    meet(data, team)
    _project(
        data, data[P.Y], tokens, hidden, data[P.HIDDEN], layer[P.W_QKV], layer[P.B_QKV], joined // LANES,
        data[P.QKV], joined, _NONE, _NONE, team,
    )  # fmt: skip
    meet(data, team)
    _attention(data, layer, me, team)
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
def run_step(data: Any) -> None:
    """One thread's way through a step."""
    team, me = team_size(data), claim(data, TICKET)
    spread(data, me, team)
    layers = numba.carray(address(data[P.LAYER_TABLE]), (data[P.LAYERS], P.FIELDS), np.int64)
    monitored = _NONE
    for i in range(data[P.LAYERS]):
        monitored += layers[i, P.MONITORED] >= 0
    _embed(data, me, team)
    for i in range(data[P.LAYERS]):
        _layer(data, layers[i], me, team)
    if data[P.ROWS]:
        _logits(data, monitored, me, team)


def _worker(data: Any) -> None:
    run_step(data)


@functools.cache
def compiled() -> Any:
    """The program as machine code ``void(int64*)``; compiled at the first use, not at import."""
    return native_worker(_worker)
