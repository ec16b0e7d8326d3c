"""The draw: Philox's published vectors, the filters' known answers, and equality with the reference."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from entropick_kernels import _threads
from entropick_kernels.sample import draw, numba_impl, philox_uniform
from entropick_kernels.sample.reference import (
    draw_reference,
    filter_probabilities_reference,
    philox_uniform_reference,
    philox_words_reference,
)
from entropick_kernels.sample.torch_impl import philox_words_torch

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cases.json").read_text())
FILTERS = GOLDEN["08_filters"]["cases"]

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


BOTH = pytest.mark.parametrize("kernels", ["torch", "numba"])


def ints(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def parameters(temperature, top_k, top_p, min_p):
    return (
        torch.tensor(temperature, dtype=torch.float32),
        torch.tensor(top_k, dtype=torch.int64),
        torch.tensor(top_p, dtype=torch.float32),
        torch.tensor(min_p, dtype=torch.float32),
    )


def random_parameters(rows, generator, max_top_k):
    def pick(values):
        return torch.tensor(values)[torch.randint(len(values), (rows,), generator=generator)]

    top_k = torch.randint(1, max_top_k + 1, (rows,), generator=generator)
    return (
        pick([0.0, 0.3, 0.7, 1.0, 1.5, 3.0]),
        top_k,
        pick([0.05, 0.5, 0.9, 0.95, 1.0]),
        pick([0.0, 0.02, 0.1, 0.5]),
    )


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_WORDS)
def test_philox_known_words(counter, key, words):
    assert tuple(int(w) for w in philox_words_reference(counter, key)) == words
    got = philox_words_torch(tuple(ints(c) for c in counter), tuple(ints(k) for k in key))
    assert tuple(got.tolist()) == words


@BOTH
def test_philox_layout_and_equality_with_the_reference(kernels):
    g = torch.Generator().manual_seed(0)
    seed = torch.randint(-(2**63), 2**63 - 1, (200, 1), generator=g)
    position = torch.randint(0, 2**31, (200, 1), generator=g)
    candidate, branch = torch.arange(12), ints(5)
    u = philox_uniform(seed, position, candidate, branch, kernels=kernels)
    assert u.shape == (200, 12)
    assert u.dtype == torch.float64
    np.testing.assert_array_equal(u.numpy(), philox_uniform_reference(seed, position, candidate, branch))
    assert ((u >= 0) & (u < 1)).all()
    key = int(seed[3, 0]) % 2**64
    words = philox_words_reference((int(position[3, 0]), 7, 5, 0), (key % 2**32, key // 2**32))
    assert u[3, 7].item() == (int(words[0]) * 2**21 + int(words[1]) // 2**11) / 2**53


@BOTH
def test_philox_numbers_are_uniform_and_do_not_depend_on_the_batch(kernels):
    uniform = partial(philox_uniform, kernels=kernels)
    u = uniform(ints(7), torch.arange(50000), ints(0), ints(0))
    assert abs(u.mean().item() - 0.5) < 0.006
    assert abs(u.var().item() - 1 / 12) < 0.002
    assert len(u.unique()) == 50000
    assert uniform(ints(7), ints(123), ints(0), ints(0)).item() == u[123].item()
    assert uniform(ints(7), ints(123), ints(1), ints(0)).item() != u[123].item()
    assert uniform(ints(7), ints(123), ints(0), ints(1)).item() != u[123].item()


@pytest.mark.parametrize("case", FILTERS)
@BOTH
def test_filters_known_answers(case, kernels):
    arguments = (case["top_k"], case["top_p"], case["min_p"])
    filtered = filter_probabilities_reference(case["p"], *arguments)
    np.testing.assert_allclose(filtered, case["correct_p"], rtol=1e-9, atol=1e-12)
    assert (filtered > 0).tolist() == case["correct_keep"]
    # the draw walks through exactly these probabilities
    u = (torch.arange(20000, dtype=torch.float64)[None] + 0.5) / 20000
    logits = torch.tensor(case["p"], dtype=torch.float32).log()[None]
    for hint in (None, 64):
        tokens = draw(
            logits,
            *parameters([1.0], [arguments[0]], [arguments[1]], [arguments[2]]),
            u,
            max_top_k=hint,
            kernels=kernels,
        )
        frequency = torch.bincount(tokens[0], minlength=len(case["p"])).double() / 20000
        np.testing.assert_allclose(frequency.numpy(), case["correct_p"], atol=6e-5)


@BOTH
def test_filters_that_are_off_change_nothing_and_the_top_token_survives(kernels):
    p = np.random.default_rng(0).dirichlet(np.ones(50), size=4)
    for off in ((0, 1.0, 0.0), (-1, 1.5, -1.0), (50, 1.0, 0.0), (1000, 1.0, 0.0)):
        np.testing.assert_allclose(filter_probabilities_reference(p, *off), p, rtol=1e-12)
    for hard in ((1, 1.0, 0.0), (0, 0.0, 0.0), (0, 1e-9, 0.0), (0, 1.0, 1.0), (0, 1.0, 2.0)):
        kept = filter_probabilities_reference(p, *hard)
        assert ((kept > 0).sum(-1) == 1).all()
        assert (kept.argmax(-1) == p.argmax(-1)).all()
        tokens = draw(
            torch.tensor(p).log(), *parameters([1.0] * 4, [hard[0]] * 4, [hard[1]] * 4, [hard[2]] * 4),
            torch.rand(4, 8, dtype=torch.float64), kernels=kernels)  # fmt: skip
        assert (tokens == torch.tensor(p.argmax(-1))[:, None]).all()


@BOTH
def test_exact_ties_do_not_hang_on_rounding(kernels):
    u = (torch.arange(1000, dtype=torch.float64)[None] + 0.5) / 1000
    for tenths in range(1, 10):
        kept = filter_probabilities_reference(np.full(10, 0.1), 0, tenths / 10, 0.0)
        assert (kept > 0).sum() == tenths
        tokens = draw(
            torch.zeros(1, 10),
            *parameters([1.0], [0], [tenths / 10], [0.0]),
            u,
            kernels=kernels,
        )
        assert sorted(set(tokens[0].tolist())) == list(range(tenths))


@pytest.mark.parametrize("vocabulary", [3, 64, 200, 4099])
@BOTH
def test_draw_equals_the_reference(vocabulary, kernels):
    g = torch.Generator().manual_seed(vocabulary)
    rows = 60 if vocabulary > 1000 else 500
    x = torch.randn(rows, vocabulary, generator=g) * 3
    x[torch.rand(rows, vocabulary, generator=g) < 0.1] = -math.inf
    x[:, 1] = 0.5
    u = torch.rand(rows, 6, generator=g, dtype=torch.float64)
    temperature, top_k, top_p, min_p = random_parameters(rows, g, min(vocabulary, 100))
    top_k[::5] = 0
    tokens = draw(x, temperature, top_k, top_p, min_p, u, kernels=kernels)
    np.testing.assert_array_equal(tokens.numpy(), draw_reference(x, temperature, top_k, top_p, min_p, u))


@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("vocabulary", [40, 1000, 8192])
def test_the_hint_never_changes_the_outcome(vocabulary, coarse):
    g = torch.Generator().manual_seed(vocabulary)
    rows = 200 if vocabulary < 8192 else 48
    x = torch.randn(rows, vocabulary, generator=g) * 2
    if coarse:
        x = x.round()  # hundreds of equal logits at the cut
    u = torch.rand(rows, 6, generator=g, dtype=torch.float64)
    arguments = random_parameters(rows, g, 64)
    short = draw(x, *arguments, u, max_top_k=64)
    assert torch.equal(short, draw(x, *arguments, u))
    assert torch.equal(short, draw(x, *arguments, u, max_top_k=5000))
    if coarse:
        np.testing.assert_array_equal(short.numpy(), draw_reference(x, *arguments, u))
    off = (arguments[0], torch.zeros_like(arguments[1]), torch.ones(rows), arguments[3])
    assert torch.equal(draw(x, *off, u, max_top_k=0), draw(x, *off, u))


@pytest.mark.parametrize("hint", [None, 64])
@BOTH
def test_a_row_draws_the_same_alone_and_in_a_batch(hint, kernels):
    g = torch.Generator().manual_seed(5)
    x = torch.randn(16, 32001, generator=g) * 3
    x[4, 7] = math.nan
    u = torch.rand(16, 4, generator=g, dtype=torch.float64)
    arguments = random_parameters(16, g, 64)
    together = draw(x, *arguments, u, max_top_k=hint, kernels=kernels)
    for row in (0, 3, 5, 15):
        one = slice(row, row + 1)
        alone = draw(
            x[one].clone(),
            *(a[one] for a in arguments),
            u[one],
            max_top_k=hint,
            kernels=kernels,
        )
        assert torch.equal(alone, together[one])


@BOTH
def test_frequencies_follow_the_filtered_distribution(kernels):
    x = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0, 0.5]])
    u = philox_uniform(ints([[11]]), torch.arange(200000)[None], ints(0), ints(0), kernels=kernels)
    tokens = draw(x, *parameters([0.8], [4], [0.95], [0.05]), u, kernels=kernels)
    p = torch.softmax(x[0].double() / 0.8, -1)
    expected = filter_probabilities_reference(p, 4, 0.95, 0.05)
    frequency = torch.bincount(tokens[0], minlength=6).double().numpy() / 200000
    np.testing.assert_allclose(frequency, expected, atol=0.004)
    assert (frequency[expected == 0] == 0).all()


@BOTH
def test_temperature_zero_and_bad_rows_give_the_top_token(kernels):
    x = torch.zeros(6, 9)
    x[0, [4, 6]] = 3.0
    x[1, 2] = math.nan
    x[2] = -math.inf
    x[3, 5] = math.inf
    x[4, 8] = 1.0
    arguments = parameters([0.0, 1.0, 1.0, 1.0, 0.0, 1e-30], [50, 0, 5, 0, 0, 1], [0.9] * 6, [0.1] * 6)
    tokens = draw(x, *arguments, torch.full((6, 3), 0.999, dtype=torch.float64), kernels=kernels)
    assert tokens.tolist() == [[4] * 3, [2] * 3, [0] * 3, [5] * 3, [8] * 3, [0] * 3]


@BOTH
def test_extreme_numbers_stay_inside_the_support(kernels):
    x = torch.tensor([[-math.inf, 1.0, -200.0, 1.0, -math.inf]])
    ends = torch.tensor([[0.0, 0.5, 1 - 2.0**-53]], dtype=torch.float64)
    off = parameters([1.0], [0], [1.0], [0.0])
    assert draw(x, *off, ends, kernels=kernels).tolist() == [[1, 3, 3]]
    assert draw(x * 1e4, *off, ends, kernels=kernels).tolist() == [[1, 3, 3]]
    assert draw(x, *parameters([1e-6], [0], [1.0], [0.0]), ends, kernels=kernels).tolist() == [[1, 3, 3]]


def test_wrong_shapes_are_refused():
    u = torch.zeros(2, 1, dtype=torch.float64)
    good = parameters([1.0] * 2, [0] * 2, [1.0] * 2, [0.0] * 2)
    with pytest.raises(ValueError, match="logits"):
        draw(torch.zeros(3, 4), *good, u)
    with pytest.raises(ValueError, match="top_k"):
        draw(torch.zeros(2, 4), good[0], ints([1]), good[2], good[3], u)


@pytest.mark.parametrize("vocabulary", [5, 4096])
def test_both_implementations_draw_the_same(vocabulary):
    g = torch.Generator().manual_seed(vocabulary + 1)
    x = torch.randn(400, vocabulary, generator=g) * 4
    x[::3] = x[::3].round()
    u = torch.rand(400, 5, generator=g, dtype=torch.float64)
    temperature, top_k, top_p, min_p = random_parameters(400, g, 3000)
    top_k[::4], top_p[::7], min_p[::2] = 0, 1.0, 0.0
    arguments = (x, temperature, top_k, top_p, min_p, u)
    assert torch.equal(draw(*arguments, kernels="torch"), draw(*arguments, kernels="numba"))


def test_several_threads_draw_what_one_draws(monkeypatch):
    if _threads.torch_openmp() is None:
        pytest.skip("torch does not run on GNU OpenMP here")
    g = torch.Generator().manual_seed(2)
    x = torch.randn(9, 3001, generator=g)
    x[4, 7] = math.nan
    u = torch.rand(9, 5, generator=g, dtype=torch.float64)
    arguments = (x, *random_parameters(9, g, 64), u)
    serial = draw(*arguments, kernels="numba")
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: 3)
    assert torch.equal(draw(*arguments, kernels="numba"), serial)
