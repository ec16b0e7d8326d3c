"""The native decoder: packed weights, buffers and the arguments' record, which live from step to step."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from .._threads import record, run, threads_for, torch_openmp
from ..attention_stats.costs import COST_FIGURES, TokenCosts
from ..attention_stats.numba_loops import check
from ..attention_stats.stats import FIGURES, LAYER_SIGNALS, named_figures
from ._records import LAYER, MATRIX, RUN, STEP
from ._team import CELLS, PROGRAM, TEAM_SIZE
from .attention import MOST_ROWS
from .coded_products import coded_product
from .formats import FLOAT32, LANES
from .loops import check_step
from .packing import Packed, pack, pack_bias, pack_pair
from .program import compiled
from .step import Decoded, DecoderStep, PromptSurprisals, prompt_runs
from .weights import DecoderShape, GroupedWeight, LayerWeights, Weight, form_of, stacked

_SCRATCH_FLOATS: Final = 1 << 24
"""probabilities kept at a time (64 MiB): the attention of a larger batch runs in parts"""

_QUERIES_AT_ONCE: Final = 24
"""queries of a prompt that a thread works on at a time: keys are read once for all of them"""
_RUN_FLOATS: Final = 1 << 17
"""their probabilities should stay in the cache"""
_WANTED_AT_ONCE: Final = 32
"""prompt tokens whose logits are computed at a time, for the surprisals that follow them"""


class NativeDecoder:
    """A decoder of one model that runs its steps natively.

    It is not thread-safe: the caller must use one thread.
    """

    def __init__(
        self,
        shape: DecoderShape,
        layers: Iterable[LayerWeights],
        embed: Weight,
        norm: Tensor,
        head: Weight | None,
        cos: Tensor,
        sin: Tensor,
    ) -> None:
        """Packs the weights, layer by layer as ``layers`` gives them: nothing refers to a layer afterwards.

        ``embed`` [V, hidden]; ``head`` [V, hidden] or None where the embedding is the head too (it is then
        packed, and not kept); ``cos``, ``sin`` [positions, width / 2]. All on the CPU, and float32 but for
        matrices. Raises ValueError on shapes that do not fit.
        """
        self.shape = shape
        self._kept: list[Any] = []
        self.weight_bytes = 0
        """bytes of the matrices as they are kept"""
        self._longest_inputs = 0
        """the most inputs of a matrix in a coded form"""
        packed_layers = [self._pack(layer) for layer in layers]
        self._layers = np.concatenate([np.zeros(0, dtype=LAYER), *packed_layers])
        self._longest = cos.shape[0]
        _check_matrix("embed", embed, (shape.vocab, shape.hidden))
        _check_weight("cos", cos, (self._longest, shape.width // 2))
        _check_weight("sin", sin, (self._longest, shape.width // 2))
        _check_weight("norm", norm, (shape.hidden,))
        _check_matrix("head", head, (shape.vocab, shape.hidden))
        packed = pack(embed if head is None else head)
        looked_up, in_panels = 0, 0
        if head is not None and isinstance(embed, Tensor) and embed.dtype == torch.float32:
            looked_up = self._keep(embed)
            self.weight_bytes += embed.nbytes
        elif head is not None:
            in_panels = self._matrix([pack(embed)])
        self._step = record(
            STEP,
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            width=shape.width,
            ffn=shape.ffn,
            vocab_panels=packed.count,
            vocab=shape.vocab,
            wanted_at_once=_WANTED_AT_ONCE,
            layer_count=len(self._layers),
            tied=head is None,
            embed=looked_up,
            packed_embed=in_panels,
            norm=self._keep(norm),
            head=self._matrix([packed]),
            cos=self._keep(cos),
            sin=self._keep(sin),
            layers=self._layers,
            eps=shape.eps,
        )
        joined = (shape.heads + 2 * shape.kv_heads) * shape.width
        hidden, ffn, wide = _padded(shape.hidden), _padded(shape.ffn), shape.heads * shape.width
        self._sizes = {
            "residual": hidden,
            "normed": hidden,
            "joined": max(_padded(joined), 2 * ffn),
            "queries": wide,
            "attended": wide,
            "gated": ffn,
        }
        self._panels = packed.count
        self._buffers: dict[str, Tensor] = {}
        self._tokens = 0
        self._runs = np.empty(0, dtype=RUN)
        self._per_token = len(self._layers) * (joined + wide + 3 * ffn) * hidden
        self._monitored: frozenset[int] | None = None
        self._lens: tuple[int, ...] = ()
        self._blocks: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None
        self._limits = torch.empty(0, 1, dtype=torch.int64)
        self._cells = np.zeros(CELLS, dtype=np.int64)
        self._cells[PROGRAM] = self._step.ctypes.data
        self._pointer = self._cells.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))

    def __call__(self, step: DecoderStep) -> Decoded | None:
        """Runs a step and returns the results of its rows, None for a step without rows.

        Raises IndexError for a token, a position, a block or a cache index out of range, ValueError where the
        chunks do not have just the tokens before the rows.
        """
        rows, shape = step.rows, self.shape
        wanted = self._want(step)
        work = self._prepare(step) + (rows + wanted) * self._panels * LANES * shape.hidden
        # packed products are twice as fast as the loops that this threshold was measured for
        threads = threads_for(work // 2)
        self._share(step, threads)
        figures = torch.empty(len(step.monitored), rows, shape.heads, FIGURES)
        signals = torch.empty(len(step.monitored) + 1, rows, LAYER_SIGNALS)
        logits = torch.empty(rows, self._panels * LANES)
        costs = self._costs(step)
        self._look(step)
        self._set(figures=figures.data_ptr(), signals=signals.data_ptr(), logits=logits.data_ptr())
        self._run(threads)
        if not rows:
            return None
        keys = torch.minimum(step.lengths, self._limits)
        if self._panels * LANES != shape.vocab:
            logits = logits[:, : shape.vocab].contiguous()
        return Decoded(logits, named_figures(figures, keys), signals[:-1], signals[-1], costs)

    def _want(self, step: DecoderStep) -> int:
        """Writes down the prompt tokens whose next surprisal is wanted, and counts them."""
        prompt = step.prompt
        if prompt is None or not len(prompt.tokens):
            self._set(wanted=0)
            return 0
        tokens, targets, bits = prompt[:3]
        fits = tokens.dtype == targets.dtype == torch.int64 and bits.dtype == torch.float32
        if not fits or not (tokens.shape == targets.shape == bits.shape == (len(tokens),)):
            raise ValueError("prompt: expected int64 tokens and targets and float32 bits of one length")
        for values, limit in ((tokens, step.ids.shape[0]), (targets, self.shape.vocab)):
            if int(values.min()) < 0 or int(values.max()) >= limit:
                raise IndexError(f"prompt: a token or a target is outside 0..{limit - 1}")
        self._wanted_room(len(tokens))
        self._rank(prompt)
        self._set(
            wanted=len(tokens),
            wanted_tokens=tokens.data_ptr(),
            wanted_targets=targets.data_ptr(),
            wanted_bits=bits.data_ptr(),
        )
        return len(tokens)

    def _rank(self, prompt: PromptSurprisals) -> None:
        """Writes down where the ranks and the most probable tokens of the wanted tokens go, if anywhere."""
        ranks, ids, bits = prompt.ranks, prompt.top_ids, prompt.top_bits
        if ranks is None or ids is None or bits is None:
            self._set(wanted_ranks=0, wanted_top_ids=0, wanted_top_bits=0, wanted_top=0)
            return
        fits = (ranks.dtype, ids.dtype, bits.dtype) == (torch.int64, torch.int32, torch.float32)
        count = len(prompt.tokens)
        plain = ids.dim() == 2 and ids.shape == bits.shape and ids.is_contiguous() and bits.is_contiguous()
        if not fits or not plain or not tuple(ranks.shape) == (len(ids),) == (count,):
            raise ValueError(f"prompt: expected int64 ranks [{count}] and int32 and float32 [{count}, K]")
        if ids.shape[1] > self.shape.vocab:
            raise ValueError(f"prompt: the vocabulary has {self.shape.vocab} tokens, not {ids.shape[1]}")
        self._set(
            wanted_ranks=ranks.data_ptr(),
            wanted_top_ids=ids.data_ptr(),
            wanted_top_bits=bits.data_ptr(),
            wanted_top=ids.shape[1],
        )

    def _wanted_room(self, tokens: int) -> None:
        """Makes room for the norms and logits of tokens that are wanted beside the rows'."""
        at_once = min(tokens, _WANTED_AT_ONCE)
        self._room("wanted_normed", at_once * _padded(self.shape.hidden))
        self._room("wanted_logits", at_once * self._panels * LANES)

    def _look(self, step: DecoderStep) -> None:
        """Writes down the rows and the layers whose entropies are wanted."""
        lens = step.lens
        if lens is None or not len(lens.rows):
            self._set(lens=0)
            return
        rows, layers, entropy = lens
        shape = (len(layers), len(rows))
        fits = rows.dtype == torch.int64 and entropy.dtype == torch.float32 and entropy.is_contiguous()
        if not fits or rows.dim() != 1 or tuple(entropy.shape) != shape:
            raise ValueError(f"lens: expected int64 rows and contiguous float32 entropy {list(shape)}")
        if int(rows.min()) < 0 or int(rows.max()) >= step.rows:
            raise IndexError(f"lens: a row is outside 0..{step.rows - 1}")
        if list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < len(self._layers):
            raise IndexError(f"lens: layers must be ascending, within 0..{len(self._layers) - 1}")
        if layers != self._lens:
            self._layers["lens"] = -1
            self._layers["lens"][list(layers)] = range(len(layers))
            self._lens = layers
        self._wanted_room(len(rows))
        self._set(lens=len(rows), lens_rows=rows.data_ptr(), lens_entropy=entropy.data_ptr())

    def _costs(self, step: DecoderStep) -> Tensor | None:
        """Makes room for the token costs of a step, where they are wanted, and writes down where it is."""
        cached = step.surprisals
        if cached is None or not step.rows:
            self._set(surprisals=0, costs=0)
            return None
        heads = self.shape.heads
        costs = torch.empty(len(step.monitored), step.rows, heads, COST_FIGURES)
        # the places of all layers are alike
        if len(costs):
            TokenCosts(cached, costs[0]).check(costs[0], step.keys[0])
        self._set(surprisals=cached.data_ptr(), cached_blocks=cached.shape[0], costs=costs.data_ptr())
        return costs

    def _set(self, **fields: Any) -> None:
        """Sets fields of the program's arguments."""
        for name, value in fields.items():
            self._step[name] = value

    def _room(self, name: str, floats: int) -> None:
        """Makes a buffer at least so large; the program's field of its name gets its address."""
        if name not in self._buffers or self._buffers[name].numel() < floats:
            self._buffers[name] = torch.empty(floats)
            self._step[name] = self._buffers[name].data_ptr()

    def _run(self, threads: int) -> None:
        """Runs the program on a team of threads."""
        self._cells[:TEAM_SIZE] = 0
        if threads > 1 and torch_openmp() is not None:
            self._cells[TEAM_SIZE] = _team_size_function()
            run(compiled(), self._cells, threads)
        else:
            self._cells[TEAM_SIZE] = 0
            compiled().ctypes(self._pointer)

    def _share(self, step: DecoderStep, threads: int) -> None:
        """Writes down which prompt tokens are attended for together, and where each thread does it."""
        group, width = self.shape.heads // self.shape.kv_heads, self.shape.width
        longest = max((chunk.length for chunk in step.chunks), default=0)
        block = step.keys[0].shape[2]
        span = -(-longest // block) * block
        queries = max(MOST_ROWS, min(_QUERIES_AT_ONCE, _RUN_FLOATS // max(span, 1)))
        at_once = max(1, queries // group)
        self._runs = np.array(prompt_runs(step.chunks, at_once) if step.chunks else [], dtype=RUN)
        size = at_once * group * (span + width) + LANES if len(self._runs) else 0
        self._room("scratch", threads * size)
        decoded = self._longest_inputs * LANES
        self._room("decoded", threads * decoded)
        self._set(decoded_floats=decoded)
        self._set(runs=self._runs.ctypes.data, run_count=len(self._runs), run_span=span, scratch_floats=size)

    def _prepare(self, step: DecoderStep) -> int:
        """Checks the step's inputs and writes them down. Returns the multiply-adds of the layers."""
        shape = self.shape
        tokens, rows = step.ids.shape[0], step.rows
        blocks, kv_heads, block, width = step.keys[0].shape
        if (kv_heads, width) != (shape.kv_heads, shape.width):
            raise ValueError(f"expected blocks [P, {shape.kv_heads}, block, {shape.width}]")
        ids, positions, cache_index = step.ids.numpy(), step.positions.numpy(), step.cache_index.numpy()
        ends, block_table = step.lengths.numpy(), step.block_table.numpy()
        vocab, longest = shape.vocab, self._longest
        seen = check_step(ids, positions, cache_index, vocab, longest, block_table, ends, blocks, block)
        for chunk in step.chunks:
            if not 1 <= chunk.count <= chunk.length:
                raise ValueError(f"a chunk of {chunk.count} tokens cannot end a text of {chunk.length}")
            check(chunk.blocks.numpy()[None], np.array([chunk.length], dtype=np.int32), blocks, block, 0)
            seen += chunk.count * (chunk.length - chunk.count // 2)
        if sum(chunk.count for chunk in step.chunks) != tokens - rows:
            raise ValueError(f"{tokens} tokens are not the chunks and {rows} rows")
        if tokens > self._tokens:
            self._tokens = tokens
            for name, size in self._sizes.items():
                self._room(name, tokens * size)
        columns = block_table.shape[1]
        span = columns * block
        at_once = min(rows, max(1, _SCRATCH_FLOATS // (shape.heads * span)))
        self._room("probabilities", at_once * shape.heads * span)
        self._room("unmonitored_figures", rows * shape.heads * FIGURES)
        self._set(
            block=block,
            columns=columns,
            tokens=tokens,
            rows=rows,
            rows_at_once=at_once,
            span=span,
            ids=step.ids.data_ptr(),
            positions=step.positions.data_ptr(),
            cache_index=step.cache_index.data_ptr(),
            block_table=step.block_table.data_ptr(),
            lengths=step.lengths.data_ptr(),
        )
        if self._blocks is None or step.keys is not self._blocks[0] or step.values is not self._blocks[1]:
            self._layers["keys"] = [k.data_ptr() for k in step.keys]
            self._layers["values"] = [v.data_ptr() for v in step.values]
            self._blocks = (step.keys, step.values)
        if step.monitored != self._monitored:
            self._monitor(step.monitored)
        return tokens * self._per_token + 2 * seen * len(self._layers) * shape.heads * width

    def _monitor(self, layers: frozenset[int]) -> None:
        """Writes down which layers' figures are kept, and how many keys a row sees in each."""
        order = sorted(layers)
        self._layers["monitored"] = -1
        self._layers["monitored"][order] = range(len(order))
        self._set(monitored=len(order))
        limits = [int(self._layers["window"][i]) or self._longest for i in order]
        self._limits = torch.tensor(limits, dtype=torch.int64).unsqueeze(1)
        self._monitored = layers

    def _pack(self, layer: LayerWeights) -> Any:
        """Returns a layer's record, with its weights packed and kept."""
        shape = self.shape
        hidden, ffn, wide = shape.hidden, shape.ffn, shape.heads * shape.width
        joined = wide + 2 * shape.kv_heads * shape.width
        wanted: tuple[tuple[str, tuple[int, ...]], ...] = (
            ("norm_in norm_post b_out b_down", (hidden,)),
            ("norm_q norm_k", (shape.width,)),
            ("b_qkv", (joined,)),
            ("b_gate b_up", (ffn,)),
            ("w_out", (hidden, wide)),
            ("w_gate w_up", (ffn, hidden)),
            ("w_down", (hidden, ffn)),
        )
        for names, size in wanted:
            for name in names.split():
                check = _check_matrix if name.startswith("w_") else _check_weight
                check(name, getattr(layer, name), size)
        given = layer.w_qkv
        w_qkv = stacked([given] if isinstance(given, Tensor | GroupedWeight) else given)
        for part in w_qkv:
            _check_matrix("w_qkv", part, (part.shape[0], hidden))
        if sum(part.shape[0] for part in w_qkv) != joined:
            raise ValueError(f"w_qkv: expected {joined} outputs")
        vectors = {
            "norm_in": layer.norm_in,
            "b_qkv": pack_bias(layer.b_qkv),
            "norm_q": layer.norm_q,
            "norm_k": layer.norm_k,
            "b_out": pack_bias(layer.b_out),
            "norm_post": layer.norm_post,
            "b_gate_up": pack_bias(layer.b_gate, layer.b_up),
            "b_down": pack_bias(layer.b_down),
        }
        addresses = {name: self._keep(tensor) for name, tensor in vectors.items()}
        matrices = {
            "w_qkv": self._matrix([pack(part) for part in w_qkv]),
            "w_out": self._matrix([pack(layer.w_out)]),
            "w_gate_up": self._matrix([pack_pair(layer.w_gate, layer.w_up)]),
            "w_down": self._matrix([pack(layer.w_down)]),
        }
        more = {**addresses, **matrices}
        return record(LAYER, window=layer.window or 0, scale=layer.scale, monitored=-1, lens=-1, **more)

    def _matrix(self, parts: Sequence[Packed]) -> int:
        """Keeps a matrix, in one part or several, and returns the address of its records."""
        records = np.zeros(len(parts), dtype=MATRIX)
        for i, part in enumerate(parts):
            if part.form != FLOAT32:
                self._longest_inputs = max(self._longest_inputs, part.inputs)
            self.weight_bytes += part.panels.nbytes
            records[i] = (
                len(parts) - i,
                self._keep(part.panels),
                part.count,
                part.form.panel_bytes(part.inputs),
                part.inputs,
                coded_product(part.form),
            )
        self._kept.append(records)
        return int(records.ctypes.data)

    def _keep(self, tensor: Tensor | None) -> int:
        """Keeps a tensor alive as long as this decoder. Returns its address, 0 for None."""
        if tensor is None:
            return 0
        kept = tensor.detach().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()


@functools.cache
def _team_size_function() -> int:
    """Returns the address of the runtime's omp_get_num_threads."""
    library = torch_openmp()
    return 0 if library is None else ctypes.cast(library.omp_get_num_threads, ctypes.c_void_p).value or 0


def _check_weight(name: str, tensor: Tensor | None, size: tuple[int, ...]) -> None:
    """Raises ValueError unless a weight is None, or float32 of this size on the CPU."""
    if tensor is None:
        return
    if tuple(tensor.shape) != size or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise ValueError(
            f"{name}: expected float32 {size} on the CPU, got {tensor.dtype} {tuple(tensor.shape)} "
            f"on {tensor.device}"
        )


def _check_matrix(name: str, matrix: Weight | None, size: tuple[int, ...]) -> None:
    """Raises ValueError unless a matrix is None, or of this size, in a known form, on the CPU."""
    if isinstance(matrix, GroupedWeight):
        device = matrix.numbers.device
    elif matrix is None:
        return
    else:
        device = matrix.device
    form_of(matrix)
    if tuple(matrix.shape) != size or device.type != "cpu":
        raise ValueError(f"{name}: expected {size} on the CPU, got {tuple(matrix.shape)} on {device}")


def _padded(n: int) -> int:
    """Returns n rounded up to whole panels."""
    return -(-n // LANES) * LANES


def warmup_numba() -> None:
    """Compiles the program, or loads it from disk."""
    compiled()
