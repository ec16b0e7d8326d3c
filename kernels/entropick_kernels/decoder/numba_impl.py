"""The native decoder: packed weights, buffers that live from step to step, one call a step."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .._threads import run, threads_for, torch_openmp
from ..attention_stats import HeadStats
from ..attention_stats.numba_loops import check
from . import _plan as P
from ._team import TEAM_SIZE
from ._tile import LANES
from .attention import MOST_ROWS
from .loops import check_places
from .products import as_address, pack, pack_pair, rows_of
from .program import compiled
from .step import Decoded, DecoderStep, prompt_runs
from .weights import DecoderShape, LayerWeights

_SCRATCH_FLOATS = 1 << 24
"""probabilities kept at a time (64 MiB): the attention of a larger batch runs in blocks of rows"""

_QUERIES_AT_ONCE = 24
"""queries of a prompt that a thread works on at a time: keys are read once for all of them"""
_RUN_FLOATS = 1 << 17
"""their probabilities should stay in the cache"""


class NativeDecoder:
    """Runs steps of one model. Not thread-safe: one thread calls it."""

    def __init__(
        self,
        shape: DecoderShape,
        layers: Iterable[LayerWeights],
        embed: Tensor,
        norm: Tensor,
        head: Tensor | None,
        cos: Tensor,
        sin: Tensor,
    ) -> None:
        """Pack the weights, layer by layer as ``layers`` gives them: nothing refers to a layer afterwards.

        ``embed`` [V, hidden]; ``head`` [V, hidden] or None where the embedding is the head too (it is then
        packed, and not kept); ``cos``, ``sin`` [positions, width / 2]. All float32 on the CPU. Raises
        ValueError on shapes that do not fit.
        """
        self.shape = shape
        self._kept: list[Tensor] = []
        self._data = np.zeros(P.SIZE, dtype=np.int64)
        table: list[list[int]] = []
        self._windows: list[int] = []
        for layer in layers:
            table.append(self._pack(layer))
            self._windows.append(layer.window or 0)
        self._table = np.array(table, dtype=np.int64).reshape(-1, P.FIELDS)
        self._longest = cos.shape[0]
        _fits("embed", embed, (shape.vocab, shape.hidden))
        _fits("cos", cos, (self._longest, shape.width // 2))
        _fits("sin", sin, (self._longest, shape.width // 2))
        _fits("norm", norm, (shape.hidden,))
        if head is not None:
            _fits("head", head, (shape.vocab, shape.hidden))
        packed = pack(embed if head is None else head)
        for at, value in (
            (P.HIDDEN, shape.hidden),
            (P.HEADS, shape.heads),
            (P.KV_HEADS, shape.kv_heads),
            (P.WIDTH, shape.width),
            (P.FFN, shape.ffn),
            (P.VOCAB_PANELS, packed.shape[0]),
            (P.LAYERS, len(table)),
            (P.EPS, _bits(shape.eps)),
            (P.TIED, int(head is None)),
            (P.EMBED, 0 if head is None else self._keep(embed)),
            (P.NORM, self._keep(norm)),
            (P.HEAD, self._keep(packed)),
            (P.COS, self._keep(cos)),
            (P.SIN, self._keep(sin)),
            (P.LAYER_TABLE, self._table.ctypes.data),
        ):
            self._data[at] = value
        joined = (shape.heads + 2 * shape.kv_heads) * shape.width
        hidden, ffn, wide = _up(shape.hidden), _up(shape.ffn), shape.heads * shape.width
        self._sizes = {
            P.X: hidden,
            P.Y: hidden,
            P.QKV: max(_up(joined), 2 * ffn),
            P.Q: wide,
            P.ATTENTION: wide,
            P.GATED: ffn,
        }
        self._buffers: dict[int, Tensor] = {}
        self._room = 0
        self._probabilities = torch.empty(0)
        self._figures = torch.empty(0)
        self._scratch = torch.empty(0)
        self._runs = np.empty((0, P.RUN_FIELDS), dtype=np.int64)
        self._per_token = len(table) * (joined + wide + 3 * ffn) * hidden
        self._monitored: frozenset[int] | None = None
        self._pages: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None
        self._limits = torch.empty(0, 1, dtype=torch.int64)
        self._pointer = self._data.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))

    def __call__(self, step: DecoderStep) -> Decoded | None:
        """Run a step; None for one without rows.

        Raises IndexError for a token, a position, a page or a slot out of range, ValueError where the pieces
        are not what is before the rows.
        """
        rows = step.rows
        work = self._prepare(step)
        heads = self.shape.heads
        figures = torch.empty(len(step.monitored), rows, heads, 4)
        signals = torch.empty(len(step.monitored) + 1, rows, 6)
        panels = int(self._data[P.VOCAB_PANELS])
        logits = torch.empty(rows, panels * LANES)
        self._data[P.FIGURES] = figures.data_ptr()
        self._data[P.SIGNALS] = signals.data_ptr()
        self._data[P.LOGITS] = logits.data_ptr()
        work += rows * panels * LANES * self.shape.hidden
        # packed products are twice as fast as the loops that this threshold was measured for
        threads = threads_for(work // 2)
        self._share(step, threads)
        self._run(threads)
        if not rows:
            return None
        keys = torch.minimum(step.lengths, self._limits)
        entropy, normalized, size, deviation = figures.unbind(-1)
        if panels * LANES != self.shape.vocab:
            logits = logits[:, : self.shape.vocab].contiguous()
        return Decoded(
            logits, HeadStats(entropy, normalized, size, deviation, keys), signals[:-1], signals[-1]
        )

    def _run(self, threads: int) -> None:
        data = self._data
        data[:TEAM_SIZE] = 0
        library = torch_openmp()
        if threads > 1 and library is not None:
            data[TEAM_SIZE] = _team_size_function()
            run(compiled(), data, threads)
        else:
            data[TEAM_SIZE] = 0
            compiled().ctypes(self._pointer)

    def _share(self, step: DecoderStep, threads: int) -> None:
        """Write down which prompt tokens are attended for together, and where each thread does it."""
        group, width = self.shape.heads // self.shape.kv_heads, self.shape.width
        longest = max((piece.length for piece in step.pieces), default=0)
        page = step.keys[0].shape[2]
        span = -(-longest // page) * page
        queries = max(MOST_ROWS, min(_QUERIES_AT_ONCE, _RUN_FLOATS // max(span, 1)))
        at_once = max(1, queries // group)
        runs = prompt_runs(step.pieces, at_once)
        self._runs = np.array(runs, dtype=np.int64).reshape(-1, P.RUN_FIELDS)
        size = at_once * group * (span + width) + LANES if runs else 0
        if self._scratch.numel() < threads * size:
            self._scratch = torch.empty(threads * size)
        data = self._data
        data[P.UNITS : P.UNIT_SPAN + 1] = (len(runs), span)
        data[P.SCRATCH : P.RUNS + 1] = (self._scratch.data_ptr(), size, self._runs.ctypes.data)

    def _prepare(self, step: DecoderStep) -> int:
        """Check the step's places and write them down; multiply-adds of the layers."""
        data, shape = self._data, self.shape
        tokens, rows = step.ids.shape[0], step.rows
        pages, kv_heads, page, width = step.keys[0].shape
        if (kv_heads, width) != (shape.kv_heads, shape.width):
            raise ValueError(f"expected pages [P, {shape.kv_heads}, page, {shape.width}]")
        ends, page_table = step.lengths, step.page_table
        check_places(
            step.ids.numpy(), step.positions.numpy(), step.slots.numpy(), shape.vocab, self._longest,
            pages * page,
        )  # fmt: skip
        seen = check(page_table.numpy(), ends.numpy(), pages, page, 0) if rows else 0
        for piece in step.pieces:
            if not 1 <= piece.count <= piece.length:
                raise ValueError(f"a piece of {piece.count} tokens cannot end a text of {piece.length}")
            check(piece.pages.numpy()[None], np.array([piece.length], dtype=np.int32), pages, page, 0)
            seen += piece.count * (piece.length - piece.count // 2)
        if sum(piece.count for piece in step.pieces) != tokens - rows:
            raise ValueError(f"{tokens} tokens are not the pieces and {rows} rows")
        if tokens > self._room:
            self._room = tokens
            for at, size in self._sizes.items():
                self._buffers[at] = torch.empty(tokens * size)
                data[at] = self._buffers[at].data_ptr()
        span = page_table.shape[1] * page
        block = min(rows, max(1, _SCRATCH_FLOATS // (shape.heads * span)))
        if self._probabilities.numel() < block * shape.heads * span:
            self._probabilities = torch.empty(block * shape.heads * span)
            data[P.PROBABILITIES] = self._probabilities.data_ptr()
        if self._figures.numel() < rows * shape.heads * 4:
            self._figures = torch.empty(rows * shape.heads * 4)
            data[P.SCRATCH_FIGURES] = self._figures.data_ptr()
        data[P.PAGES : P.ROWS + 1] = (pages, page, page_table.shape[1], tokens, rows)
        data[P.BLOCK] = block
        data[P.SPAN] = span
        data[P.IDS : P.LENGTHS + 1] = (
            step.ids.data_ptr(),
            step.positions.data_ptr(),
            step.slots.data_ptr(),
            page_table.data_ptr(),
            ends.data_ptr(),
        )
        if self._pages is None or step.keys is not self._pages[0] or step.values is not self._pages[1]:
            self._table[:, P.KEYS] = [k.data_ptr() for k in step.keys]
            self._table[:, P.VALUES] = [v.data_ptr() for v in step.values]
            self._pages = (step.keys, step.values)
        if step.monitored != self._monitored:
            order = sorted(step.monitored)
            self._table[:, P.MONITORED] = [
                order.index(i) if i in step.monitored else -1 for i in range(len(self._table))
            ]
            limits = [self._windows[i] or self._longest for i in order]
            self._limits = torch.tensor(limits, dtype=torch.int64).unsqueeze(1)
            self._monitored = step.monitored
        return tokens * self._per_token + 2 * seen * len(self._table) * shape.heads * width

    def _pack(self, layer: LayerWeights) -> list[int]:
        shape = self.shape
        hidden, ffn, wide = shape.hidden, shape.ffn, shape.heads * shape.width
        joined = wide + 2 * shape.kv_heads * shape.width
        for name, size in (
            ("norm_in", (hidden,)),
            ("w_qkv", (joined, hidden)),
            ("b_qkv", (joined,)),
            ("norm_q", (shape.width,)),
            ("norm_k", (shape.width,)),
            ("w_out", (hidden, wide)),
            ("b_out", (hidden,)),
            ("norm_post", (hidden,)),
            ("w_gate", (ffn, hidden)),
            ("b_gate", (ffn,)),
            ("w_up", (ffn, hidden)),
            ("b_up", (ffn,)),
            ("w_down", (hidden, ffn)),
            ("b_down", (hidden,)),
        ):
            _fits(name, getattr(layer, name), size)
        fields = [0] * P.FIELDS
        for at, tensor in (
            (P.NORM_IN, layer.norm_in),
            (P.W_QKV, pack(layer.w_qkv)),
            (P.B_QKV, rows_of(layer.b_qkv)),
            (P.NORM_Q, layer.norm_q),
            (P.NORM_K, layer.norm_k),
            (P.W_OUT, pack(layer.w_out)),
            (P.B_OUT, rows_of(layer.b_out)),
            (P.NORM_POST, layer.norm_post),
            (P.W_GATE_UP, pack_pair(layer.w_gate, layer.w_up)),
            (P.B_GATE_UP, rows_of(layer.b_gate, layer.b_up)),
            (P.W_DOWN, pack(layer.w_down)),
            (P.B_DOWN, rows_of(layer.b_down)),
        ):
            fields[at] = self._keep(tensor)
        fields[P.WINDOW] = layer.window or 0
        fields[P.SCALE] = _bits(layer.scale)
        fields[P.MONITORED] = -1
        return fields

    def _keep(self, tensor: Tensor | None) -> int:
        """The address of a tensor that stays alive with this decoder, 0 for None."""
        if tensor is None:
            return 0
        self._kept.append(tensor.detach().contiguous())
        return as_address(self._kept[-1])


@functools.cache
def _team_size_function() -> int:
    """Address of the runtime's omp_get_num_threads."""
    library = torch_openmp()
    return 0 if library is None else ctypes.cast(library.omp_get_num_threads, ctypes.c_void_p).value or 0


def _fits(name: str, tensor: Tensor | None, size: tuple[int, ...]) -> None:
    if tensor is None:
        return
    if tuple(tensor.shape) != size or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise ValueError(
            f"{name}: expected float32 {size} on the CPU, got {tensor.dtype} {tuple(tensor.shape)} "
            f"on {tensor.device}"
        )


def _up(n: int) -> int:
    return -(-n // LANES) * LANES


def _bits(value: float) -> int:
    return int(np.float64(value).view(np.int64))


def warmup_numba() -> None:
    """Compile the program (or load it from numba's cache)."""
    compiled()
