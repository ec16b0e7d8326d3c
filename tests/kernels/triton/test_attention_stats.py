"""The Triton attention against float64 on the same rounded inputs, and a row's independence to the bit."""

import math

import numpy as np
import pytest
import torch

from entropick_kernels.attention_stats import (
    HeadStats,
    decode_attention,
    layer_signals,
    prefill_attention,
)
from entropick_kernels.attention_stats import reference as ref
from entropick_kernels.attention_stats._inputs import PagedQueries
from entropick_kernels.attention_stats.triton_impl import SPLIT, TILE, decode_attention_triton

SMALL = {"split": 64, "tile": 16}
"""short rows cross tiles and splits"""
RESOLUTION = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""of the output, on the GPU with its weights rounded to the cache's type"""


class Cache:
    """Rows of random keys and values in scattered blocks; what no row owns is NaN."""

    def __init__(
        self, device, lengths, kv_heads, width, *, block=16, dtype=torch.float32, seed=0, columns=None, at=0
    ):
        counts = [-(-n // block) for n in lengths]
        total = sum(counts) + 3
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
        shape = (total, kv_heads, block, width)
        self.k, self.v = (torch.full(shape, math.nan, dtype=dtype, device=device) for _ in range(2))
        # beyond a row's blocks: any valid id, here of a block that is NaN
        table = torch.full((len(lengths), columns or max(counts)), order.pop(), dtype=torch.int32)
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
        self.keys, self.values = [], []
        for row, (n, count) in enumerate(zip(lengths, counts, strict=True)):
            ids = torch.tensor([order.pop() for _ in range(count)])
            table[row, :count] = ids
            g = torch.Generator().manual_seed(1000 + n)
            for blocks, kept in ((self.k, self.keys), (self.v, self.values)):
                drawn = torch.randn(n, kv_heads, width, generator=g).to(dtype)
                kept.append(drawn)
                slots = torch.arange(n)
                blocks[ids[slots // block].to(device), :, (slots % block).to(device)] = drawn.to(device)
        self.table = table.to(device)

    def attend(self, q, scale=0.3, window=None, softcap=None, **options):
        q = q.to(self.k.device)
        inputs = PagedQueries(q, self.k, self.v, self.table, self.lengths, scale, window, softcap)
        out, stats = decode_attention_triton(inputs, **options)
        return out.cpu(), stats and HeadStats(*(figure.cpu() for figure in stats))


def queries(rows, heads, width, dtype=torch.float32):
    return torch.randn(rows, heads, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def eager(q, k, v, scale=0.3, window=None, softcap=None):
    """(out [H, D], figures, largest score) of one query in float64; k, v [T, Hk, D]."""
    k, v = (x.double().repeat_interleave(q.shape[0] // k.shape[1], dim=1) for x in (k, v))
    s = torch.einsum("hd,thd->ht", q.double(), k) * scale
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    if window is not None:
        s, v = s[:, -window:], v[-window:]
    figures = HeadStats(
        torch.tensor(ref.head_entropy(s)),
        torch.tensor(ref.head_entropy_normalized(s)),
        s.abs().mean(-1),
        torch.tensor(ref.head_deviation(s)),
        torch.tensor(ref.head_to_previous(s)),
        torch.tensor(s.shape[-1]),
    )
    return torch.einsum("ht,thd->hd", s.softmax(-1), v), figures, s


def check(cache, q, dtype, **options):
    """Every row against float64, with the error bars that are promised."""
    out, stats = cache.attend(q, **options)
    exact = {name: options[name] for name in ("scale", "window", "softcap") if name in options}
    for row in range(len(q)):
        expected, figures, scores = eager(q[row], cache.keys[row], cache.values[row], **exact)
        got = HeadStats(*(figure[row] for figure in stats))
        tolerance = RESOLUTION[dtype]
        torch.testing.assert_close(out[row].double(), expected, rtol=tolerance, atol=tolerance)
        assert got.keys == figures.keys
        assert (got.entropy - figures.entropy).abs().max() <= 1e-5
        assert (got.entropy_normalized - figures.entropy_normalized).abs().max() <= 1e-5
        torch.testing.assert_close(got.mean_abs_score.double(), figures.mean_abs_score, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            got.previous.double(), figures.previous, rtol=2e-5, atol=1e-6, equal_nan=True
        )
        # a kept weight is off by up to 2^-13 of itself
        torch.testing.assert_close(got.deviation.double(), figures.deviation, rtol=1e-4, atol=3e-5)
        assert layer_signals(got)[3].item() == pytest.approx(ref.agreement(scores), rel=1e-4)


def assert_same(a, b):
    """Equal to the bit: (out, statistics)."""
    assert torch.equal(a[0], b[0])
    for name, left, right in zip(HeadStats._fields, a[1], b[1], strict=True):
        # NaN: the attention to the previous key of a row of one key
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("dtype", RESOLUTION, ids=str)
@pytest.mark.parametrize(
    ("kv_heads", "group", "width", "block"),
    [(2, 1, 24, 16), (1, 2, 16, 16), (1, 3, 64, 5), (1, 4, 64, 16), (1, 7, 16, 16), (1, 8, 24, 16)],
)
def test_every_ratio_width_block_and_type(device, dtype, kv_heads, group, width, block):
    lengths = [1, 2, 15, 16, 17, 63, 65]
    cache = Cache(device, lengths, kv_heads, width, dtype=dtype, block=block)
    check(cache, queries(len(lengths), kv_heads * group, width, dtype), dtype, **SMALL)


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}], ids=str)
@pytest.mark.parametrize("window", [None, 1, 16, 100, 600])
def test_real_splits_windows_and_caps(device, window, options):
    lengths = [1, 511, 512, 513, 1000]
    cache = Cache(device, lengths, 1, 64)
    check(cache, queries(len(lengths), 4, 64), torch.float32, window=window, **options)


@pytest.mark.parametrize("window", [None, 1, 16, 33, 100])
def test_windows_over_many_splits(device, window):
    lengths = [1, 64, 65, 300, 333]
    cache = Cache(device, lengths, 1, 16)
    check(cache, queries(len(lengths), 3, 16), torch.float32, window=window, **SMALL)


def test_more_splits_and_tiles_than_a_block_of_the_merge(device):
    cache = Cache(device, [16 * 16 + 5, 16 * 128 + 40], 1, 16, block=64)
    check(cache, queries(2, 2, 16), torch.float32, split=16, tile=16)


def test_more_heads_than_a_block(device):
    cache = Cache(device, [70, 9], 5, 16)
    check(cache, queries(2, 70, 16), torch.float32)


def test_types_that_differ_are_not_rounded_to_one(device):
    cache = Cache(device, [40], 2, 16, dtype=torch.bfloat16)
    check(cache, queries(1, 4, 16), torch.float32)


def test_a_small_score_keeps_its_digits_under_a_cap(device):
    cache = Cache(device, [100], 1, 16)
    q = queries(1, 2, 16)
    for scale in (1e-5, 1e-2, 3.0, 1e3):
        _, stats = cache.attend(q, scale=scale, softcap=5.0)
        want = eager(q[0], cache.keys[0], cache.values[0], scale=scale, softcap=5.0)[1].mean_abs_score
        torch.testing.assert_close(stats.mean_abs_score[0].double(), want, rtol=2e-6, atol=0)


def test_a_one_hot_row(device):
    """Scores of 1e4, exact in float32: whole numbers."""
    cache = Cache(device, [200], 1, 16)
    k = torch.zeros(200, 16)
    k[:, 0] = torch.arange(200).sub(37).square().neg()
    k[37, 0], k[38:, 0] = 10000, -10000
    slots = torch.arange(200)
    cache.k[cache.table[0].long()[slots // 16], 0, slots % 16] = k.to(device)
    q = torch.zeros(1, 2, 16)
    q[0, :, 0] = torch.tensor([1.0, 2.0])
    out, stats = cache.attend(q, scale=1.0, **SMALL)
    assert stats.entropy.tolist() == [[0, 0]]
    assert stats.deviation.tolist() == [[0, 0]]
    assert torch.equal(out[0], cache.values[0][37].expand(2, 16))
    size = k[:, 0].double().abs().mean()
    np.testing.assert_allclose(stats.mean_abs_score[0], [size, 2 * size], rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 64, 513, 1000])
def test_equal_scores_have_the_entropy_of_their_number(device, n):
    _, stats = Cache(device, [n], 1, 16).attend(torch.zeros(1, 2, 16))
    np.testing.assert_allclose(stats.entropy[0], math.log2(n), atol=1e-6)
    np.testing.assert_allclose(stats.entropy_normalized[0], float(n > 1), atol=1e-6)
    assert stats.deviation.tolist() == [[0, 0]]
    assert stats.mean_abs_score.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("split", "longest"), [(SMALL, 150), ({"split": SPLIT, "tile": TILE}, 700)], ids=["small", "real"]
)
@pytest.mark.parametrize("window", [None, 70])
def test_a_row_is_the_same_bits_wherever_it_is(device, window, split, longest):
    lengths = [3, longest, 40, 65]
    q = queries(4, 6, 16)
    whole = Cache(device, lengths, 2, 16).attend(q, window=window, **split)
    wider = Cache(device, lengths, 2, 16, seed=5, columns=49).attend(q, window=window, **split)
    assert_same(whole, wider)
    order = [1, 0, 3, 2]
    turned = Cache(device, [lengths[i] for i in order], 2, 16, seed=9).attend(
        q[order], window=window, **split
    )
    assert_same(turned, (whole[0][order], [figure[order] for figure in whole[1]]))
    for row, n in enumerate(lengths):
        alone = Cache(device, [n], 2, 16, seed=20 + row).attend(q[[row]], window=window, **split)
        assert_same(alone, (whole[0][[row]], [figure[[row]] for figure in whole[1]]))


def test_what_a_block_held_before_does_not_matter(device):
    lengths = [5, 70, 200]
    q = queries(3, 4, 16)
    cache = Cache(device, lengths, 2, 16)
    of_nan = cache.attend(q, window=90, **SMALL)
    cache.k.nan_to_num_(7.0)
    cache.v.nan_to_num_(-3.0)
    assert_same(cache.attend(q, window=90, **SMALL), of_nan)


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # numpy, in the interpreter
def test_a_poisoned_head_stays_alone(device):
    cache = Cache(device, [20, 90], 2, 16)
    q = queries(2, 4, 16)
    clean = cache.attend(q, **SMALL)
    q[1, 2] = math.nan
    out, stats = cache.attend(q, **SMALL)
    assert stats.entropy[1, 2].isnan()
    assert out[1, 2].isnan().all()
    assert torch.equal(out[0], clean[0][0])
    assert torch.equal(stats.deviation[0], clean[1].deviation[0])
    assert torch.equal(stats.entropy[1, [0, 1, 3]], clean[1].entropy[1, [0, 1, 3]])


def test_a_shift_of_all_scores_moves_only_their_size(device):
    cache = Cache(device, [150], 1, 16)
    cache.k[..., 0] *= 0  # but NaN stays
    q = queries(1, 2, 16)
    q[..., 0] = 1.0
    base = cache.attend(q, **SMALL)
    cache.k[..., 0] += 64.0
    out, stats = cache.attend(q, **SMALL)
    torch.testing.assert_close(out, base[0], rtol=1e-4, atol=1e-5)
    for name in ("entropy", "entropy_normalized", "deviation"):
        torch.testing.assert_close(getattr(stats, name), getattr(base[1], name), rtol=1e-4, atol=1e-5)
    assert (stats.mean_abs_score > base[1].mean_abs_score + 5).all()


@pytest.mark.parametrize("dtype", RESOLUTION, ids=str)
def test_the_public_function_agrees_with_torch(device, dtype):
    cache = Cache(device, [33, 5, 260], 2, 20, dtype=dtype)
    packed = queries(3, 10, 20, dtype).to(device)
    arguments = (packed[:, :4], cache.k, cache.v, cache.table.long(), cache.lengths.long())
    options = {"scale": 0.4, "window": 200, "softcap": 8.0}
    out, stats = decode_attention(*arguments, **options, kernels="triton")
    want, figures = decode_attention(*arguments, **options, kernels="torch")
    torch.testing.assert_close(out, want, rtol=RESOLUTION[dtype], atol=RESOLUTION[dtype])
    for got, figure in zip(stats, figures, strict=True):
        assert got.dtype == figure.dtype
        torch.testing.assert_close(got, figure, rtol=1e-4, atol=2e-5)
    bare, nothing = decode_attention(*arguments, **options, want_stats=False, kernels="triton")
    assert nothing is None
    assert torch.equal(bare, out)


def test_without_the_deviation_the_rest_is_the_same(device):
    cache = Cache(device, [33, 600], 2, 16)
    q = queries(2, 4, 16)
    out, stats = cache.attend(q)
    bare, heads = cache.attend(q, want="heads")
    assert torch.equal(out, bare)
    assert heads.deviation.isnan().all()
    for name in ("entropy", "entropy_normalized", "mean_abs_score", "previous", "keys"):
        assert torch.equal(getattr(stats, name), getattr(heads, name)), name


def test_strided_blocks(device):
    cache = Cache(device, [33, 70], 2, 16)
    q = queries(2, 4, 16)
    want = cache.attend(q)
    both = torch.stack((cache.k, cache.v), 2).transpose(1, 3)
    cache.k, cache.v = both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)
    assert not cache.k.is_contiguous()
    assert_same(cache.attend(q), want)
    cache.v = cache.v.contiguous()
    assert_same(cache.attend(q), want)


@pytest.mark.parametrize("options", [{}, {"window": 33}, {"softcap": 4.0}], ids=str)
def test_prefill_statistics_are_torchs(device, options):
    cache = Cache(device, [90], 2, 16, columns=12)
    q = queries(7, 6, 16).to(device)
    arguments = (q, cache.k, cache.v, cache.table[0], 90)
    out, stats = prefill_attention(*arguments, scale=0.3, **options, kernels="triton")
    want, figures = prefill_attention(*arguments, scale=0.3, **options, kernels="torch")
    assert torch.equal(out, want)
    for got, figure in zip(stats, figures, strict=True):
        assert got.shape == figure.shape
        torch.testing.assert_close(got, figure, rtol=1e-4, atol=2e-5)


def test_what_the_kernels_cannot_serve_is_refused(device):
    cache = Cache(device, [20], 2, 16)
    arguments = (cache.k, cache.v, cache.table, cache.lengths)
    q = queries(1, 4, 16).to(device)
    for wrong in (q.double(), q.transpose(1, 2).contiguous().transpose(1, 2)):
        with pytest.raises(ValueError, match="float32"):
            decode_attention(wrong, *arguments, scale=1.0, kernels="triton")
        decode_attention(wrong, *arguments, scale=1.0)
