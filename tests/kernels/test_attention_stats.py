"""Attention statistics: the known answers, the paged kernels against eager float64, and independence."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from entropick_kernels import _threads
from entropick_kernels.attention_stats import (
    HeadStats,
    decode_attention,
    head_stats,
    layer_signals,
    numba_impl,
    prefill_attention,
    write_kv,
)
from entropick_kernels.attention_stats import reference as ref
from entropick_sampler.signals import ATTENTION_SIGNALS

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cases.json").read_text())
NAMES = [s.name for s in ATTENTION_SIGNALS]
IMPLEMENTATIONS = ["torch", "numba"]
# a row of one key has NaN for its attention to the previous key
close = partial(torch.testing.assert_close, equal_nan=True)


def golden_rows():
    """(name, scores [H, Q, K], mask [Q, K], the expected figures) of one sequence and layer each."""
    for case in GOLDEN["04_attention_metrics"]["cases"]:
        scores = np.array(case["scores"])
        queries, keys = scores.shape[2:]
        mask = np.ones((queries, keys), dtype=bool)
        if case.get("mask") == "causal":
            mask = np.tril(mask)
        mask[:, case.get("valid_len", keys) :] = False
        for i, row in enumerate(scores):
            expected = case["per_row"][i] if "per_row" in case else case
            yield pytest.param(row, mask, expected, id=f"{case['name']}-{i}")


def signals_of(scores, mask) -> dict[str, float]:
    """The seven signals of one layer and query through the torch functions."""
    figures = layer_signals(head_stats(torch.tensor(scores, dtype=torch.float32), torch.tensor(mask)))
    return dict(zip(NAMES, figures.tolist(), strict=True))


@pytest.mark.parametrize(("scores", "mask", "expected"), list(golden_rows()))
def test_known_answers(scores, mask, expected):
    want = expected["recommended"]
    queries = range(scores.shape[1])
    heads = {
        "per_head_entropy": ref.head_entropy,
        "per_head_entropy_normalized": ref.head_entropy_normalized,
        "per_head_varentropy": ref.head_varentropy,
    }
    for name, function in heads.items():
        got = np.stack([function(scores[:, q], mask[q]) for q in queries], axis=1)
        np.testing.assert_allclose(got, np.array(want[name]).reshape(got.shape), rtol=1e-9, atol=1e-9)
    means = {
        "attn_entropy": ref.attention_entropy,
        "attn_entropy_normalized": ref.attention_entropy_normalized,
        "attn_varentropy_heads": ref.attention_varentropy,
        "agreement_tv": ref.agreement,
        "disagreement_tv": lambda s, m: ref.head_deviation(s, m).mean(),
        "head_jsd_bits": ref.head_jsd,
        "attn_varentropy_token_mean": lambda s, m: ref.head_varentropy(s, m).mean(),
    }
    for name, function in means.items():
        got = np.mean([function(scores[:, q], mask[q]) for q in queries])
        assert got == pytest.approx(want[name], rel=1e-9, abs=1e-9), name
    # the mean over all valid entries weighs a query by its keys
    strength = np.average(
        [ref.interaction_strength(scores[:, q], mask[q]) for q in queries], weights=mask.sum(-1)
    )
    assert strength == pytest.approx(want["interaction_strength"][0], rel=1e-9)
    got32 = [signals_of(scores[:, q], mask[q]) for q in queries]
    for name, key in [
        ("attention_entropy", "attn_entropy"),
        ("attention_entropy_normalized", "attn_entropy_normalized"),
        ("attention_varentropy", "attn_varentropy_heads"),
        ("agreement", "agreement_tv"),
    ]:
        mean = np.mean([row[name] for row in got32])
        assert mean == pytest.approx(want[key], rel=1e-4, abs=1e-5), name
    strength = np.average([row["interaction_strength"] for row in got32], weights=mask.sum(-1))
    assert strength == pytest.approx(want["interaction_strength"][0], rel=1e-4)


@pytest.mark.parametrize(("scores", "mask", "expected"), list(golden_rows()))
def test_agreement_seed_is_the_guides_formula(scores, mask, expected):
    """Unmasked: its mean over queries; the guide's text knows no mask."""
    unmasked = np.ones_like(mask)
    got = [ref.agreement_seed(scores[:, q], unmasked[q]) for q in range(len(mask))]
    assert np.mean(got) == pytest.approx(expected["compat"]["agreement"], rel=1e-9, abs=1e-12)
    got32 = [signals_of(scores[:, q], unmasked[q])["agreement_seed"] for q in range(len(mask))]
    assert np.mean(got32) == pytest.approx(expected["compat"]["agreement"], rel=1e-4, abs=1e-5)


def scores_with_entropy(bits: float, keys: int) -> np.ndarray:
    """Scores of one key against equal others whose attention has this entropy."""
    lo, hi = 0.0, 60.0
    for _ in range(200):
        mid = (lo + hi) / 2
        entropy = ref.head_entropy(np.array([[mid] + [0.0] * (keys - 1)]))[0]
        lo, hi = (mid, hi) if entropy > bits else (lo, mid)
    return np.array([lo] + [0.0] * (keys - 1))


def test_layers_are_averaged_after_the_figure_of_each():
    scores = np.array([[scores_with_entropy(h, 32) for h in pair] for pair in ([1.0, 1.2], [4.0, 4.2])])
    np.testing.assert_allclose(ref.head_entropy(scores), [[1.0, 1.2], [4.0, 4.2]], rtol=1e-9)
    assert ref.attention_varentropy(scores) == pytest.approx(0.01, rel=1e-6)
    assert ref.attention_entropy(scores) == pytest.approx(2.6, rel=1e-9)
    figures = layer_signals(head_stats(torch.tensor(scores, dtype=torch.float32))).mean(0)
    assert figures[2].item() == pytest.approx(0.01, rel=1e-4)


def test_the_columns_are_the_signal_tables_order_and_its_references_exist():
    g = np.random.default_rng(0)
    scores, mask = g.normal(size=(6, 40)) * 3, g.random(40) < 0.7
    got = signals_of(scores, mask)
    for signal in ATTENTION_SIGNALS:
        module, name = signal.reference.rsplit(".", 1)
        function = getattr(import_module(module), name)
        want = function(scores, mask)
        assert got[signal.name] == pytest.approx(want, rel=1e-4, abs=1e-5, nan_ok=True), signal.name


def test_one_hot_uniform_and_single_key():
    one_hot = np.array([[50.0, -50.0, -50.0], [50.0, -50.0, -50.0]])
    assert ref.attention_entropy(one_hot) == pytest.approx(0, abs=1e-12)
    assert ref.agreement(one_hot) == 1
    uniform = signals_of(np.zeros((4, 64)), np.ones(64, dtype=bool))
    assert uniform["attention_entropy"] == 6
    assert uniform["attention_entropy_normalized"] == 1
    assert uniform["attention_varentropy"] == 0
    assert uniform["attention_to_previous"] == 1 / 64
    single = signals_of(np.full((4, 9), 3.0), np.arange(9) == 2)
    assert math.isnan(single.pop("attention_to_previous"))
    assert single == {
        "attention_entropy": 0,
        "attention_entropy_normalized": 0,
        "attention_varentropy": 0,
        "agreement": 1,
        "agreement_seed": 0,
        "interaction_strength": 3,
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_head_stats_matches_the_reference(dtype):
    g = torch.Generator().manual_seed(3)
    s = (torch.randn(5, 8, 70, generator=g, dtype=torch.float64) * 3).to(dtype)
    valid = torch.rand(5, 70, generator=g) < 0.6
    valid[:, 3] = True
    s[1, 2, 3] = 1e4
    s[2].masked_fill_(~valid[2], math.nan)  # what is masked may hold anything
    stats = head_stats(s, valid)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for i in range(5):
        for name, function in [
            ("entropy", ref.head_entropy),
            ("entropy_normalized", ref.head_entropy_normalized),
            ("deviation", ref.head_deviation),
            ("previous", ref.head_to_previous),
        ]:
            np.testing.assert_allclose(
                getattr(stats, name)[i].numpy(), function(s[i], valid[i]), **tolerance, err_msg=name
            )
        assert stats.mean_abs_score[i].mean().item() == pytest.approx(
            ref.interaction_strength(s[i], valid[i]), rel=1e-4
        )
    assert stats.keys.tolist() == valid.sum(-1).tolist()


def test_the_previous_key_by_hand():
    """Weights 1 : 2 : 4 : 8 in the order of the keys."""
    scores = np.log([[1.0, 2.0, 4.0, 8.0], [8.0, 4.0, 2.0, 1.0]])
    for valid, want in [
        (None, [4 / 15, 2 / 15]),
        ([True, True, True, False], [2 / 7, 4 / 14]),
        ([False, False, True, True], [4 / 12, 2 / 3]),  # a window of 2
        ([True, False, False, True], [math.nan, math.nan]),  # the key before the newest is hidden
        ([False, False, False, True], [math.nan, math.nan]),
        ([True, False, False, False], [math.nan, math.nan]),
        ([False, False, False, False], None),
    ]:
        mask = None if valid is None else torch.tensor(valid)
        got = head_stats(torch.tensor(scores), mask).previous
        if want is None:
            assert got.isnan().all()
            continue
        np.testing.assert_allclose(ref.head_to_previous(scores, valid), want, rtol=1e-12)
        np.testing.assert_allclose(got, want, rtol=1e-12)
        mean = ref.attention_to_previous(np.stack((scores, scores)), valid)
        assert mean == pytest.approx(np.mean(want), rel=1e-12, nan_ok=True)
    assert head_stats(torch.zeros(2, 1)).previous.isnan().all()


def test_invariances_of_the_scores():
    g = torch.Generator().manual_seed(9)
    s = torch.randn(6, 50, generator=g, dtype=torch.float64) * 2
    base = layer_signals(head_stats(s))
    # the attention to the previous key alone knows an order of the keys
    keys = torch.cat((torch.randperm(48, generator=g), torch.tensor([48, 49])))
    permuted = layer_signals(head_stats(s[torch.randperm(6, generator=g)][:, keys]))
    assert torch.allclose(base, permuted, atol=1e-12)
    shifted = layer_signals(head_stats(s + 100.0))
    but_size = [0, 1, 2, 3, 4, 6]
    assert torch.allclose(base[but_size], shifted[but_size], atol=1e-10)
    padded = torch.nn.functional.pad(s, (0, 13), value=7.0)
    assert torch.allclose(base, layer_signals(head_stats(padded, torch.arange(63) < 50)), atol=1e-12)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="shape"):
        ref.attention_entropy(np.zeros(3))
    with pytest.raises(ValueError, match="valid"):
        ref.attention_entropy(np.zeros((2, 3)), np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="at least one"):
        ref.attention_entropy(np.zeros((2, 3)), np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="valid"):
        head_stats(torch.zeros(2, 3), torch.ones(4, dtype=torch.bool))
    cache = Cache([5], kv_heads=2, width=8)
    q = torch.zeros(1, 3, 8)
    with pytest.raises(ValueError, match="share"):
        decode_attention(q, cache.k, cache.v, cache.table, cache.lengths, scale=1.0)
    with pytest.raises(ValueError, match="window"):
        decode_attention(q[:, :2], cache.k, cache.v, cache.table, cache.lengths, scale=1.0, window=0)
    with pytest.raises(ValueError, match="fit"):
        prefill_attention(q[:, :2], cache.k, cache.v, cache.table[0], 600, scale=1.0)


class Cache:
    """Sequences of random keys and values in shuffled blocks; what no sequence owns is NaN."""

    def __init__(self, lengths, kv_heads, width, block=16, seed=0, spare=3, dtype=torch.float32):
        g = torch.Generator().manual_seed(seed)
        self.lengths = torch.tensor(lengths, dtype=torch.int32)
        counts = [-(-n // block) for n in lengths]
        total = sum(counts) + spare
        order = torch.randperm(total, generator=g).tolist()
        self.k = torch.full((total, kv_heads, block, width), math.nan, dtype=dtype)
        self.v = torch.full((total, kv_heads, block, width), math.nan, dtype=dtype)
        self.table = torch.randint(total, (len(lengths), max(counts) + 1), generator=g, dtype=torch.int32)
        self.keys, self.values = [], []
        for row, (n, count) in enumerate(zip(lengths, counts, strict=True)):
            ids = [order.pop() for _ in range(count)]
            self.table[row, :count] = torch.tensor(ids, dtype=torch.int32)
            sequence = torch.Generator().manual_seed(1000 + n)
            k = torch.randn(n, kv_heads, width, generator=sequence).to(dtype)
            v = torch.randn(n, kv_heads, width, generator=sequence).to(dtype)
            places = torch.tensor([ids[t // block] * block + t % block for t in range(n)])
            write_kv(k, v, self.k, self.v, places)
            self.keys.append(k)
            self.values.append(v)


def eager(q, k, v, *, scale, window=None, softcap=None):
    """(out [H, D], reference figures) of one query in float64; k, v [T, Hk, D]."""
    group = q.shape[0] // k.shape[1]
    k = k.double().repeat_interleave(group, dim=1)
    v = v.double().repeat_interleave(group, dim=1)
    s = torch.einsum("hd,thd->ht", q.double(), k) * scale
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    if window is not None:
        s, v = s[:, -window:], v[-window:]
    out = torch.einsum("ht,thd->hd", s.softmax(-1), v)
    figures = HeadStats(
        entropy=torch.tensor(ref.head_entropy(s)),
        entropy_normalized=torch.tensor(ref.head_entropy_normalized(s)),
        mean_abs_score=s.abs().mean(-1),
        deviation=torch.tensor(ref.head_deviation(s)),
        previous=torch.tensor(ref.head_to_previous(s)),
        keys=torch.tensor(s.shape[-1]),
    )
    return out, figures


def assert_row_matches(out, stats, row, expected, figures):
    torch.testing.assert_close(out[row].double(), expected, rtol=1e-4, atol=1e-5)
    for name, want in figures._asdict().items():
        got = getattr(stats, name)[row]
        close(got.double(), want.double(), rtol=1e-4, atol=1e-5, msg=name)


OPTIONS = [{}, {"window": 7}, {"window": 64}, {"softcap": 2.0}, {"window": 33, "softcap": 5.0}]


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kv_heads", "group"), [(4, 1), (3, 2), (2, 3), (2, 4), (1, 8), (2, 16)])
def test_decode_matches_eager(kernels, options, kv_heads, group):
    lengths = [1, 2, 15, 16, 17, 33, 100, 200]
    cache = Cache(lengths, kv_heads, 32)
    q = torch.randn(len(lengths), kv_heads * group, 32, generator=torch.Generator().manual_seed(1))
    out, stats = decode_attention(
        q, cache.k, cache.v, cache.table, cache.lengths, scale=0.4, kernels=kernels, **options
    )
    assert out.shape == q.shape
    for row in range(len(lengths)):
        assert_row_matches(
            out, stats, row, *eager(q[row], cache.keys[row], cache.values[row], scale=0.4, **options)
        )


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
@pytest.mark.parametrize("block", [1, 5, 16, 64])
@pytest.mark.parametrize("width", [8, 20, 64, 128])
def test_decode_block_sizes_and_widths(kernels, block, width):
    lengths = [1, 5, 6, 64, 130]
    cache = Cache(lengths, 2, width, block=block)
    q = torch.randn(len(lengths), 6, width, generator=torch.Generator().manual_seed(1))
    scale = width**-0.5
    out, stats = decode_attention(
        q,
        cache.k,
        cache.v,
        cache.table.long(),
        cache.lengths.long(),
        scale=scale,
        kernels=kernels,
    )
    for row in range(len(lengths)):
        assert_row_matches(out, stats, row, *eager(q[row], cache.keys[row], cache.values[row], scale=scale))


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
def test_decode_at_every_length(kernels):
    lengths = list(range(1, 201))
    cache = Cache(lengths, 2, 16)
    q = torch.randn(200, 4, 16, generator=torch.Generator().manual_seed(1))
    out, stats = decode_attention(q, cache.k, cache.v, cache.table, cache.lengths, scale=1.0, kernels=kernels)
    for row in range(200):
        assert_row_matches(out, stats, row, *eager(q[row], cache.keys[row], cache.values[row], scale=1.0))


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
def test_decode_with_a_far_maximum(kernels):
    cache = Cache([50], 1, 16)
    q = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(1))
    far = 1e4 / float(torch.einsum("hd,td->ht", q[0], cache.keys[0][:, 0]).abs().max())
    out, stats = decode_attention(q, cache.k, cache.v, cache.table, cache.lengths, scale=far, kernels=kernels)
    expected, figures = eager(q[0], cache.keys[0], cache.values[0], scale=far)
    assert stats.mean_abs_score.max() > 1000
    # scores of 1e4 carry an absolute error of 1e-3 in float32
    torch.testing.assert_close(out[0].double(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(stats.entropy[0].double(), figures.entropy, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(stats.mean_abs_score[0].double(), figures.mean_abs_score, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_row_does_not_depend_on_the_batch_its_padding_or_its_blocks(kernels, options):
    lengths = [3, 40, 77, 180, 16]
    q = torch.randn(5, 12, 64, generator=torch.Generator().manual_seed(2))

    def run(cache, q):
        return decode_attention(
            q,
            cache.k,
            cache.v,
            cache.table,
            cache.lengths,
            scale=0.3,
            kernels=kernels,
            **options,
        )

    out, stats = run(Cache(lengths, 4, 64), q)
    for row, n in enumerate(lengths):
        alone, one = run(Cache([n], 4, 64, seed=7 + row), q[row : row + 1])
        exact = {"rtol": 0, "atol": 0} if kernels == "numba" else {"rtol": 1e-6, "atol": 1e-6}
        torch.testing.assert_close(alone[0], out[row], **exact)
        for name, value in one._asdict().items():
            close(value[0], getattr(stats, name)[row], **exact, msg=name)


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_without_statistics_the_output_is_the_same(kernels, options, monkeypatch):
    cache = Cache([20, 90, 1], 2, 16)
    q = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(2))
    run = partial(
        decode_attention, q, cache.k, cache.v, cache.table, cache.lengths, scale=0.3,
        kernels=kernels, **options,
    )  # fmt: skip
    out, _ = run()
    threads = [1] if _threads.torch_openmp() is None else [1, 3]
    for count in threads:
        monkeypatch.setattr(numba_impl, "threads_for", lambda work, count=count: count)
        bare, stats = run(want_stats=False)
        assert stats is None
        # torch's softmax has an order of its own
        torch.testing.assert_close(bare, out, rtol=0, atol=0 if kernels == "numba" else 1e-6)


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
def test_a_poisoned_row_stays_alone(kernels):
    cache = Cache([20, 20, 30], 2, 16)
    q = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(2))
    clean = decode_attention(q, cache.k, cache.v, cache.table, cache.lengths, scale=0.3, kernels=kernels)
    q[1, 2] = math.nan
    out, stats = decode_attention(q, cache.k, cache.v, cache.table, cache.lengths, scale=0.3, kernels=kernels)
    assert stats.entropy[1, 2].isnan()
    assert torch.equal(out[[0, 2]], clean[0][[0, 2]])
    assert torch.equal(stats.entropy[[0, 2]], clean[1].entropy[[0, 2]])


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
def test_decode_reads_strided_queries(kernels):
    cache = Cache([20, 30], 2, 16)
    packed = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(2))
    arguments = (cache.k, cache.v, cache.table, cache.lengths)
    strided = decode_attention(packed[:, :4], *arguments, scale=0.3, kernels=kernels)[0]
    plain = decode_attention(packed[:, :4].contiguous(), *arguments, scale=0.3, kernels=kernels)[0]
    assert torch.equal(strided, plain)


def test_decode_in_half_and_double_precision():
    for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float64, 1e-9)):
        cache = Cache([20, 70], 2, 16, dtype=dtype)
        q = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(2)).to(dtype)
        out, stats = decode_attention(q, cache.k, cache.v, cache.table, cache.lengths, scale=0.3)
        assert out.dtype == dtype
        for row in range(2):
            expected, figures = eager(q[row], cache.keys[row], cache.values[row], scale=0.3)
            torch.testing.assert_close(out[row].double(), expected, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(stats.entropy[row].double(), figures.entropy, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("length", "chunk"), [(1, 1), (40, 40), (40, 1), (100, 37), (300, 290), (77, 13)])
def test_prefill_matches_eager(options, length, chunk):
    cache = Cache([length], 2, 16)
    q = torch.randn(chunk, 6, 16, generator=torch.Generator().manual_seed(4))
    out, stats = prefill_attention(q, cache.k, cache.v, cache.table[0], length, scale=0.3, **options)
    rows = range(chunk) if chunk < 40 else [0, 1, chunk // 2, chunk - 2, chunk - 1]
    for i in rows:
        seen = length - chunk + i + 1
        expected, figures = eager(q[i], cache.keys[0][:seen], cache.values[0][:seen], scale=0.3, **options)
        torch.testing.assert_close(out[i].double(), expected, rtol=1e-4, atol=1e-5)
    for name, want in figures._asdict().items():
        got = getattr(stats, name)
        close(got.double(), want.double(), rtol=1e-4, atol=1e-5, msg=name)
    bare = prefill_attention(
        q, cache.k, cache.v, cache.table[0], length, scale=0.3, want_stats=False, **options
    )
    assert bare[1] is None
    assert torch.equal(bare[0], out)


def test_write_kv_touches_only_its_places():
    k_blocks, v_blocks = torch.zeros(4, 2, 8, 3), torch.zeros(4, 2, 8, 3)
    k, v = torch.randn(3, 2, 3), torch.randn(3, 2, 3)
    write_kv(k, v, k_blocks, v_blocks, torch.tensor([25, 0, 15], dtype=torch.int32))
    for t, (block, offset) in enumerate([(3, 1), (0, 0), (1, 7)]):
        assert torch.equal(k_blocks[block, :, offset], k[t])
        assert torch.equal(v_blocks[block, :, offset], v[t])
    assert (k_blocks != 0).sum() == 18


def test_what_is_out_of_range_is_refused():
    cache = Cache([20], 2, 16)
    q, one = torch.zeros(1, 4, 16), torch.zeros(1, 2, 16)
    for place in (-1, cache.k.shape[0] * 16):
        with pytest.raises(IndexError, match="cache index"):
            write_kv(one, one, cache.k, cache.v, torch.tensor([place]))
    with pytest.raises(ValueError, match="cache_index"):
        write_kv(one, one, cache.k, cache.v, torch.tensor([1, 2]))
    with pytest.raises(IndexError, match="block"):
        decode_attention(q, cache.k, cache.v, cache.table + 100, cache.lengths, scale=1.0)
    for length in (0, 49):
        with pytest.raises(IndexError, match="length"):
            decode_attention(q, cache.k, cache.v, cache.table, torch.tensor([length]), scale=1.0)
    with pytest.raises(ValueError, match="lengths"):
        decode_attention(q, cache.k, cache.v, cache.table, torch.tensor([3, 4]), scale=1.0)
    with pytest.raises(ValueError, match="float32"):
        decode_attention(q.double(), cache.k, cache.v, cache.table, cache.lengths, scale=1.0, kernels="numba")


def test_several_threads_give_the_numbers_of_one(monkeypatch):
    lengths = [300, 9, 77, 1]
    cache = Cache(lengths, 4, 64)
    q = torch.randn(4, 12, 64, generator=torch.Generator().manual_seed(2))
    run = partial(decode_attention, q, cache.k, cache.v, cache.table, cache.lengths, scale=0.3)
    serial = run(kernels="numba")
    if _threads.torch_openmp() is None:
        pytest.skip("torch does not run on GNU OpenMP here")
    before = torch.get_num_threads()
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: 3)
    results = [run(kernels="numba")]
    with ThreadPoolExecutor(2) as pool:  # two callers at a time
        results += [f.result() for f in [pool.submit(run, kernels="numba") for _ in range(20)]]
    for out, stats in results:
        assert torch.equal(out, serial[0])
        for a, b in zip(stats, serial[1], strict=True):
            close(a, b, rtol=0, atol=0)
    assert torch.get_num_threads() == before


def test_only_large_loops_get_threads():
    assert _threads.threads_for(1000) == 1
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert _threads.threads_for(1 << 30) == 1
    finally:
        torch.set_num_threads(before)
