"""Group 09 of the known answers over whole texts, and planes with planted structure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from entropick_lens.phase.archetypes import auc, separation, top_heads
from entropick_lens.phase.circuit import circuit_rates, rates_beside_chance, steps_of
from entropick_lens.phase.collect import HeadSeries, nan_mean, text_means
from entropick_lens.phase.figures import between_texts, halves_r, plane, text_parts
from entropick_sampler.genuineness.quadrants import SEED_CUTS
from entropick_sampler.genuineness.reference import code_point, normalised_entropy

from ..support import GOLDEN

CASES = GOLDEN["09_degf"]


def series_of(
    entropy: Any, keys: Any, bounds: tuple[tuple[int, int], ...] | None = None, cost: Any = 0.0
) -> HeadSeries:
    """Makes the series of one layer from entropies [T, heads] and visible keys [T]."""
    h = np.asarray(entropy, dtype=np.float32)
    n = np.asarray(keys, dtype=np.float64)
    other = np.zeros_like(h)
    return HeadSeries(
        bounds=bounds or ((0, len(h)),),
        layers=1,
        heads=h.shape[1],
        entropy=h,
        normalised=normalised_entropy(h, n[:, None]).astype(np.float32),
        cost=np.broadcast_to(np.asarray(cost, np.float32), h.shape),
        relative=other,
        sink=other,
        previous=other,
        log2_keys=np.log2(n)[:, None].astype(np.float32),
        induction=np.zeros(h.shape[1]),
    )


def test_variance_and_collapses_of_known_answers() -> None:
    """Padded to the eight values that a figure needs by repeating the last, which adds no collapse."""
    for case in CASES["gscore_cases"]:
        h = case["H"] + [case["H"][-1]] * (8 - len(case["H"]))
        series = series_of(np.array(h)[:, None], [1024] * 8)
        variance, rate = text_parts(series, series.entropy)
        count = 0 if case["H"] == [1.0, 0.8, 0.6] else case["collapse_count"]
        assert rate[0, 0] * 8 == pytest.approx(count)
        assert variance[0, 0] == pytest.approx(np.var(h), abs=1e-6)


def test_the_plane_of_the_small_example() -> None:
    case = CASES["token_cost"]
    a, bits = np.array(case["A"]), np.array(case["surprisal_bits"])
    h = np.array(case["row_entropy_bits"])[:, None]
    series = series_of(h, [1, 2, 3, 4], cost=(a @ bits)[:, None])
    variance, rate = text_parts(series, series.entropy, least=1)
    assert variance[0, 0] + rate[0, 0] == pytest.approx(case["g_G_population"], abs=1e-6)
    variance, rate = text_parts(series, series.normalised, least=1)
    assert (variance[0, 0], rate[0, 0]) == (pytest.approx(0.002621748, abs=1e-7), 0.0)
    assert text_means(series, series.cost)[0, 0] == pytest.approx(case["X_mean_per_query"], abs=1e-6)


def test_a_collapse_in_bits_may_be_none_in_shares() -> None:
    h = np.array([2, 1.9, 1.5, 1.55, 1.2])[:, None]
    series = series_of(h, np.arange(8, 13))
    variance, rate = text_parts(series, series.normalised, least=1)
    assert (variance[0, 0], rate[0, 0]) == (pytest.approx(0.014003017, abs=1e-7), 0.0)
    assert text_parts(series, series.entropy, least=1)[1][0, 0] == pytest.approx(2 / 5)


@pytest.mark.parametrize("case", CASES["reference_impl"]["cases"], ids=lambda case: case["name"][:8])
def test_the_published_labels_of_known_heads(case: dict[str, Any]) -> None:
    """Uniform attention is GENUINE and a previous-token head MECHANICAL, as the source's code has it."""
    if case["name"].startswith("small"):
        a, bits = np.array(CASES["token_cost"]["A"]), np.array(CASES["token_cost"]["surprisal_bits"])
    elif case["name"].startswith("uniform"):
        a, bits = np.tril(np.ones((32, 32))) / np.arange(1, 33)[:, None], np.zeros(32)
    else:
        a, bits = np.eye(32, k=-1), np.full(32, 8.0)
        a[0, 0] = 1.0
    point = code_point(a, bits)
    h = -(a * np.log2(np.where(a > 0, a, 1.0))).sum(1)[:, None]
    # the example of four queries is said twice: the labels need eight values, their means are the same
    times = 2 if len(a) < 8 else 1
    keys = np.tile(np.arange(1, len(a) + 1), times)
    series = series_of(np.tile(h, (times, 1)), keys, cost=np.tile((a @ bits)[:, None], (times, 1)))
    found = plane(series, "seed", text_means(series, series.cost), 64, 0)
    assert (found.cost_cut, found.genuine_cut, found.mechanical_cut) == (5.0, 0.275, 0.175)
    assert found.labels == ((case["quadrant"].lower(),),)
    assert [s.quadrant for s in found.shares if s.share == 1.0] == [case["quadrant"].lower()]
    if times == 1:
        # the source's sample variance, population here
        n = len(a)
        assert found.variance[0][0] == pytest.approx(point.variance * (n - 1) / n, abs=1e-5)


def test_even_attention_is_genuine_to_the_letter_and_has_no_quadrants_normalised() -> None:
    for first, known in ((1, 1.477), (2, 1.088), (100, 0.0134), (1000, 0.0002)):
        keys = np.arange(first, first + 32)
        series = series_of(np.log2(keys)[:, None].repeat(3, 1), keys)
        cost = text_means(series, series.cost)
        literal, own = (plane(series, form, cost, 64, 0) for form in ("seed", "normalised"))
        assert literal.genuineness[0][0] == pytest.approx(known, abs=6e-4 if first < 100 else 6e-5)
        assert literal.even == pytest.approx(literal.genuineness[0][0])
        assert own.genuineness[0][0] == pytest.approx(0.0, abs=1e-9)
        assert own.even == 0.0
        if first > 1:
            assert own.labels == own.shares == ()
            assert own.genuine_cut is None


def random_series(seed: int = 0, texts: int = 6, length: int = 20, heads: int = 12) -> tuple[HeadSeries, Any]:
    rng = np.random.default_rng(seed)
    spread = np.linspace(0.05, 1.0, heads)
    h = 1.5 + spread * rng.uniform(-1, 1, (texts * length, heads))
    bounds = tuple((i * length, (i + 1) * length) for i in range(texts))
    keys = np.tile(np.arange(2, length + 2), texts)
    cost = rng.uniform(1, 2, (texts * length, heads)) + np.linspace(0, 3, heads)
    return series_of(h, keys, bounds, cost), cost


def test_own_cut_points_split_heads_in_thirds_and_halves() -> None:
    series, _ = random_series()
    cost = text_means(series, series.cost)
    found = plane(series, "normalised", cost, 64, 0)
    shares = {share.quadrant: share for share in found.shares}
    assert sum(share.share for share in found.shares) == pytest.approx(1.0)
    assert shares["transition"].share == pytest.approx(1 / 3, abs=0.02)
    assert found.cost_cut == pytest.approx(np.median(cost))
    for share in found.shares:
        assert share.low is not None
        assert share.high is not None
        assert share.low <= share.share + 1e-9
        assert share.share <= share.high + 1e-9
    assert found.reliability is not None
    assert found.reliability > 0.5
    labels = found.labels[0]
    assert labels[0].startswith("mechanical")
    assert labels[-1] == "genuine_committed"
    # a pull over tokens exists: each text has twenty positions and a variance from the eighth on
    assert found.token_pull is not None
    assert found.token_pull.texts == 6
    assert found.token_pull.pulled is None
    literal = plane(series, "seed", cost, 64, 0)
    assert literal.token_pull is not None
    assert literal.token_pull.pulled == 0
    assert SEED_CUTS.pull == -0.1


def test_a_falling_score_is_pulled() -> None:
    rng = np.random.default_rng(1)
    length = 150
    wild = np.where(np.arange(length) < 40, 2.0, 0.01)[:, None]
    h = 3.0 + wild * rng.choice([-1.0, 1.0], (length, 4))
    series = series_of(h, np.full(length, 1024))
    found = plane(series, "seed", text_means(series, series.cost), 64, 0)
    assert found.token_pull is not None
    assert found.token_pull.pulled == 1
    assert found.token_pull.delta < -1.0
    assert found.token_pull.low is None  # one text cannot be drawn again


def test_circuit_rates_of_the_known_answer() -> None:
    case = CASES["circuit_rates"]
    kinds = [bool(kind) for kind in case["circuit_types"]]
    found = circuit_rates(case["trajectory"], kinds)
    assert found.degrade == pytest.approx(case["k_degrade"], abs=1e-12)
    assert found.recover == pytest.approx(case["k_recover"], abs=1e-12)
    assert found.ratio == pytest.approx(case["ratio"], abs=1e-12)
    assert (found.degrade_steps, found.recover_steps) == (2, 2)


def test_circuit_rates_are_absent_where_the_source_returns_constants() -> None:
    """Every layer at the clip: the source's stored run returned .8129 and 1.2371."""
    found = rates_beside_chance(np.ones(12), 0.55, 0.35, 20, 0)
    assert (found.rates.degrade, found.rates.recover, found.rates.ratio) == (None, None, None)
    assert (found.rates.degrade_steps, found.rates.recover_steps) == (0, 0)
    assert found.degrade_low is None
    assert rates_beside_chance(np.linspace(0.1, 0.9, 5), None, None, 5, 0).rates.recover is None
    # no clip at 0: a genuine step that falls counts as it is
    assert circuit_rates([0.9, 0.6], [True]).recover == pytest.approx(-math.log(0.4 / 0.1))
    with pytest.raises(ValueError, match="have 1 steps, not 2"):
        circuit_rates([0.5, 0.5], [True, False])


def test_steps_are_named_by_where_they_lead_and_tested_against_random_orders() -> None:
    trajectory = np.concatenate([np.linspace(0.95, 0.05, 12), np.linspace(0.1, 0.9, 12)])
    assert steps_of(trajectory, 0.55, 0.35)[:2] == [True, True]
    assert steps_of(np.array([0.0, 0.5]), 0.55, 0.35) == [None]
    found = rates_beside_chance(trajectory, 0.55, 0.35, 300, 0)
    assert found.rates.degrade is not None
    assert found.degrade_low is not None
    # smooth falls are slower than those of random orders
    assert found.rates.degrade < found.degrade_low
    noise = rates_beside_chance(np.random.default_rng(3).permutation(trajectory), 0.55, 0.35, 300, 0)
    assert noise.rates.degrade is not None
    assert noise.degrade_low is not None
    assert noise.degrade_high is not None
    assert noise.degrade_low < noise.rates.degrade < noise.degrade_high


def test_the_area_under_the_curve() -> None:
    values = np.array([0.1, 0.4, 0.35, 0.8])
    assert auc(values, np.array([False, False, True, True])) == pytest.approx(0.75)
    assert auc(np.ones(4), np.array([True, False, False, True])) == 0.5
    assert auc(values, np.zeros(4, dtype=bool)) is None
    weights = np.array([1.0, 2.0, 0.0, 1.0])
    repeated = np.array([0.1, 0.4, 0.4, 0.8])
    assert auc(values, values > 0.3, weights) == auc(repeated, repeated > 0.3)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50).round(1), rng.random(50) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in x[y] for b in x[~y]]
    assert auc(x, y) == pytest.approx(np.mean(pairs))


def test_a_figure_that_ranks_a_habit_and_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    layer_of = np.repeat(np.arange(12), 10)
    scores = rng.random(120)
    close = separation("habit", scores, "close", scores + 0.05 * rng.normal(size=120), layer_of, 0)
    noise = separation("habit", scores, "noise", rng.normal(size=120), layer_of, 0)
    assert (close.heads, close.positives) == (120, 12)
    assert close.auc is not None
    assert close.auc > 0.95
    assert not close.chance
    assert noise.chance
    assert noise.low is not None
    assert noise.high is not None
    assert noise.low < 0.5 < noise.high
    assert top_heads(np.ones(5)).sum() == 0
    assert separation("habit", np.ones(120), "x", scores, layer_of, 0).auc is None
    holes = np.where(np.arange(120) % 2, np.nan, scores)
    assert separation("habit", scores, "x", holes, layer_of, 0).heads == 60


def test_variance_between_texts_and_halves() -> None:
    of_text = np.arange(6.0)[:, None] + np.zeros((6, 5))
    assert between_texts(of_text) == pytest.approx(1.0)
    of_head = np.zeros((6, 5)) + np.arange(5.0)
    assert between_texts(of_head) == pytest.approx(0.0)
    assert between_texts(np.ones((6, 5))) is None
    assert halves_r(of_head) == pytest.approx(1.0)
    assert halves_r(of_head[:1]) is None
    assert nan_mean(np.array([[1.0, np.nan], [3.0, np.nan]])).tolist() == pytest.approx(
        [2.0, np.nan], nan_ok=True
    )
