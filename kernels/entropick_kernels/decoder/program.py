"""A step of a decoder as one native program: every thread of the team walks through it.

Rows of activations are shared out by number, panels of weights and heads of attention by which thread comes
first. ``cells`` are the team's (:mod:`._team`), ``step`` and ``layer`` records (:mod:`._records`).
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from .._exp2 import LOG2_E
from .._native import native, native_worker
from .._threads import address, claim
from ..attention_stats.costs import COST_FIGURES
from ..attention_stats.numba_costs import row_costs
from ..attention_stats.numba_loops import deviations
from ..attention_stats.numba_signals import layer_signals_into, mean_signals_into
from ..attention_stats.stats import FIGURES, LAYER_SIGNALS
from ..logits_stats.numba_impl import MOMENT_CHUNK, row_log_z, row_stats
from ._records import LAYER, MATRIX, RUN, STEP
from ._team import PROGRAM, TICKET, UNIT, meet, spread, team_size
from .attention import FLOAT, QueryRun, attend, first_key, key_cell, vector
from .coded_products import call_coded
from .formats import LANES
from .loops import gate, rms_norm, rotate
from .products import panels_at_once, product
from .ranking import rank_of, top_of

# of a type of their own: a literal 0 or 1 would be one, for which numba compiles everything again
_NONE: Any = np.int64(0)
_ADD: Any = np.int64(1)


@native()
def _padded(n: int) -> int:
    """Returns n rounded up to whole panels."""
    return (n + LANES - 1) // LANES * LANES


@native()
def _embed(step: Any, me: int, threads: int) -> None:
    """Sets the residual stream to the embedding of each token."""
    hidden = step.hidden
    ids = numba.carray(address(step.ids), (step.tokens,), np.int64)
    room = _room(step, me)
    # read where it is not there too: then it is nothing
    packed = numba.carray(address(step.head if step.tied else step.packed_embed), (1,), MATRIX)
    for t in range(me, step.tokens, threads):
        place = step.residual + t * _padded(hidden) * FLOAT
        x = vector(place, hidden)
        if step.embed:
            weights = vector(step.embed + ids[t] * hidden * FLOAT, hidden)
            for i in range(hidden):
                x[i] = weights[i]
        elif packed[0].product:
            call_coded(
                packed[0].product, _NONE, _NONE, _NONE, packed[0].panels, hidden, ids[t], ids[t], place,
                _NONE, _NONE, packed[0].size, room,
            )  # fmt: skip
        else:
            panel, lane = ids[t] // LANES, ids[t] % LANES
            weights = vector(packed[0].panels + panel * LANES * hidden * FLOAT, LANES * hidden)
            for i in range(hidden):
                x[i] = weights[i * LANES + lane]


@native()
def _room(step: Any, me: int) -> Any:
    """Returns the address of the thread's room for a decoded panel."""
    return step.decoded + me * step.decoded_floats * FLOAT


@native()
def _norms(step: Any, weight: int, first: int, me: int, threads: int) -> None:
    """Normalises the residual stream, from token ``first`` on."""
    hidden = step.hidden
    scale, eps = vector(weight, hidden), step.eps
    row = _padded(hidden) * FLOAT
    for t in range(first + me, step.tokens, threads):
        rms_norm(vector(step.residual + t * row, hidden), scale, eps, vector(step.normed + t * row, hidden))


@native()
def _project(
    cells: Any, step: Any, me: int, x: int, rows: int, stride: int, matrix: int, bias: int, out: int,
    out_stride: int, add: int, gated: int, threads: int,
) -> None:  # fmt: skip
    """Computes out = x @ weights + bias, for the panels that this thread gets.

    ``matrix``: the address of a MATRIX. ``gated`` is where silu(gate) * up of the result goes, 0 for nowhere.
    """
    count = numba.carray(address(matrix), (1,), MATRIX)[0].parts
    parts = numba.carray(address(matrix), (count,), MATRIX)
    chunk = claim(cells, UNIT)
    begun: Any = np.int64(0)
    for i in range(count):
        part = parts[i]
        some = panels_at_once(rows, part.inputs, part.count, threads)
        chunks = (part.count + some - 1) // some
        while chunk - begun < chunks:
            first = (chunk - begun) * some
            last = min(part.count, first + some)
            if part.product:
                call_coded(
                    part.product, x, rows, stride, part.panels, part.inputs, first, last, out, out_stride,
                    add, part.size, _room(step, me),
                )  # fmt: skip
            else:
                product(x, rows, stride, part.panels, part.inputs, first, last, out, out_stride, add)
            n = (last - first) * LANES
            for t in range(rows):
                line = vector(out + (t * out_stride + first * LANES) * FLOAT, n)
                if bias:
                    more = vector(bias + first * LANES * FLOAT, n)
                    for j in range(n):
                        line[j] += more[j]
                if gated:
                    gate(line, vector(gated + (t * (out_stride // 2) + first * LANES // 2) * FLOAT, n // 2))
            chunk = claim(cells, UNIT)
        begun += chunks
        out += part.count * LANES * FLOAT
        if bias:
            bias += part.count * LANES * FLOAT


@native()
def _cache_head(step: Any, layer: Any, head: int, begin: int, end: int) -> None:
    """Caches keys and values of tokens begin..end of one head, and rotates its group's queries."""
    heads, kv_heads, width = step.heads, step.kv_heads, step.width
    half, block, group = width // 2, step.block, heads // kv_heads
    eps, scale = step.eps, np.float32(layer.scale)
    positions = numba.carray(address(step.positions), (step.tokens,), np.int64)
    cache_index = numba.carray(address(step.cache_index), (step.tokens,), np.int32)
    key = np.empty(width, dtype=np.float32)
    for t in range(begin, end):
        cos = vector(step.cos + positions[t] * half * FLOAT, half)
        sin = vector(step.sin + positions[t] * half * FLOAT, half)
        joined = step.joined + t * _padded((heads + 2 * kv_heads) * width) * FLOAT
        for h in range(group):
            q = vector(joined + (head * group + h) * width * FLOAT, width)
            if layer.norm_q:
                rms_norm(q, vector(layer.norm_q, width), eps, q)
            query = vector(_query(step, head, t) + h * width * FLOAT, width)
            rotate(q, cos, sin, query)
            for i in range(width):
                query[i] *= scale
        k = vector(joined + (heads + head) * width * FLOAT, width)
        if layer.norm_k:
            rms_norm(k, vector(layer.norm_k, width), eps, k)
        rotate(k, cos, sin, key)
        of_block = (cache_index[t] // block * kv_heads + head) * block * width
        at, apart = key_cell(cache_index[t] % block, block, width)
        kept = vector(layer.keys + (of_block + at) * FLOAT, (width - 1) * apart + 1)
        for i in range(width):
            kept[i * apart] = key[i]
        v = vector(joined + (heads + kv_heads + head) * width * FLOAT, width)
        kept = vector(layer.values + (of_block + cache_index[t] % block * width) * FLOAT, width)
        for i in range(width):
            kept[i] = v[i]


@native()
def _query(step: Any, head: int, t: int) -> Any:
    """Returns the address of token t's queries for a key-value head; the next token's follow."""
    group = step.heads // step.kv_heads
    return step.queries + (head * step.tokens + t) * group * step.width * FLOAT


@native()
def _attend_unit(step: Any, layer: Any, me: int, unit: int, prompts: int, lo: int, of_layer: int) -> None:
    """Attends for one unit: a run of prompt tokens (the first ``prompts`` units), or a row; and one head."""
    heads, kv_heads, width = step.heads, step.kv_heads, step.width
    block, group, head = step.block, heads // kv_heads, unit % kv_heads
    if unit < prompts:
        # the last tokens of a prompt see the most keys: they go first
        runs = numba.carray(address(step.runs), (step.run_count,), RUN)
        run = runs[step.run_count - 1 - unit // kv_heads]
        first, count, length, place = run.first, run.tokens, run.length, run.blocks
        p, span, stride = step.scratch + me * step.scratch_floats * FLOAT, step.run_span, 0
        out = p + count * group * span * FLOAT
        figures = out + count * group * width * FLOAT
    else:
        b = (unit - prompts) // kv_heads
        lengths = numba.carray(address(step.lengths), (step.rows,), np.int32)
        first, count, length = step.tokens - step.rows + lo + b, 1, np.int64(lengths[lo + b])
        place = step.block_table + (lo + b) * step.columns * 4
        span, stride = step.span, FIGURES
        p = step.probabilities + (b * heads + head * group) * span * FLOAT
        out = step.attended + (first * heads + head * group) * width * FLOAT
        figures = of_layer + ((lo + b) * heads + head * group) * FIGURES * FLOAT
    inside = head * block * width * FLOAT
    # the one place where tokens attend, rows and prompts alike: the same instructions for all
    attend(
        QueryRun(
            queries=_query(step, head, first),
            tokens=count,
            group=group,
            width=width,
            length=length,
            window=layer.window,
            keys=layer.keys + inside,
            values=layer.values + inside,
            blocks=numba.carray(address(place), ((length + count - 2) // block + 1,), np.int32),
            block=block,
            block_floats=kv_heads * block * width,
            probabilities=p,
            span=span,
            out=out,
            figures=figures,
            figures_stride=stride,
        )
    )
    if unit < prompts:
        _deal_out(step, out, first, count, head)


@native()
def _attention(cells: Any, step: Any, layer: Any, me: int, threads: int) -> None:
    """Caches the keys and values of all tokens and attends for all; measures the rows."""
    rows, tokens, heads, kv_heads = step.rows, step.tokens, step.heads, step.kv_heads
    # neighbours in the cache belong to neighbours in the step: no two threads write into one line
    for head in range(kv_heads):
        _cache_head(step, layer, head, me * tokens // threads, (me + 1) * tokens // threads)
    meet(cells, threads)
    of_layer = step.figures + layer.monitored * rows * heads * FIGURES * FLOAT
    of_layer = step.unmonitored_figures if layer.monitored < 0 else of_layer
    lo = 0
    while True:
        some = min(rows - lo, step.rows_at_once)
        prompts = (step.run_count if lo == 0 else 0) * kv_heads
        unit = claim(cells, UNIT)
        while unit < prompts + some * kv_heads:
            _attend_unit(step, layer, me, unit, prompts, lo, of_layer)
            unit = claim(cells, UNIT)
        meet(cells, threads)
        if layer.monitored >= 0:
            for b in range(me, some, threads):
                _measure(step, layer, lo, b, of_layer)
        lo += step.rows_at_once
        if lo >= rows:
            return
        meet(cells, threads)


@native()
def _deal_out(step: Any, out: int, first: int, count: int, head: int) -> None:
    """Copies the outputs of a run to where each token's heads lie side by side."""
    heads, width = step.heads, step.width
    size = heads // step.kv_heads * width
    for t in range(count):
        result = vector(out + t * size * FLOAT, size)
        kept = vector(step.attended + ((first + t) * heads * width + head * size) * FLOAT, size)
        for i in range(size):
            kept[i] = result[i]


@native()
def _measure(step: Any, layer: Any, lo: int, b: int, of_layer: int) -> None:
    """Compares the heads of row lo + b, whose probabilities are all there, and sets the row's signals."""
    rows, heads, span, window = step.rows, step.heads, step.span, layer.window
    length: Any = np.int64(numba.carray(address(step.lengths), (rows,), np.int32)[lo + b])
    start = max(length - window, 0) if window else 0
    n = length - start
    place = step.probabilities + (b * heads * span + start - first_key(length, window, step.block)) * FLOAT
    p = numba.carray(address(place), (heads, span), np.float32)
    row_figures = of_layer + (lo + b) * heads * FIGURES * FLOAT
    figures = numba.carray(address(row_figures), (heads, FIGURES), np.float32)
    deviations(p, n, np.empty(n, dtype=np.float32), figures)
    place = step.signals + (layer.monitored * rows + lo + b) * LAYER_SIGNALS * FLOAT
    signals = vector(place, LAYER_SIGNALS)
    layer_signals_into(figures, n, 0.0, signals)
    if step.costs:
        cached = numba.carray(address(step.surprisals), (step.cached_blocks, step.block), np.float32)
        table = numba.carray(address(step.block_table), (rows, step.columns), np.int32)
        place = step.costs + (layer.monitored * rows + lo + b) * heads * COST_FIGURES * FLOAT
        costs = numba.carray(address(place), (heads, COST_FIGURES), np.float32)
        row_costs(p, cached, table[lo + b], start, length, costs)


@native()
def _layer(cells: Any, step: Any, layer: Any, me: int, threads: int) -> None:
    """Runs one layer over the residual stream."""
    tokens, hidden, ffn = step.tokens, _padded(step.hidden), _padded(step.ffn)
    joined = _padded((step.heads + 2 * step.kv_heads) * step.width)
    wide = step.heads * step.width
    _norms(step, layer.norm_in, _NONE, me, threads)
    meet(cells, threads)
    _project(
        cells, step, me, step.normed, tokens, hidden, layer.w_qkv, layer.b_qkv, step.joined, joined, _NONE,
        _NONE, threads,
    )  # fmt: skip
    meet(cells, threads)
    _attention(cells, step, layer, me, threads)
    _project(
        cells, step, me, step.attended, tokens, wide, layer.w_out, layer.b_out, step.residual, hidden, _ADD,
        _NONE, threads,
    )  # fmt: skip
    meet(cells, threads)
    _norms(step, layer.norm_post, _NONE, me, threads)
    meet(cells, threads)
    _project(
        cells, step, me, step.normed, tokens, hidden, layer.w_gate_up, layer.b_gate_up, step.joined, 2 * ffn,
        _NONE, step.gated, threads,
    )  # fmt: skip
    meet(cells, threads)
    _project(
        cells, step, me, step.gated, tokens, ffn, layer.w_down, layer.b_down, step.residual, hidden, _ADD,
        _NONE, threads,
    )  # fmt: skip
    meet(cells, threads)


@native()
def _logits(cells: Any, step: Any, me: int, threads: int) -> None:
    """Computes the logits and the mean signals of the rows."""
    rows, hidden, monitored = step.rows, _padded(step.hidden), step.monitored
    first = step.tokens - rows
    _norms(step, step.norm, first, me, threads)
    if me == 0 and monitored:
        by_layer = numba.carray(address(step.signals), (monitored, rows, LAYER_SIGNALS), np.float32)
        place = step.signals + monitored * rows * LAYER_SIGNALS * FLOAT
        mean = numba.carray(address(place), (rows, LAYER_SIGNALS), np.float32)
        mean_signals_into(by_layer, 0.0, mean)
    meet(cells, threads)
    _project(
        cells, step, me, step.normed + first * hidden * FLOAT, rows, hidden, step.head, _NONE, step.logits,
        step.vocab_panels * LANES, _NONE, _NONE, threads,
    )  # fmt: skip


@native()
def _lens(cells: Any, step: Any, number: int, me: int, threads: int) -> None:
    """Computes the entropies that the residual stream would give some rows now, were it the last."""
    hidden, columns = _padded(step.hidden), step.vocab_panels * LANES
    rows = numba.carray(address(step.lens_rows), (step.lens,), np.int64)
    entropy = vector(step.lens_entropy + number * step.lens * FLOAT, step.lens)
    figures, weights = np.empty(4, dtype=np.float32), np.empty(MOMENT_CHUNK, dtype=np.float32)
    for lo in range(0, step.lens, step.wanted_at_once):
        some = min(step.lens - lo, step.wanted_at_once)
        for i in range(me, some, threads):
            token = step.tokens - step.rows + rows[lo + i]
            x = vector(step.residual + token * hidden * FLOAT, step.hidden)
            normed = vector(step.wanted_normed + i * hidden * FLOAT, step.hidden)
            rms_norm(x, vector(step.norm, step.hidden), step.eps, normed)
        meet(cells, threads)
        _project(
            cells, step, me, step.wanted_normed, some, hidden, step.head, _NONE, step.wanted_logits, columns,
            _NONE, _NONE, threads,
        )  # fmt: skip
        meet(cells, threads)
        for i in range(me, some, threads):
            row_stats(vector(step.wanted_logits + i * columns * FLOAT, step.vocab), figures, weights)
            entropy[lo + i] = figures[0]
        meet(cells, threads)


@native()
def _rank(step: Any, row: Any, number: int, target: int, figures: Any) -> None:
    """Ranks the target of wanted token ``number`` in its logits, and finds the most probable tokens."""
    top = step.wanted_top
    numba.carray(address(step.wanted_ranks), (step.wanted,), np.int64)[number] = rank_of(row, target)
    ids = numba.carray(address(step.wanted_top_ids + number * top * 4), (top,), np.int32)
    bits = vector(step.wanted_top_bits + number * top * FLOAT, top)
    top_of(row, ids, bits)
    for i in range(top):
        # as a target's, to the bit
        bits[i] = (figures[3] + (figures[2] - row[ids[i]])) * LOG2_E


@native()
def _next_surprisals(cells: Any, step: Any, me: int, threads: int) -> None:
    """Computes the surprisals of the tokens that follow the wanted tokens, a few tokens at a time."""
    hidden, columns = _padded(step.hidden), step.vocab_panels * LANES
    tokens = numba.carray(address(step.wanted_tokens), (step.wanted,), np.int64)
    targets = numba.carray(address(step.wanted_targets), (step.wanted,), np.int64)
    bits = vector(step.wanted_bits, step.wanted)
    figures = np.empty(4, dtype=np.float32)
    for lo in range(0, step.wanted, step.wanted_at_once):
        some = min(step.wanted - lo, step.wanted_at_once)
        for i in range(me, some, threads):
            x = vector(step.residual + tokens[lo + i] * hidden * FLOAT, step.hidden)
            normed = vector(step.wanted_normed + i * hidden * FLOAT, step.hidden)
            rms_norm(x, vector(step.norm, step.hidden), step.eps, normed)
        meet(cells, threads)
        _project(
            cells, step, me, step.wanted_normed, some, hidden, step.head, _NONE, step.wanted_logits, columns,
            _NONE, _NONE, threads,
        )  # fmt: skip
        meet(cells, threads)
        for i in range(me, some, threads):
            row = vector(step.wanted_logits + i * columns * FLOAT, step.vocab)
            row_log_z(row, figures)
            bits[lo + i] = (figures[3] + (figures[2] - row[targets[lo + i]])) * LOG2_E
            if step.wanted_ranks:
                _rank(step, row, lo + i, targets[lo + i], figures)
        meet(cells, threads)


@native()
def run_step(cells: Any) -> None:
    """Runs one thread's way through a step."""
    threads, me = team_size(cells), claim(cells, TICKET)
    spread(cells, me, threads)
    step = numba.carray(address(cells[PROGRAM]), (1,), STEP)[0]
    layers = numba.carray(address(step.layers), (step.layer_count,), LAYER)
    _embed(step, me, threads)
    for i in range(step.layer_count):
        _layer(cells, step, layers[i], me, threads)
        if step.lens and layers[i].lens >= 0:
            _lens(cells, step, layers[i].lens, me, threads)
    if step.wanted:
        _next_surprisals(cells, step, me, threads)
    if step.rows:
        _logits(cells, step, me, threads)


def _worker(cells: Any) -> None:
    run_step(cells)


@functools.cache
def compiled() -> Any:
    """Returns the program as machine code ``void(int64*)``; compiled at the first use, not at import."""
    return native_worker(_worker)
