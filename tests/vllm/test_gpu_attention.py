"""The GPU backends measure right when a CUDA graph is replayed, where no Python of a layer runs.

The graph is a recorder: it notes the operations of the capture and runs them again on the same memory.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.v1.attention.backend import AttentionType

from entropick_kernels.attention_stats import decode_attention, layer_signals
from entropick_server.engine.vllm.attention import gpu
from entropick_server.engine.vllm.worker_context import WorkerContext

ROWS, HEADS, KV_HEADS, WIDTH, BLOCK, BLOCKS = 6, 4, 2, 32, 16, 40


class Graph(TorchDispatchMode):
    """Every operation with its tensors, in order; ``replay`` runs them again into the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self._ran: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._ran.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self._ran:
            again = func(*args, **kwargs)
            if isinstance(out, Tensor) and out.data_ptr() != again.data_ptr():
                out.copy_(again)


class Plain:
    """What the backends read of vLLM's AttentionImpl; its output is not looked at."""

    def __init__(self, window: int | None, softcap: float, **other: Any) -> None:
        self.num_heads, self.head_size, self.scale = HEADS, WIDTH, WIDTH**-0.5
        self.sliding_window = (-1, -1) if window is None else (window - 1, 0)
        self.logits_soft_cap = softcap
        self.attn_type = AttentionType.DECODER
        self.alibi_slopes = self.sinks = None
        self.kv_cache_dtype = "auto"
        vars(self).update(other)

    def forward(self, *_: Any) -> Tensor:
        return torch.zeros(())


class Measured(gpu.QueryCapture, Plain):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        Plain.__init__(self, *args, **kwargs)
        super().__init__(*args, **kwargs)


class PlainBuilder:
    layer_names = ("model.layers.0.self_attn.attn", "model.layers.1.self_attn.attn")

    def build(self, prefix: int, common: Any, fast_build: bool) -> Any:
        return SimpleNamespace(query_start_loc=common.query_start_loc)

    def update_block_table(self, metadata: Any, table: Tensor, slots: Tensor) -> Any:
        return metadata


class Builder(gpu.TableCapture, PlainBuilder):
    def __init__(self, config: Any, *layers: int) -> None:
        self.vllm_config = config
        if layers:
            self.layer_names = tuple(f"model.layers.{layer}.self_attn.attn" for layer in layers)


@pytest.fixture
def parallel(config: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The worker's configuration: layers 0 and 1 of three are monitored."""
    config.additional_config["entropick"]["layers"] = [0, 1]
    config.scheduler_config.max_num_seqs = ROWS
    config.parallel_config.decode_context_parallel_size = 1
    config.parallel_config.use_ubatching = False
    monkeypatch.setattr(gpu, "get_current_vllm_config", lambda: config)
    return config


def layer(number: int) -> Any:
    return SimpleNamespace(layer_name=f"model.layers.{number}.self_attn.attn")


class Runner:
    """A runner's persistent buffers, and steps that fill them; physical NHD as vLLM allocates on CUDA."""

    def __init__(self, config: Any) -> None:
        self.starts = torch.zeros(ROWS + 1, dtype=torch.int32)
        self.lengths = torch.zeros(ROWS, dtype=torch.int32)
        self.table = torch.zeros(ROWS, 4, dtype=torch.int32)
        self.queries = torch.zeros(64, HEADS * WIDTH)
        self.caches = [torch.zeros(BLOCKS, BLOCK, KV_HEADS, 2 * WIDTH).transpose(1, 2) for _ in range(3)]
        self.builder = Builder(config)
        self.common: Any = None

    def fill(self, lengths: list[int], queries: list[int], padded: int, seed: int) -> None:
        """A step of rows with these lengths and numbers of queries, in a graph of ``padded`` rows."""
        g = torch.Generator().manual_seed(seed)
        self.starts[: len(queries) + 1] = torch.tensor([0, *queries]).cumsum(0)
        self.starts[len(queries) + 1 :] = sum(queries)
        self.lengths.zero_()
        self.lengths[: len(lengths)] = torch.tensor(lengths)
        self.table.copy_(torch.randperm(BLOCKS, generator=g)[: ROWS * 4].view(ROWS, 4))
        self.queries.copy_(torch.randn(self.queries.shape, generator=g))
        for cache in self.caches:
            cache.copy_(torch.randn(cache.shape, generator=g))
        self.common = SimpleNamespace(
            query_start_loc=self.starts[: padded + 1],
            seq_lens=self.lengths[:padded],
            block_table_tensor=self.table[:padded],
            max_seq_len=max(lengths),
            slot_mapping=None,
        )
        self.metadata = self.builder.build(0, self.common)

    def forward(self, impls: list[Measured]) -> None:
        for number, impl in enumerate(impls):
            none = torch.zeros(())
            impl.forward(layer(number), self.queries, none, none, self.caches[number], self.metadata, none)

    def expected(self, rows: int, windows: list[int | None], softcap: float) -> Tensor:
        """Signals by layer, [2, rows, 6], from the kernel that the embedded engine uses."""
        last = self.starts[1 : rows + 1].long() - 1
        newest = self.queries.view(-1, HEADS, WIDTH)[last]
        found = []
        for cache, window in zip(self.caches, windows, strict=False):
            keys = cache[..., :WIDTH].contiguous()
            _, stats = decode_attention(
                newest, keys, keys, self.table[:rows], self.lengths[:rows],
                scale=WIDTH**-0.5, window=window, softcap=softcap or None,
            )  # fmt: skip
            found.append(layer_signals(stats))
        return torch.stack(found)


@pytest.mark.parametrize("softcap", [0.0, 4.0])
def test_replays_are_measured(parallel: Any, softcap: float) -> None:
    """Captured once on a dummy step, replayed for steps of other rows, lengths and blocks, padded and not."""
    windows: list[int | None] = [None, 9]
    impls = [Measured(w, softcap) for w in (*windows, None)]
    runner, context = Runner(parallel), WorkerContext.of(parallel)
    for number, impl in enumerate(impls):  # vLLM's profiling run: no metadata
        none = torch.zeros(())
        impl.forward(layer(number), runner.queries, none, none, runner.caches[number], None, none)
    assert context.attention(1) is None
    runner.fill([1] * 4, [1] * 4, 4, seed=0)
    runner.starts.zero_()  # rows that begin and end at 0 are no reason to read before the queries
    with Graph() as graph:
        runner.forward(impls)
    context.take_captured()
    for seed, lengths in enumerate(([5, 64, 17], [33, 1, 2, 50], [40]), start=1):
        runner.fill(lengths, [1] * len(lengths), 4, seed)
        graph.replay()
        got = context.attention(len(lengths))
        assert got is not None
        wanted = runner.expected(len(lengths), windows, softcap)
        # a row of one key has NaN for its attention to the previous key
        torch.testing.assert_close(got.by_layer, wanted, atol=2e-5, rtol=1e-4, equal_nan=True)
        assert context.attention(len(lengths)) is None  # once a step


def test_steps_without_a_graph(parallel: Any) -> None:
    """PIECEWISE: Python runs every step, with prefill chunks of any length among the rows."""
    impls = [Measured(None, 0.0) for _ in range(3)]
    runner, context = Runner(parallel), WorkerContext.of(parallel)
    for seed, (lengths, queries) in enumerate((([20, 9, 31], [20, 1, 7]), ([21], [1]), ([8, 60], [8, 30]))):
        runner.fill(lengths, queries, len(lengths), seed)
        runner.forward(impls)
        got = context.attention(len(lengths))
        assert got is not None
        torch.testing.assert_close(
            got.by_layer, runner.expected(len(lengths), [None, None], 0.0), atol=2e-5, rtol=1e-4
        )


def test_groups_of_layers_have_tables_of_their_own(parallel: Any) -> None:
    """Where vLLM builds one group's metadata from another's, the blocks are still the group's."""
    impls = [Measured(None, 0.0) for _ in range(3)]
    runner, context = Runner(parallel), WorkerContext.of(parallel)
    runner.fill([30, 12], [1, 1], 2, 0)
    runner.forward(impls)
    first, second = Builder(parallel, 0), Builder(parallel, 1)
    metadata = first.build(0, runner.common)
    metadata.seq_lens, metadata.max_seq_len = runner.lengths[:2], 30
    other = runner.table.flip(0)
    second.update_block_table(metadata, other[:2], torch.zeros(()))
    got = context.attention(2)
    wanted = runner.expected(2, [None, None], 0.0)
    runner.table = other
    assert got is not None
    torch.testing.assert_close(got.by_layer[0], wanted[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(
        got.by_layer[1], runner.expected(2, [None, None], 0.0)[1], atol=2e-5, rtol=1e-4
    )
    assert not math.isclose(float(wanted[1, 0, 0]), float(got.by_layer[1, 0, 0]), rel_tol=1e-3)


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("sinks", {"sinks": torch.zeros(HEADS)}),
        ("ALiBi", {"alibi_slopes": torch.zeros(HEADS)}),
        ("quantised", {"kv_cache_dtype": "fp8"}),
        ("look-back", {"chunk_lookback": 2}),
        ("decoder's", {"attn_type": AttentionType.ENCODER_ONLY}),
    ],
)
def test_what_the_figures_would_not_describe_is_not_measured(
    parallel: Any, caplog: pytest.LogCaptureFixture, what: str, other: dict[str, Any]
) -> None:
    impls = [Measured(None, 0.0, **other) for _ in range(3)]
    assert what in caplog.text
    runner = Runner(parallel)
    runner.fill([5], [1], 1, 0)
    runner.forward(impls)
    assert WorkerContext.of(parallel).attention(1) is None


@pytest.mark.parametrize(
    "setting",
    [{"decode_context_parallel_size": 2}, {"prefill_context_parallel_size": 2}, {"use_ubatching": True}],
)
def test_what_a_worker_sees_a_part_of_is_not_measured(parallel: Any, setting: dict[str, Any]) -> None:
    vars(parallel.parallel_config).update(setting)
    runner, impls = Runner(parallel), [Measured(None, 0.0) for _ in range(3)]
    runner.fill([5], [1], 1, 0)
    runner.forward(impls)
    assert WorkerContext.of(parallel).attention(1) is None


def test_a_layer_that_attends_in_chunks_is_not_measured(parallel: Any) -> None:
    """vLLM's metadata has a row for each chunk there, not for each request."""
    impls = [Measured(None, 0.0) for _ in range(3)]
    runner = Runner(parallel)
    runner.fill([5], [1], 1, 0)
    chunked = SimpleNamespace(layer_name=layer(0).layer_name, attention_chunk_size=8192)
    assert impls[0].measures(layer(0))
    assert not impls[0].measures(chunked)
    none = torch.zeros(())
    impls[0].forward(chunked, runner.queries, none, none, runner.caches[0], runner.metadata, none)
    impls[1].forward(layer(1), runner.queries, none, none, runner.caches[1], runner.metadata, none)
    assert WorkerContext.of(parallel).attention(1) is None


def test_vllms_cache_is_not_kept_alive(parallel: Any) -> None:
    """vLLM frees the one of its profiling captures, and that of an engine that ends, with their layers'."""
    impls = [Measured(None, 0.0) for _ in range(3)]
    runner, context = Runner(parallel), WorkerContext.of(parallel)
    runner.fill([5], [1], 1, 0)
    runner.forward(impls)
    gone = weakref.ref(runner.caches[0])
    runner.caches[0] = runner.caches[0].clone()
    gc.collect()
    assert gone() is None
    assert context.attention(1) is None
    runner.fill([5], [1], 1, 1)
    runner.forward(impls)
    got = context.attention(1)
    assert got is not None
    torch.testing.assert_close(got.by_layer, runner.expected(1, [None, None], 0.0), atol=2e-5, rtol=1e-4)
