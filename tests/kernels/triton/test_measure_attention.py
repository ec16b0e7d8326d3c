"""The Triton kernels without values: against float64, against decode_attention's bits, and among workers."""

import math
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_kernels.attention_stats import (
    HeadShards,
    HeadStats,
    decode_attention,
    layer_signals,
    measure_attention,
)
from entropick_kernels.attention_stats import reference as ref
from entropick_kernels.attention_stats._inputs import PagedQueries
from entropick_kernels.attention_stats.triton_impl import decode_attention_triton, measure_attention_triton

SMALL = {"split": 64, "tile": 16}
"""short rows cross tiles and splits"""
FIGURES = ("entropy", "entropy_normalized", "mean_abs_score", "deviation", "previous")


# a row of less than two keys has NaN for its attention to the previous key
close = partial(torch.testing.assert_close, equal_nan=True)


def queries(rows, heads, width, dtype=torch.float32):
    return torch.randn(rows, heads, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def inputs_of(q, keys, scale=0.3, window=None, softcap=None):
    return PagedQueries(q, keys.blocks, None, keys.table, keys.lengths, scale, window, softcap)


def measure(device, q, keys, scale=0.3, window=None, softcap=None, **options):
    inputs = inputs_of(q.to(device), keys.on(device), scale, window, softcap)
    found = measure_attention_triton(inputs, **options)
    return HeadStats(*(figure.cpu() for figure in found))


def assert_exact(stats, q, keys, scale=0.3, **options):
    """Every row against float64, with the error bars that are promised; a row of length 0 is all zeros."""
    for row, length in enumerate(keys.lengths.tolist()):
        got = HeadStats(*(figure[row] for figure in stats))
        if length == 0:
            assert [figure.any().item() for figure in got._replace(previous=got.keys)] == [False] * 6
            assert got.previous.isnan().all()
            continue
        scores = ref.paged_scores(q[row], keys.blocks, keys.table[row], length, scale=scale, **options)
        assert got.keys == scores.shape[-1]
        assert np.abs(got.entropy.numpy() - ref.head_entropy(scores)).max() <= 1e-5
        assert np.abs(got.entropy_normalized.numpy() - ref.head_entropy_normalized(scores)).max() <= 1e-5
        np.testing.assert_allclose(got.mean_abs_score, np.abs(scores).mean(-1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.previous, ref.head_to_previous(scores), rtol=2e-5, atol=1e-6)
        # a kept weight is off by up to 2^-13 of itself
        np.testing.assert_allclose(got.deviation, ref.head_deviation(scores), rtol=1e-4, atol=3e-5)
        assert layer_signals(got)[3].item() == pytest.approx(ref.agreement(scores), rel=1e-4)


def assert_same(a, b):
    for name in HeadStats._fields:
        close(getattr(a, name), getattr(b, name), rtol=0, atol=0, msg=name)


@contextmanager
def poisoned_memory():
    """torch.empty is full of NaN in here, or of the largest integer."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(2).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def workers(q, keys, count):
    """The queries and blocks of each of ``count`` workers; a key-value head may be held by several."""
    heads, kv_heads = q.shape[1], keys.blocks.shape[1]
    own, group = heads // count, heads // kv_heads
    for first in range(0, heads, own):
        of_keys = slice(first // group, (first + own - 1) // group + 1)
        yield q[:, first : first + own], keys._replace(blocks=keys.blocks[:, of_keys])


def sharded(device, q, keys, count, spoil=lambda total: total, **options):
    """The figures of all heads, each worker measured by itself: a first round leaves the sums."""
    heads, parts = q.shape[1], []
    for own, held in workers(q, keys, count):
        noted = HeadShards(heads, lambda part: (parts.append(part.clone()), part)[1])
        measure(device, own, held, shards=noted, **options)
    assert len(parts) == count  # one sum a measurement
    total = spoil(torch.stack(parts).sum(0))
    found = [
        measure(device, own, held, shards=HeadShards(heads, lambda part: part.copy_(total)), **options)
        for own, held in workers(q, keys, count)
    ]
    gathered = (torch.cat(figure, dim=1) for figure in list(zip(*found, strict=True))[:5])
    return HeadStats(*gathered, found[0].keys)


def assert_like_one(parts, whole):
    """Of the workers' heads all but the deviation is the same to the bit; their sum has another order."""
    for name in ("entropy", "entropy_normalized", "mean_abs_score", "previous"):
        close(getattr(parts, name), getattr(whole, name), rtol=0, atol=0, msg=name)
    torch.testing.assert_close(parts.deviation, whole.deviation, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "layout", "kv_heads", "group", "width", "block"),
    [
        (torch.float32, "NHD", 2, 4, 24, 16),
        (torch.float32, "HND", 1, 7, 16, 5),
        (torch.float16, "NHD", 3, 1, 64, 16),
        (torch.float16, "plain", 1, 3, 16, 16),
        (torch.bfloat16, "NHD", 1, 8, 16, 16),
        (torch.bfloat16, "HND", 2, 2, 40, 32),
    ],
    ids=str,
)
def test_every_type_layout_and_ratio(device, paged_keys, dtype, layout, kv_heads, group, width, block):
    lengths = [1, 0, 15, 16, 17, 63, 130]
    keys = paged_keys(lengths, kv_heads, width, block=block, layout=layout, dtype=dtype)
    q = queries(len(lengths), kv_heads * group, width, dtype)
    assert_exact(measure(device, q, keys, **SMALL), q, keys)


@pytest.mark.parametrize(
    ("layout", "options"), [("NHD", {}), ("HND", {"window": 100}), ("plain", {"window": 1, "softcap": 2.0})]
)
def test_the_bits_are_those_of_decode_attention(device, paged_keys, layout, options):
    lengths = [1, 511, 512, 513]
    keys = paged_keys(lengths, 1, 16, layout=layout).on(device)
    q = queries(len(lengths), 3, 16).to(device)
    inputs = inputs_of(q, keys, **options)
    values = torch.ones(keys.blocks.shape, device=device)
    _, want = decode_attention_triton(inputs._replace(v_blocks=values))
    assert_same(measure_attention_triton(inputs), want)


@pytest.mark.parametrize(
    ("count", "options"), [(2, {}), (2, {"window": 70}), (4, {"window": 33, "softcap": 2.0})], ids=str
)
def test_workers_measure_what_one_would(device, paged_keys, count, options):
    """2 key-value heads: of 4 workers two hold the same one."""
    lengths = [1, 100, 0]
    keys = paged_keys(lengths, 2, 16, layout="NHD")
    q = queries(len(lengths), 8, 16)
    whole = measure(device, q, keys, **SMALL, **options)
    parts = sharded(device, q, keys, count, **SMALL, **options)
    assert_like_one(parts, whole)
    assert_exact(parts, q, keys, **options)


def test_workers_with_more_heads_than_a_block(device, paged_keys):
    keys = paged_keys([20], 2, 16)
    q = queries(1, 140, 16)
    parts = sharded(device, q, keys, 2, **SMALL)
    assert_like_one(parts, measure(device, q, keys, **SMALL))
    assert_exact(parts, q, keys)


@pytest.mark.parametrize("window", [None, 70])
def test_nothing_that_was_not_written_is_read(device, paged_keys, window):
    """Neither of uninitialised memory nor, of what comes back, beyond a row's own tiles."""
    lengths = [5, 0, 100]
    keys = paged_keys(lengths, 2, 16, layout="NHD", columns=9)
    q = queries(len(lengths), 4, 16)

    def spoil(total):
        spoiled = torch.full_like(total, math.nan)
        for row, length in enumerate(lengths):
            start = max(0, length - (window or length))
            first = start // 64 * 64
            own = slice((start - first) // 16 * 16, -(-(length - first) // 16) * 16)
            spoiled[row, own] = total[row, own]
        return spoiled

    clean = sharded(device, q, keys, 2, window=window, **SMALL)
    one = measure(device, q, keys, window=window, **SMALL)
    with poisoned_memory():
        assert_same(sharded(device, q, keys, 2, spoil, window=window, **SMALL), clean)
        assert_same(measure(device, q, keys, window=window, **SMALL), one)
    assert_exact(one, q, keys, window=window)


def test_what_a_padded_row_holds_does_not_matter(device, paged_keys):
    keys = paged_keys([40, 0, 3, 0], 2, 16)
    q = queries(4, 6, 16)
    first = sharded(device, q, keys, 2, **SMALL)
    q[1], q[3] = math.nan, 1e30
    keys.table[1], keys.table[3] = -1, 0
    assert_same(sharded(device, q, keys, 2, **SMALL), first)
    assert_exact(first, q, keys)


def test_a_row_among_workers_is_the_same_bits_wherever_it_is(device, paged_keys):
    lengths = [3, 80]
    q = queries(2, 4, 16)
    whole = sharded(device, q, paged_keys(lengths, 2, 16), 2, **SMALL)
    for row, n in enumerate(lengths):
        keys = paged_keys([0, n], 2, 16, seed=20 + row, columns=9, layout="NHD")
        alone = sharded(device, q[[row, row]], keys, 2, **SMALL)
        assert_same(
            HeadStats(*(figure[[1]] for figure in alone)), HeadStats(*(figure[[row]] for figure in whole))
        )


def test_the_public_function_measures_with_the_kernels(device, paged_keys):
    keys = paged_keys([33, 0, 260], 2, 20, layout="HND").on(device)
    packed = queries(3, 10, 20).to(device)
    arguments = (packed[:, :4], keys.blocks, keys.table.long(), keys.lengths.long())
    options = {"scale": 0.4, "window": 200, "softcap": 8.0}
    stats = measure_attention(*arguments, **options, kernels="triton")
    assert_same(stats, measure_attention_triton(inputs_of(packed[:, :4], keys, **options)))
    want = measure_attention(*arguments, **options, kernels="torch")
    for name in HeadStats._fields:
        got, figure = getattr(stats, name), getattr(want, name)
        assert got.dtype == figure.dtype
        close(got, figure, rtol=1e-4, atol=2e-5, msg=name)
    values = torch.zeros_like(keys.blocks)
    _, decoded = decode_attention(
        packed[[0, 2], :4], keys.blocks, values, keys.table[[0, 2]], keys.lengths[[0, 2]],
        **options, kernels="triton",
    )  # fmt: skip
    assert_same(HeadStats(*(figure[[0, 2]] for figure in stats)), decoded)


def test_tables_and_lengths_with_strides(device, paged_keys):
    keys = paged_keys([40, 3], 2, 16)
    q = queries(2, 4, 16)
    wide = torch.stack((keys.lengths, torch.tensor([7, 7])), 1)
    strided = keys._replace(table=keys.table.t().contiguous().t(), lengths=wide[:, 0])
    assert strided.table.stride(1) != 1
    assert strided.lengths.stride(0) != 1
    plain = inputs_of(q.to(device), keys.on(device))
    moved = plain._replace(block_table=strided.table.to(device), lengths=strided.lengths.to(device))
    assert_same(measure_attention_triton(moved), measure_attention_triton(plain))


def test_a_sum_of_another_shape_is_refused(device, paged_keys):
    keys = paged_keys([20], 2, 16)
    with pytest.raises(ValueError, match="add must return"):
        measure(device, queries(1, 4, 16), keys, shards=HeadShards(8, lambda part: part[:, 1:]))
    with pytest.raises(ValueError, match="float32"):
        measure_attention(
            queries(1, 4, 16).double().to(device), *keys.on(device), scale=1.0, kernels="triton"
        )


@given(
    lengths=st.lists(st.integers(0, 80), min_size=1, max_size=2),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 5),
    block=st.sampled_from([4, 16]),
    layout=st.sampled_from(["plain", "HND", "NHD"]),
    window=st.none() | st.integers(1, 90),
    softcap=st.none() | st.floats(0.5, 30),
    count=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_any_rows_windows_and_workers(
    device, paged_keys, lengths, kv_heads, group, block, layout, window, softcap, count, seed
):
    keys = paged_keys(lengths, kv_heads * count, 16, block=block, layout=layout, seed=seed)
    q = queries(len(lengths), kv_heads * group * count, 16)
    options = {"window": window, "softcap": softcap}
    whole = measure(device, q, keys, **SMALL, **options)
    assert_exact(whole, q, keys, **options)
    assert_like_one(sharded(device, q, keys, count, **SMALL, **options), whole)
