"""Measuring from the keys alone, on the CPU: against float64, against decode_attention, and among workers."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from math import nan
from threading import Barrier

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_kernels import _threads
from entropick_kernels.attention_stats import (
    HeadShards,
    HeadStats,
    decode_attention,
    head_stats,
    measure_attention,
    numba_impl,
)
from entropick_kernels.attention_stats import reference as ref

# a row of less than two keys has NaN for its attention to the previous key
close = partial(torch.testing.assert_close, equal_nan=True)
LAYOUTS = ["plain", "HND", "NHD"]
OPTIONS = [{}, {"window": 7}, {"softcap": 2.0}, {"window": 33, "softcap": 5.0}]
FIGURES = ("entropy", "entropy_normalized", "mean_abs_score", "deviation", "previous")


def queries(rows, heads, width, dtype=torch.float32):
    return torch.randn(rows, heads, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def exact(q, keys, row, **options):
    """A row's figures in float64."""
    length = int(keys.lengths[row])
    if length == 0:
        nothing = torch.zeros(q.shape[1], dtype=torch.float64)
        return HeadStats(*[nothing] * 4, nothing * nan, torch.tensor(0))
    scores = ref.paged_scores(q[row], keys.blocks, keys.table[row], length, **options)
    return HeadStats(
        torch.tensor(ref.head_entropy(scores)),
        torch.tensor(ref.head_entropy_normalized(scores)),
        torch.tensor(np.abs(scores).mean(-1)),
        torch.tensor(ref.head_deviation(scores)),
        torch.tensor(ref.head_to_previous(scores)),
        torch.tensor(scores.shape[-1]),
    )


def assert_exact(stats, q, keys, rtol=1e-4, atol=1e-5, **options):
    for row in range(len(q)):
        want = exact(q, keys, row, **options)
        for name in FIGURES:
            got = getattr(stats, name)[row]
            close(got.double(), getattr(want, name), rtol=rtol, atol=atol, msg=name)
        assert stats.keys[row] == want.keys


def assert_same(a, b):
    for name in HeadStats._fields:
        close(getattr(a, name), getattr(b, name), rtol=0, atol=0, msg=name)


def test_the_reference_reads_the_blocks_by_hand():
    blocks = torch.zeros(3, 2, 2, 1)
    blocks[2, :, 0, 0], blocks[2, :, 1, 0] = torch.tensor([1.0, -1.0]), torch.tensor([2.0, -2.0])
    blocks[0, :, 0, 0] = torch.tensor([3.0, -3.0])
    blocks[0, :, 1, 0], blocks[1] = nan, nan
    query = torch.tensor([[1.0], [10.0], [1.0], [10.0]])
    scores = ref.paged_scores(query, blocks, [2, 0, 1], 3, scale=0.5)
    np.testing.assert_array_equal(scores, [[0.5, 1, 1.5], [5, 10, 15], [-0.5, -1, -1.5], [-5, -10, -15]])
    capped = ref.paged_scores(query, blocks, [2, 0, 1], 3, scale=0.5, window=2, softcap=4.0)
    np.testing.assert_allclose(capped, 4 * np.tanh(scores[:, 1:] / 4), rtol=1e-15)


@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=5),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    width=st.sampled_from([1, 4, 20, 32]),
    block=st.sampled_from([1, 5, 16]),
    layout=st.sampled_from(LAYOUTS),
    window=st.none() | st.integers(1, 80),
    softcap=st.none() | st.floats(0.5, 30),
    kernels=st.sampled_from([None, "torch", "numba"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_any_rows_groups_windows_and_layouts(
    paged_keys, lengths, kv_heads, group, width, block, layout, window, softcap, kernels, seed
):
    keys = paged_keys(lengths, kv_heads, width, block=block, layout=layout, seed=seed)
    q = queries(len(lengths), kv_heads * group, width)
    options = {"scale": 0.7, "window": window, "softcap": softcap}
    serves = "torch" if kernels == "numba" and not keys.blocks.is_contiguous() else kernels
    stats = measure_attention(q, *keys, **options, kernels=serves)
    assert_exact(stats, q, keys, **options)
    assert stats.keys.dtype == torch.int64


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.bfloat16, 1e-4), (torch.float16, 1e-4)], ids=str
)
def test_other_types(paged_keys, dtype, tolerance):
    keys = paged_keys([0, 20, 70], 2, 16, layout="NHD", dtype=dtype)
    q = queries(3, 4, 16, dtype)
    stats = measure_attention(q, *keys, scale=0.3)
    assert stats.entropy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_exact(stats, q, keys, scale=0.3, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("kernels", "layout"), [("numba", "plain"), *(("torch", layout) for layout in LAYOUTS)]
)
def test_the_figures_are_those_of_decode_attention(paged_keys, kernels, layout, options, monkeypatch):
    lengths = [1, 2, 15, 16, 17, 33, 100]
    keys = paged_keys(lengths, 2, 32, layout=layout)
    q = queries(len(lengths), 6, 32)
    given = {"scale": 0.4, "kernels": kernels, **options}
    values = torch.zeros(keys.blocks.shape)
    _, want = decode_attention(q, keys.blocks, values, keys.table, keys.lengths, **given)
    assert_same(measure_attention(q, *keys, **given), want)
    if kernels == "numba" and _threads.torch_openmp() is not None:
        monkeypatch.setattr(numba_impl, "threads_for", lambda work: 3)
        assert_same(measure_attention(q, *keys, **given), want)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kernels", ["torch", "numba"])
def test_what_a_padded_row_holds_does_not_matter(paged_keys, kernels, options):
    keys = paged_keys([40, 0, 3, 0], 2, 16)
    q = queries(4, 6, 16)
    given = {"scale": 0.4, "kernels": kernels, **options}
    first = measure_attention(q, *keys, **given)
    q[1], q[3] = nan, 1e30
    keys.table[1], keys.table[3] = -1, 0
    again = measure_attention(q, *keys, **given)
    assert_same(again, first)
    for name in FIGURES:
        padded = getattr(first, name)[[1, 3]]
        assert padded.isnan().all() if name == "previous" else not padded.any()
        assert getattr(first, name)[0].all()
    assert first.keys[1] == first.keys[3] == 0


def workers(q, keys, count):
    """The queries and blocks of each of ``count`` workers; a key-value head may be held by several."""
    heads, kv_heads = q.shape[1], keys.blocks.shape[1]
    own, group = heads // count, heads // kv_heads
    for first in range(0, heads, own):
        of_keys = slice(first // group, (first + own - 1) // group + 1)
        yield q[:, first : first + own], keys._replace(blocks=keys.blocks[:, of_keys])


class Sum:
    """The sum over workers that are threads; every second worker gets it in place."""

    def __init__(self, count):
        self.barrier, self.parts, self.calls = Barrier(count, timeout=60), [None] * count, [0] * count

    def of(self, worker):
        def add(of_worker):
            assert of_worker.is_contiguous()
            self.calls[worker] += 1
            self.parts[worker] = of_worker.clone()
            self.barrier.wait()
            whole = torch.stack(self.parts).sum(0)
            self.barrier.wait()
            return whole if worker % 2 else of_worker.copy_(whole)

        return add


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", ["plain", "NHD"])
def test_workers_measure_what_one_would(paged_keys, layout, count, options):
    lengths = [1, 0, 17, 100]
    keys = paged_keys(lengths, 4, 16, layout=layout)
    q = queries(len(lengths), 8, 16)
    whole = measure_attention(q, *keys, scale=0.5, **options)
    total = Sum(count)

    def run(worker, of_worker):
        own, held = of_worker
        return measure_attention(own, *held, scale=0.5, shards=HeadShards(8, total.of(worker)), **options)

    with ThreadPoolExecutor(count) as pool:
        parts = list(pool.map(run, range(count), workers(q, keys, count)))
    assert total.calls == [1] * count
    gathered = HeadStats(*(torch.cat(f, dim=1) for f in list(zip(*parts, strict=True))[:5]), parts[0].keys)
    for name in HeadStats._fields:
        close(getattr(gathered, name), getattr(whole, name), rtol=1e-5, atol=1e-6, msg=name)
    assert_exact(gathered, q, keys, scale=0.5, **options)


@given(
    cuts=st.sets(st.integers(1, 11), max_size=4),
    rows=st.integers(1, 3),
    layers=st.integers(1, 2),
    span=st.integers(1, 40),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_heads_spread_in_any_way(cuts, rows, layers, span, seed):
    """By scores, with a layer axis and any mask: uneven shares, too."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(layers, rows, 12, span, generator=g, dtype=torch.float64) * 3
    valid = torch.rand(layers, rows, span, generator=g) < 0.7
    whole = head_stats(scores, valid)
    shares = [slice(lo, hi) for lo, hi in pairwise([0, *sorted(cuts), 12])]
    sums = []
    for share in shares:
        head_stats(scores[..., share, :], valid, HeadShards(12, lambda part: (sums.append(part), part)[1]))
    total = torch.stack(sums).sum(0)
    for share in shares:
        got = head_stats(scores[..., share, :], valid, HeadShards(12, lambda part: total))
        for name in FIGURES:
            close(getattr(got, name), getattr(whole, name)[..., share], rtol=1e-9, atol=1e-9, msg=name)


def test_wrong_arguments_are_refused(paged_keys):
    keys = paged_keys([20], 2, 16)
    q = queries(1, 4, 16)

    def refused(match, q=q, keys=keys, error=ValueError, **options):
        with pytest.raises(error, match=match):
            measure_attention(q, *keys, **{"scale": 1.0} | options)

    refused(r"q \[\.\., H, D\] and k_blocks \[P, Hk, block, D\], got \(1, 4, 8\)", q=q[..., :8])
    refused("3 query heads do not share 2", q=q[:, :3])
    refused("window must be at least 1, got 0", window=0)
    refused("softcap must be positive", softcap=0.0)
    refused(r"block_table \[1, N >= 1\]", keys=keys._replace(table=keys.table[:, :0]))
    refused(r"lengths \[1\], got", keys=keys._replace(lengths=torch.tensor([3, 4])))
    refused("shards.heads must count all heads, at least the 4 here, got 3", shards=HeadShards(3, abs))
    refused("shards.add must return", shards=HeadShards(8, lambda part: part[:, :-1]))
    refused("shards.add must return torch.float32", shards=HeadShards(8, lambda part: part.double()))
    refused("no shards", kernels="numba", shards=HeadShards(8, abs))
    refused("contiguous blocks", kernels="numba", keys=paged_keys([20], 2, 16, layout="HND"))
    refused("Triton kernels need", kernels="triton")
    refused("length", error=IndexError, keys=keys._replace(lengths=torch.tensor([-1])))
    refused("length", error=IndexError, keys=keys._replace(lengths=torch.tensor([33])))
    refused("block id", error=IndexError, keys=keys._replace(table=keys.table + 100))
