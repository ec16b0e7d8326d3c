"""The draw in Triton: Philox bit for bit, tokens equal to those of the reference and of torch."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from entropick_kernels.sample import draw, philox_uniform, triton_impl
from entropick_kernels.sample.reference import (
    draw_reference,
    filter_probabilities_reference,
    philox_uniform_reference,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "cases.json").read_text())
FILTERS = GOLDEN["08_filters"]["cases"]
SHORT = triton_impl.SHORT_LIST
ENDS = (0.0, 1.0 - 2.0**-53)

# philox4x32-10 of the Random123 distribution's known answers (kat_vectors): counter, key, words
KNOWN_WORDS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@triton.jit
def words_kernel(given, out):
    c0, c1, c2 = tl.load(given), tl.load(given + 1), tl.load(given + 2)
    c3, k0, k1 = tl.load(given + 3), tl.load(given + 4), tl.load(given + 5)
    words = triton_impl._philox_words(
        c0.to(tl.uint64), c1.to(tl.uint64), c2.to(tl.uint64),
        c3.to(tl.uint64), k0.to(tl.uint64), k1.to(tl.uint64),
    )  # fmt: skip
    tl.store(out, words[0].to(tl.int64))
    tl.store(out + 1, words[1].to(tl.int64))
    tl.store(out + 2, words[2].to(tl.int64))
    tl.store(out + 3, words[3].to(tl.int64))


@pytest.fixture(scope="module")
def on(device):
    """Move tensors, and lists of numbers, to the device."""

    def move(value, dtype=None):
        return torch.as_tensor(value, dtype=dtype).to(device)

    return move


@pytest.fixture(scope="module")
def parameters(on):
    def build(temperature, top_k, top_p, min_p):
        return (
            on(temperature, torch.float32),
            on(top_k, torch.int64),
            on(top_p, torch.float32),
            on(min_p, torch.float32),
        )

    return build


def drawn(x, arguments, u, **hint):
    return draw(x, *arguments, u, kernels="triton", **hint).cpu()


def agree(x, arguments, u, **hint):
    """Triton, torch and the reference draw the same; the reference sees what the type of x holds."""
    tokens = drawn(x, arguments, u, **hint)
    assert torch.equal(tokens, draw(x, *arguments, u, kernels="torch").cpu())
    on_host = [a.cpu() for a in (x.float(), *arguments, u)]
    np.testing.assert_array_equal(tokens.numpy(), draw_reference(*on_host))
    return tokens


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_WORDS)
def test_philox_known_words(counter, key, words, on):
    out = on([0] * 4)
    words_kernel[(1,)](on(counter + key), out)
    assert tuple(out.tolist()) == words
    if counter[3] == 0:
        seed = key[0] + 2**32 * key[1]
        u = philox_uniform(*(on(a) for a in (seed, *counter[:3])), kernels="triton")
        assert u.item() == (words[0] * 2**21 + (words[1] >> 11)) / 2**53


def test_philox_equals_the_reference_bit_for_bit(on):
    g = torch.Generator().manual_seed(0)
    extreme = [0, -1, 1, -(2**63), 2**63 - 1, 2**32 - 1, 2**32, -(2**32), -(2**31), 0x299F31D0A4093822]
    seed = torch.cat([torch.tensor(extreme), torch.randint(-(2**63), 2**63 - 1, (30,), generator=g)])
    position = torch.randint(-(2**33), 2**33, (40,), generator=g)
    position[0], position[-1] = 0x243F6A88, 2**63 - 1
    columns = torch.arange(12)
    for shapes in (
        (seed[:, None], position[:, None], columns[None], torch.tensor(3)),  # as a step calls it
        (seed, position, torch.tensor(-1), torch.tensor(2**31)),
        (torch.tensor(7), torch.tensor(5), torch.tensor(1), torch.tensor(0)),
        (seed[:5, None, None], position[:4, None], columns[:3], torch.tensor([[[1]], [[2]]])[:1]),
        (seed[::3], position[:14], torch.tensor([2]), torch.tensor([0])),
        (seed[:0], torch.tensor(1), torch.tensor(1), torch.tensor(1)),
    ):
        u = philox_uniform(*(on(a) for a in shapes), kernels="triton")
        expected = philox_uniform_reference(*shapes)
        assert u.dtype == torch.float64
        assert u.shape == expected.shape
        np.testing.assert_array_equal(u.cpu().numpy(), expected)


@pytest.mark.parametrize("vocabulary", [1, 2, 50, 1000, 4096, 4097, 8000])
def test_every_top_k_and_top_p_draws_what_the_reference_draws(vocabulary, on, parameters):
    g = torch.Generator().manual_seed(vocabulary)
    top_ks = [0, 1, 7, SHORT, SHORT + 1, 300, vocabulary, vocabulary + 5]
    cases = list(itertools.product(top_ks, [1e-9, 0.5, 0.9, 0.999999, 1.0]))
    if vocabulary != 1000:
        cases = cases[vocabulary % 3 :: 3]
    temperatures, floors = itertools.cycle([0.7, 1.0, 0.1, 3.0]), itertools.cycle([0.0, 0.05, 0.0, 0.0, 1.0])
    rows = [(next(temperatures), k, p, next(floors)) for k, p in cases]
    x = torch.randn(len(rows), vocabulary, generator=g) * 3
    u = torch.rand(len(rows), 5, generator=g, dtype=torch.float64)
    agree(on(x), parameters(*zip(*rows, strict=True)), on(u))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_ties_are_cut_by_lowest_id_whatever_the_type(dtype, on, parameters):
    g = torch.Generator().manual_seed(3)
    x = torch.randn(6, 2050, generator=g)
    x[0] = 0.25
    x[1] = x[1].round()  # hundreds of equals, zeros of both signs among them
    x[2] = -3.0
    x[2, 100:1500] = 1.5  # equals that cross blocks
    x[3] = torch.where(torch.rand(2050, generator=g) < 0.5, 0.0, -0.0)
    x[4] = (x[4] * 2).round() / 2
    x[5, ::2] = -math.inf
    x = x.to(dtype)
    u = torch.rand(6, 40, generator=g, dtype=torch.float64)
    u[:, :2] = torch.tensor(ENDS, dtype=torch.float64)
    for k, p in ((5, 1.0), (SHORT, 0.5), (SHORT + 1, 1.0), (700, 0.3), (0, 0.7), (0, 1.0)):
        agree(on(x), parameters([1.0, 0.7, 1.0, 3.0, 2.0, 1.0], [k] * 6, [p] * 6, [0.0] * 6), on(u))


@pytest.mark.parametrize("k", [3, SHORT, SHORT + 1, 300])
def test_the_sets_are_exact(k, on, parameters):
    g = torch.Generator().manual_seed(k)
    x = torch.randn(3, 1100, generator=g) * 0.1
    x[1] = (x[1] * 30).round() / 30
    u = (torch.arange(1536, dtype=torch.float64) + 0.5) / 1536
    tops, floors = [1.0, 0.6, 0.9], [0.0, 0.0, 0.85]
    arguments = parameters([1.0] * 3, [k] * 3, tops, floors)
    tokens = drawn(on(x), arguments, on(u.expand(3, -1)))
    for row in range(3):
        p = torch.softmax(x[row].double(), -1)
        kept = filter_probabilities_reference(p, k, tops[row], floors[row]) > 0
        assert 0 < kept.sum() <= k
        assert sorted(set(tokens[row].tolist())) == np.flatnonzero(kept).tolist()


@pytest.mark.parametrize("case", FILTERS)
def test_filters_known_answers(case, on, parameters):
    u = on((torch.arange(4000, dtype=torch.float64)[None] + 0.5) / 4000)
    logits = on(case["p"], torch.float32).log()[None]
    arguments = parameters([1.0], [case["top_k"]], [case["top_p"]], [case["min_p"]])
    for hint in (None, SHORT):
        tokens = drawn(logits, arguments, u, max_top_k=hint if case["top_k"] > 0 else None)
        frequency = torch.bincount(tokens[0], minlength=len(case["p"])).double() / 4000
        np.testing.assert_allclose(frequency.numpy(), case["correct_p"], atol=3e-4)


@pytest.mark.parametrize("k", [0, 10])
def test_exact_ties_do_not_hang_on_rounding(k, on, parameters):
    u = on((torch.arange(100, dtype=torch.float64)[None] + 0.5) / 100)
    for tenths in range(1, 10):
        tokens = drawn(on(torch.zeros(1, 10)), parameters([1.0], [k], [tenths / 10], [0.0]), u)
        assert sorted(set(tokens[0].tolist())) == list(range(tenths))


# numpy tells of what runs to -inf, as it should
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("k", [0, 5, 200])
def test_rows_without_a_distribution_give_the_top_token(k, on, parameters):
    x = torch.zeros(9, 3000)
    x[0, [400, 2600]] = 3.0
    x[1, 2500], x[1, 3] = math.nan, 5.0
    x[2] = -math.inf
    x[3, [2100, 2900]] = math.inf
    x[4, 2999] = 1.0
    x[5] = math.nan
    x[6, 10], x[6, 2200], x[6, 2300] = math.inf, math.nan, math.nan
    x[7] = -math.inf
    x[7, 1234] = -1e30  # one-hot
    x[8, 77] = 3e38  # huge
    temperature = [0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.8, 1e-30]
    arguments = parameters(temperature, [k] * 9, [0.9] * 9, [0.1] * 9)
    u = on(torch.tensor([[0.3, *ENDS]], dtype=torch.float64).expand(9, -1))
    tokens = drawn(on(x), arguments, u)
    assert tokens.tolist() == [[t] * 3 for t in (400, 2500, 0, 2100, 2999, 0, 2200, 1234, 77)]
    assert torch.equal(tokens, draw(on(x), *arguments, u, kernels="torch").cpu())


@pytest.mark.parametrize("k", [0, 4, 100])
def test_extreme_numbers_stay_inside_the_support(k, on, parameters):
    x = torch.full((2, 300), -math.inf)
    x[0, [7, 290]], x[0, 150] = 1.0, -200.0
    x[1, [130, 131]] = -5e4
    u = on(torch.tensor([[0.0, 0.5, ENDS[1]]] * 2, dtype=torch.float64))
    for temperature in (1e-6, 0.1, 1.0):
        tokens = drawn(on(x), parameters([temperature] * 2, [k] * 2, [1.0] * 2, [0.0] * 2), u)
        assert tokens.tolist() == [[7, 290, 290], [130, 131, 131]]


def mixed(on, parameters):
    """Rows of either path, NaN and greedy rows among them, with strides as a slice of a wider batch has."""
    g = torch.Generator().manual_seed(5)
    wide = on(torch.randn(6, 4200, generator=g) * 3)
    x = wide[:, :4111]
    x[4, 7] = math.nan
    packed = on([
        [0.7, 40, 0.9, 0.0], [1.0, 0, 0.95, 0.0], [0.0, 20, 1.0, 0.0], [1.3, 80, 0.8, 0.02],
        [1.0, 0, 1.0, 0.0], [0.9, 0, 1.0, 0.1],
    ], torch.float32)  # fmt: skip
    temperature, top_k, top_p, min_p = packed.unbind(1)
    u = on(torch.rand(6, 10, generator=g, dtype=torch.float64))[:, ::2]
    return x, (temperature, top_k.long(), top_p, min_p), u


def test_a_row_draws_the_same_alone_and_in_a_batch(on, parameters):
    x, arguments, u = mixed(on, parameters)
    together = drawn(x, arguments, u)
    assert torch.equal(together, draw(x, *arguments, u.contiguous(), kernels="torch").cpu())
    for row in range(6):
        one = slice(row, row + 1)
        alone = drawn(x[one].clone(), tuple(a[one].clone() for a in arguments), u[one].clone())
        assert torch.equal(alone, together[one])
    backwards = drawn(x.flip(0), tuple(a.flip(0) for a in arguments), u.flip(0))
    assert torch.equal(backwards.flip(0), together)
    assert torch.equal(drawn(x.t().contiguous().t(), arguments, u), together)  # column stride of 6


def test_the_hint_never_changes_the_outcome(on, parameters):
    g = torch.Generator().manual_seed(6)
    x = on(torch.randn(4, 2000, generator=g) * 2)
    u = on(torch.rand(4, 20, generator=g, dtype=torch.float64))
    short = parameters([0.7, 1.0, 0.0, 2.0], [1, 40, 5, 64], [0.9, 1.0, 0.5, 0.99], [0.0, 0.1, 0.0, 0.0])
    plain = agree(x, short, u)
    for hint in (64, 100, 5000):
        assert torch.equal(drawn(x, short, u, max_top_k=hint), plain)
    off = parameters([0.7, 1.0, 0.0, 2.0], [0] * 4, [1.0] * 4, [0.0, 0.1, 0.0, 0.0])
    assert torch.equal(drawn(x, off, u, max_top_k=0), agree(x, off, u))


@pytest.mark.parametrize("hint", [0, 64])
def test_a_broken_promise_still_gives_ids(hint, on, parameters):
    x = on(torch.randn(3, 500, generator=torch.Generator().manual_seed(0)))
    u = on(torch.rand(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    tokens = drawn(x, parameters([1.0] * 3, [0, 5, 300], [0.9] * 3, [0.0] * 3), u, max_top_k=hint)
    assert ((tokens >= 0) & (tokens < 500)).all()


@pytest.mark.parametrize("candidates", [1, 16, 17, 64])
def test_any_number_of_candidates(candidates, on, parameters):
    g = torch.Generator().manual_seed(candidates)
    x = torch.randn(2, 700, generator=g).double() * 2
    u = torch.rand(2, candidates, generator=g, dtype=torch.float64)
    arguments = parameters([1.0] * 2, [20, 0], [0.95] * 2, [0.0] * 2)
    tokens = agree(on(x), arguments, on(u))
    assert tokens.shape == (2, candidates)
    for column in (0, candidates - 1):
        assert torch.equal(drawn(on(x), arguments, on(u[:, [column]]))[:, 0], tokens[:, column])
    assert drawn(on(x[:0]), tuple(a[:0] for a in arguments), on(u[:0])).shape == (0, candidates)
