"""The scores of a whole reply against plain loops in float64, and against answers known by hand."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_sampler import reply_scores
from entropick_sampler.reply_scores import ReplyScores, middle_third, rauq

bits = st.floats(0.0, 20.0)
replies = st.lists(st.tuples(bits, bits), min_size=1, max_size=30)


def groups(values: list[float], size: int) -> list[float]:
    """The mean of every run of so many values."""
    size = min(size, len(values))
    found = []
    for first in range(len(values) - size + 1):
        total = 0.0
        for value in values[first : first + size]:
            total += value
        found.append(total / size)
    return found


def line(values: list[float]) -> float:
    """The slope of the least-squares line by its textbook formula."""
    n = len(values)
    if n == 1:
        return 0.0
    sx = sy = sxx = sxy = 0.0
    for x, y in enumerate(values):
        sx, sy, sxx, sxy = sx + x, sy + y, sxx + x * x, sxy + x * y
    return (n * sxy - sx * sy) / (n * sxx - sx * sx)


@given(replies)
@settings(max_examples=150, deadline=None)
def test_every_score_is_that_of_a_plain_loop(reply: list[tuple[float, float]]) -> None:
    surprisals, entropies = [s for s, _ in reply], [h for _, h in reply]
    logprobs = [-s for s in surprisals]
    excess = [s - h for s, h in reply]
    got = ReplyScores.of(surprisals, entropies)
    want = ReplyScores(
        mean_logprob=sum(logprobs) / len(reply),
        mean_excess=-sum(excess) / len(reply),
        lowest_excess=min(-e for e in excess),
        lowest_group_excess=min(groups([-e for e in excess], 4)),
        lowest_group=min(groups(logprobs, 4)),
        mean_entropy=sum(entropies) / len(reply),
        largest_entropy=sorted(entropies)[-1],
        slope=line(logprobs),
        late_entropy=statistics.median(entropies[len(entropies) // 2 :]),
    )
    for name in ReplyScores.__dataclass_fields__:
        assert getattr(got, name) == pytest.approx(getattr(want, name), rel=1e-9, abs=1e-9), name


def rauq_by_loops(p: list[float], attention: list[list[list[float]]], alpha: float) -> float:
    worst = -math.inf
    layers = len(attention[0])
    for layer in range(layers // 3, -(-2 * layers // 3)):
        heads = range(len(attention[0][layer]))
        means = [sum(token[layer][head] for token in attention) / len(attention) for head in heads]
        best = means.index(max(means))
        c = p[0]
        total = -math.log(c)
        for i in range(1, len(p)):
            c = alpha * p[i] + (1 - alpha) * attention[i - 1][layer][best] * c
            total -= math.log(c)
        worst = max(worst, total / len(p))
    return worst


@given(
    tokens=st.integers(2, 12),
    layers=st.integers(1, 9),
    heads=st.integers(1, 5),
    alpha=st.floats(0.05, 1.0),
    seed=st.integers(0, 999),
)
@settings(max_examples=100, deadline=None)
def test_rauq_is_that_of_plain_loops(tokens: int, layers: int, heads: int, alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    surprisals = rng.uniform(0, 12, tokens).tolist()
    attention = rng.uniform(0, 1, (tokens - 1, layers, heads)).tolist()
    want = rauq_by_loops([2.0**-s for s in surprisals], attention, alpha)
    assert rauq(surprisals, attention, alpha) == pytest.approx(want, rel=1e-9)


def test_rauq_by_hand() -> None:
    """p = 1/2, 1/4; three layers of two heads, of which the middle layer's second head is read."""
    attention = [[[0.9, 0.9], [0.1, 0.5], [0.9, 0.9]]]
    second = 0.5 * 0.25 + 0.5 * 0.5 * 0.5
    want = -(math.log(0.5) + math.log(second)) / 2
    assert rauq([1.0, 2.0], attention) == pytest.approx(want, rel=1e-12)
    assert rauq([1.0, 2.0], attention, alpha=1.0) == pytest.approx(1.5 * math.log(2), rel=1e-12)
    assert rauq([3.0], []) == pytest.approx(3 * math.log(2), rel=1e-12)
    assert math.isfinite(rauq([5000.0, 5000.0], [[[0.0]]]))


def test_a_free_choice_is_no_doubt() -> None:
    """The second token is one of 16 equals, the third had to be right."""
    surprisals, entropies = [0.1, 4.0, 3.0, 0.1], [0.2, 4.0, 0.5, 0.1]
    got = ReplyScores.of(surprisals, entropies)
    assert got.mean_excess == pytest.approx(-0.6)
    assert got.lowest_excess == -2.5
    assert got.lowest_group_excess == pytest.approx(-0.6)
    assert got.largest_entropy == 4.0
    assert got.mean_logprob == got.lowest_group == pytest.approx(-1.8)
    assert got.late_entropy == pytest.approx(0.3)
    assert reply_scores.slope([3.0, 2.0, 1.0]) == pytest.approx(1.0)


def test_the_middle_third_of_the_layers() -> None:
    assert [list(middle_third(n)) for n in (1, 2, 3, 4, 6)] == [[0], [0, 1], [1], [1, 2], [2, 3]]
    assert list(middle_third(30)) == list(range(10, 20))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        ReplyScores.of([], [])
    with pytest.raises(ValueError, match="2 surprisals do not fit 1 entropies"):
        ReplyScores.of([1.0, 2.0], [1.0])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            reply_scores.mean_logprob([1.0, bad])
        with pytest.raises(ValueError, match="weight of attention"):
            rauq([1.0, 1.0], [[[bad]]])
    with pytest.raises(ValueError, match="at least 1 token"):
        reply_scores.lowest_group([1.0], size=0)
    with pytest.raises(ValueError, match="2 tokens need the attention of 1, got 2"):
        rauq([1.0, 1.0], [[[0.5]]] * 2)
    with pytest.raises(ValueError, match="shape"):
        rauq([1.0, 1.0], [[0.5]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="alpha"):
        rauq([1.0, 1.0], [[[0.5]]], alpha=1.5)
