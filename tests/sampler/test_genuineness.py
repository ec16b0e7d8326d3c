"""Genuineness: the known answers, the rolling windows against float64, and what they do not depend on."""

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_sampler.genuineness import reference as ref
from entropick_sampler.genuineness import window as w
from entropick_sampler.genuineness.pull import ElaborationPull
from entropick_sampler.genuineness.quadrants import (
    SEED_CUTS,
    UNKNOWN,
    Cuts,
    Quadrant,
    calibrated_cuts,
    classify,
    counted,
)
from entropick_sampler.genuineness.window import HeadWindow, push

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cases.json").read_text())["09_degf"]
CUTS = Cuts(cost=2.0, genuine=0.2, mechanical=0.05, window=16)
Series = npt.NDArray[np.float32]


def last(window: HeadWindow, series: Series, costs: Series | None = None) -> list[float]:
    """Pushes a series [T, channels] step by step; the figures of the last step."""
    out = np.empty((1, w.RESULTS))
    for t, step in enumerate(series):
        out, _ = push([window], step[None], None if costs is None else costs[t][None])
    return list(out[0])


def uniform(n: int) -> npt.NDArray[np.float64]:
    return np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]


def entropies(attention: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -(attention * np.log2(np.where(attention > 0, attention, 1.0))).sum(-1)


@pytest.mark.parametrize("case", GOLDEN["gscore_cases"], ids=lambda case: str(case["H"]))
def test_known_answers_of_g(case: dict[str, object]) -> None:
    h = np.array(case["H"])
    # the last case lies on the boundary: 0.8 - 1 and 0.6 - 0.8 are -0.2 up to rounding, which is no collapse
    count = 0 if list(h) == [1.0, 0.8, 0.6] else case["collapse_count"]
    assert ref.head_collapses(h) == count
    assert ref.head_entropy_variance(h, least=1) == pytest.approx(case["var_population"], abs=1e-12)
    wanted = case["var_population"] + count / len(h)  # type: ignore[operator]
    if count == case["collapse_count"]:
        assert wanted == pytest.approx(case["G_population"], abs=1e-12)
    assert ref.head_genuineness(h, least=1) == pytest.approx(wanted, abs=1e-12)
    window = HeadWindow(1, 64, least=1)
    figures = last(window, np.array(h, dtype=np.float32)[:, None])
    assert figures[w.VARIANCE] + figures[w.RATE] == pytest.approx(wanted, abs=1e-6)
    assert figures[w.RATE] == count / len(h)  # type: ignore[operator]


def test_known_answers_of_the_token_cost() -> None:
    case = GOLDEN["token_cost"]
    a = np.array(case["A"])
    np.testing.assert_allclose(-np.log2(case["P"]), case["surprisal_bits"], atol=1e-12)
    steps = a @ np.array(case["surprisal_bits"])
    assert ref.token_cost(steps) == pytest.approx(case["X_mean_per_query"], abs=1e-12)
    assert ref.token_cost(steps) * len(steps) == pytest.approx(case["X_sum"], abs=1e-12)
    np.testing.assert_allclose(entropies(a), case["row_entropy_bits"], atol=1e-12)
    assert ref.head_genuineness(entropies(a), least=1) == pytest.approx(case["g_G_population"], abs=1e-12)
    z = ref.normalised_entropy(entropies(a), np.arange(1, 5))
    np.testing.assert_allclose(z, [math.nan, 1.0, 0.946394630, 0.875], atol=1e-9)
    assert ref.head_entropy_variance(z, least=1) == pytest.approx(0.002621748, abs=1e-9)
    assert ref.head_collapses(z) == 0


def test_a_collapse_in_bits_may_be_none_in_shares() -> None:
    h, keys = np.array([2, 1.9, 1.5, 1.55, 1.2]), np.arange(8, 13)
    z = ref.normalised_entropy(h, keys)
    assert ref.head_entropy_variance(z, least=1) == pytest.approx(0.014003017, abs=1e-9)
    assert (ref.head_collapses(z), ref.head_collapses(h)) == (0, 2)


@pytest.mark.parametrize("case", GOLDEN["reference_impl"]["cases"], ids=lambda case: case["name"][:20])
def test_known_answers_of_the_sources_code(case: dict[str, object]) -> None:
    name = str(case["name"])
    if name.startswith("uniform"):
        attention, surprisals = uniform(32), np.zeros(32)
    elif name.startswith("previous"):
        # the first query has nothing but itself
        attention, surprisals = np.eye(32, k=-1), np.full(32, 8.0)
        attention[0, 0] = 1.0
    else:
        attention = np.array(GOLDEN["token_cost"]["A"])
        surprisals = np.array(GOLDEN["token_cost"]["surprisal_bits"])
    point = ref.code_point(attention, surprisals)
    assert point.cost == pytest.approx(case["cost_raw"], abs=1e-9)
    assert point.variance == pytest.approx(case["var_sample"], abs=1e-9)
    assert point.collapse_rate == case["norm_collapses"]
    assert (point.x, point.y) == pytest.approx((case["X"], case["Y"]), abs=1e-9)
    raw = point.variance + point.collapse_rate
    assert Quadrant(int(classify(raw, point.cost, SEED_CUTS))).name == case["quadrant"]


@pytest.mark.parametrize("case", GOLDEN["reference_impl"]["classify_cases"], ids=lambda c: c["quadrant"])
def test_known_answers_of_the_quadrants(case: dict[str, object]) -> None:
    cost, genuine, mechanical = case["thresholds"]  # type: ignore[misc]
    cuts = Cuts(cost, genuine, mechanical, 64)
    assert Quadrant(int(classify(case["Y"], case["cost"], cuts))).name == case["quadrant"]  # type: ignore[arg-type]


def test_known_answer_of_the_pull() -> None:
    case = GOLDEN["elaboration_pull"]
    found = ref.elaboration_pull(case["scores"], case["window"])
    assert found == pytest.approx((case["start_G"], case["end_G"], case["delta"]), abs=1e-12)
    state = ElaborationPull(case["window"])
    for score in case["scores"]:
        state.add(score)
    assert state.now == pytest.approx(found, abs=1e-12)


def test_uniform_attention_is_genuine_to_the_letter_alone() -> None:
    for first, variance in ((1, 1.477), (2, 1.088), (100, 0.0134), (1000, 0.0002)):
        h = np.log2(np.arange(first, first + 32))
        assert ref.genuineness_seed(h[:, None]) == pytest.approx(variance, abs=6e-4 if first < 100 else 6e-5)
    keys = np.arange(1, 33)
    h = np.log2(keys)[:, None]
    assert ref.genuineness(h, keys) == 0.0
    z = np.where(keys > 1, 1.0, np.nan).astype(np.float32)[:, None]
    window = HeadWindow(1, 64, cuts=Cuts(2.0, 0.01, 0.005, 64))
    figures = last(window, z)
    assert figures[w.VARIANCE] + figures[w.RATE] == 0.0
    assert (figures[w.GENUINE], figures[w.MECHANICAL]) == (0, 1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 5),
    st.sampled_from([(1, 1), (2, 1), (7, 3), (16, 8)]),
    st.integers(0, 2**32 - 1),
)
def test_the_window_equals_the_reference_at_every_step(
    steps: int, channels: int, shape: tuple[int, int], seed: int
) -> None:
    size, least = shape
    rng = np.random.default_rng(seed)
    series = rng.random((steps, channels)).astype(np.float32) * np.float32(1.5)
    costs = rng.random((steps, channels)).astype(np.float32) * 8
    series[rng.random(series.shape) < 0.15] = np.nan
    costs[rng.random(costs.shape) < 0.15] = np.nan
    cuts = Cuts(4.0, 0.5, 0.3, size)
    window = HeadWindow(channels, size, least=least, costs=True, cuts=cuts)
    for t in range(steps):
        out, each = push([window], series[t : t + 1], costs[t : t + 1])
        seen, given = series[: t + 1], costs[: t + 1]
        variance = ref.head_entropy_variance(seen, window=size, least=least)
        rate = ref.head_collapse_rate(seen, window=size, least=least)
        values = given[-size:]
        known = np.isfinite(values).sum(0)
        cost = np.where(known > 0, np.nansum(values, 0) / np.maximum(known, 1), np.nan)
        wanted = np.stack((variance, rate, cost), -1)
        np.testing.assert_allclose(window.figures(), wanted, rtol=1e-5, atol=2e-6)
        row = out[0]
        assert row[w.VALUED] == np.isfinite(variance).sum()
        assert row[w.COSTED] == np.isfinite(cost).sum()
        for column, figure in ((w.VARIANCE, variance), (w.RATE, rate), (w.COST, cost)):
            mean = figure[np.isfinite(figure)].mean() if np.isfinite(figure).any() else math.nan
            assert row[column] == pytest.approx(mean, rel=1e-5, abs=2e-6, nan_ok=True)
        g = variance + rate
        # a figure within rounding of a cut point may lie on either side of it
        if np.nanmin(np.abs(np.concatenate((g - 0.5, g - 0.3, cost - 4.0)) + 0.0), initial=1.0) > 1e-5:
            quadrants = classify(g, cost, cuts)
            counts = [int((quadrants == q).sum()) for q in Quadrant]
            assert list(row[w.QUADRANTS : w.QUADRANTS + 4]) == counts[:4]
            assert row[w.TRANSITION] == counts[4]
            assert row[w.GENUINE] == (g >= 0.5).sum()
            assert row[w.MECHANICAL] == (g <= 0.3).sum()
        if channels <= 4:
            np.testing.assert_allclose(each[0][:, :2], wanted[:, :2], rtol=1e-5, atol=2e-6)
    assert window.steps == steps


def test_a_long_reply_drifts_nowhere() -> None:
    rng = np.random.default_rng(3)
    series = (rng.random((20_000, 2)) * np.array([1.0, 1e-3]) + np.array([0.0, 0.7])).astype(np.float32)
    window = HeadWindow(2)
    last(window, series)
    wanted = ref.head_entropy_variance(series)
    np.testing.assert_allclose(window.figures()[:, 0], wanted, rtol=1e-9)
    np.testing.assert_array_equal(window.figures()[:, 1], ref.head_collapse_rate(series))


def test_a_window_of_one_step_has_no_variance_and_no_collapse() -> None:
    window = HeadWindow(1, 1, least=1)
    for z in (0.9, 0.1, 0.8):
        figures = last(window, np.array([[z]], dtype=np.float32))
        assert (figures[w.VALUED], figures[w.VARIANCE], figures[w.RATE]) == (1, 0.0, 0.0)


def test_figures_are_absent_below_the_least_values() -> None:
    series = np.linspace(0.9, 0.1, 8, dtype=np.float32)[:, None]
    assert math.isnan(last(HeadWindow(1), series[:7])[w.VARIANCE])
    figures = last(HeadWindow(1), series)
    assert figures[w.VALUED] == 1
    assert figures[w.VARIANCE] == pytest.approx(np.var(series.astype(np.float64)), rel=1e-6)
    assert math.isnan(figures[w.COST])
    # without cut points nothing is counted
    assert sum(figures[w.GENUINE :]) == 0


def test_a_shift_of_the_entropy_moves_nothing() -> None:
    rng = np.random.default_rng(5)
    series = rng.random((40, 3)).round(3)
    for shift in (-0.25, 4.0):
        np.testing.assert_allclose(
            ref.head_genuineness(series + shift), ref.head_genuineness(series), rtol=1e-9
        )


def test_a_reply_is_the_same_alone_and_beside_others() -> None:
    rng = np.random.default_rng(9)
    series = rng.random((30, 4, 6)).astype(np.float32)
    costs = rng.random((30, 4, 6)).astype(np.float32)
    together = [HeadWindow(6, 16, costs=True, cuts=CUTS) for _ in range(4)]
    alone = HeadWindow(6, 16, costs=True, cuts=CUTS)
    for t in range(30):
        # the others come and go, and their places in the batch change
        order = np.roll(np.arange(4), t)[: 4 if t % 3 else 3]
        out, _ = push([together[i] for i in order], series[t, order], costs[t, order])
        if 2 in order:
            single, _ = push([alone], series[t, 2:3], costs[t, 2:3])
            np.testing.assert_array_equal(out[list(order).index(2)], single[0])


def test_a_branch_has_a_state_of_its_own() -> None:
    rng = np.random.default_rng(11)
    series, other = (rng.random((20, 3)).astype(np.float32) for _ in range(2))
    parent, straight = (HeadWindow(3, 8, costs=True) for _ in range(2))
    last(parent, series[:10], series[:10])
    branch = parent.copy()
    size = parent.nbytes
    last(branch, other, other)
    last(straight, series, series)
    last(parent, series[10:], series[10:])
    np.testing.assert_array_equal(parent.figures(), straight.figures())
    assert not np.array_equal(branch.figures(), parent.figures())
    assert branch.nbytes == size == parent.nbytes


def test_the_memory_is_the_one_that_was_promised() -> None:
    # a ring and 3 floats a head, in float64 and whole numbers here
    assert HeadWindow(32 * 32, 64).nbytes == 72 + 1024 * (64 * 4 + 3 * 8 + 3 * 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"channels": 0}, "channels"),
        ({"channels": 1, "size": 4}, "least"),
        ({"channels": 1, "drop": 0.0}, "drop"),
        ({"channels": 1, "size": 32, "cuts": CUTS}, "window of 16"),
    ],
)
def test_windows_that_cannot_be(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadWindow(**given)  # type: ignore[arg-type]


def test_values_of_another_shape_are_refused() -> None:
    for values, costs in ((np.zeros((2, 1)), None), (np.zeros((1, 2)), None), (np.zeros((1, 1)), np.ones(1))):
        with pytest.raises(ValueError, match="do not fit"):
            push([HeadWindow(1)], values.astype(np.float32), costs)


def test_cut_points() -> None:
    for bad in ({"genuine": 0.1, "mechanical": 0.1}, {"cost": math.inf}, {"window": 0}, {"pull": 0.1}):
        with pytest.raises(ValueError, match="must be"):
            Cuts(**{"cost": 1.0, "genuine": 0.2, "mechanical": 0.1, "window": 64, **bad})  # type: ignore[arg-type]
    g = np.arange(1, 301) / 1000.0
    cuts = calibrated_cuts([*g, math.nan], g * 20, 64)
    assert cuts is not None
    found = classify(g, g * 20, cuts)
    shares = [float((found == q).mean()) for q in Quadrant]
    assert shares[Quadrant.TRANSITION] == pytest.approx(1 / 3, abs=0.01)
    assert shares[0] + shares[2] == pytest.approx(1 / 3, abs=0.01), "committed, outside of the transition"
    assert cuts.pull is None
    falls = np.arange(-10, 11) / 100
    fallen = calibrated_cuts(g, g * 20, 64, falls=falls)
    assert fallen is not None
    assert fallen.pull == pytest.approx(-0.09), "the 5 % quantile"
    rising = calibrated_cuts(g, g * 20, 64, falls=[0.1, 0.2])
    assert rising is not None
    assert rising.pull is None
    assert calibrated_cuts(np.full(10, 0.5), g[:10], 64) is None
    assert calibrated_cuts([math.nan], [1.0], 64) is None


def test_heads_without_a_figure_have_no_quadrant() -> None:
    found = classify([math.nan, 0.3, 0.01, 0.1], [1.0, math.nan, math.nan, math.nan], CUTS)
    assert found.tolist() == [UNKNOWN, UNKNOWN, UNKNOWN, Quadrant.TRANSITION]


def test_the_pull_is_known_from_the_fifth_score_on() -> None:
    rng = np.random.default_rng(2)
    scores = rng.random(30).tolist()
    state = ElaborationPull()
    for count, score in enumerate(scores, start=1):
        state.add(score)
        state.add(math.nan)  # a step without a score changes nothing
        wanted = ref.elaboration_pull(scores[:count])
        assert (state.now is None) == (wanted is None) == (count < 5)
        if wanted is not None:
            assert state.now == pytest.approx(wanted, abs=1e-12)
    branch = state.copy()
    branch.add(9.0)
    assert branch.now != state.now
    assert state.now == pytest.approx(ref.elaboration_pull(scores), abs=1e-12)


def test_layers_collapse_by_their_mean_heads() -> None:
    layers = [[0.9, 0.7], [0.6, 0.5], [0.5, 0.5], [0.1, 0.3]]
    assert ref.layer_collapse_rate(layers) == pytest.approx(2 / 3)
    assert math.isnan(ref.layer_collapse_rate(layers[:1]))


def test_costs_are_averaged_over_the_known_steps_and_heads() -> None:
    costs = np.array([[1.0, math.nan], [3.0, math.nan], [math.nan, 5.0]])
    assert ref.token_cost(costs) == pytest.approx((2.0 + 5.0) / 2)
    assert ref.token_cost_relative(costs) == ref.sink_mass(costs) == pytest.approx((1.0 + 3.0 + 5.0) / 3)
    assert math.isnan(ref.token_cost(np.full((3, 2), math.nan)))


def test_the_steps_at_which_heads_count() -> None:
    for steps, at in ((0, []), (1, [0]), (63, [62]), (64, [63]), (65, [63, 64]), (128, [63, 127])):
        assert counted(range(steps)) == at
