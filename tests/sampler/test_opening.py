"""The opening score: all implementations agree, it decides at the first token alone, and how it is fitted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from entropick_sampler.batch import SampledBatch
from entropick_sampler.calibrate import logistic, newton
from entropick_sampler.calibrate_opening import (
    FALSE_ALARMS,
    KINDS,
    STRENGTH,
    TOKENS,
    MeasuredOpenings,
    left_out_scores,
    likely_tokens,
    principal_axes,
    with_opening,
)
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.compose import Composition, RowParams
from entropick_sampler.opening import OpeningWeights, opening_score
from entropick_sampler.packed import unpack
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.policy import PolicyRows, decide
from entropick_sampler.profile import QUANTILE_LEVELS, Profile, ProfileError
from entropick_sampler.signals import ATTENTION_SIGNALS, POLICY_SIGNALS
from entropick_sampler.stats import StepStats
from entropick_sampler.step import opening_scores
from entropick_sampler.strategy import Strategy

NAMES = [signal.name for signal in POLICY_SIGNALS]
V, TEXT = 300, 7
WEIGHTS = {3: 0.75, 11: -1.25, 200: 0.5, 299: 0.125}


def profile(bias: float) -> Profile:
    """A profile whose CLARIFY asks the opening score alone: its corner is the whole plane but for GREEDY."""
    cuts = {
        "greedy_entropy": 0.01,
        "greedy_varentropy": 0.01,
        "clarify_entropy": 0.02,
        "clarify_varentropy": 4096.0,
        "explore_entropy": 5.0,
        "explore_varentropy": 5.0,
        "high_uncertainty_entropy": 5.0,
        "high_uncertainty_varentropy": 5.0,
    }
    ranks = dict.fromkeys(NAMES, QUANTILE_LEVELS)
    return Profile(
        "m", "d", (0,), "2026-01-01", 1000, ranks, cuts, clarify_bias=bias, opening_weights=WEIGHTS
    )


def logits_of(rows: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))


def references(logits: torch.Tensor) -> np.ndarray:
    logprobs = torch.log_softmax(logits.double(), -1).numpy()
    return np.array([opening_score(row, WEIGHTS) for row in logprobs])


def strategies(
    logits: torch.Tensor, positions: list[int], kernels: str | None, bias: float
) -> tuple[list[int], list[int]]:
    """The strategy and the token of every row."""
    rows = len(logits)
    batch = SampledBatch(
        [(SamplingParams(seed=i), PolicyConfig()) for i in range(rows)],
        profile(bias),
        kernels=kernels,  # type: ignore[arg-type]
    )
    columns = StepColumns.of([StepRow(position, clarify=TEXT) for position in positions])
    attention = torch.full((rows, len(ATTENTION_SIGNALS)), 0.5)
    lines = unpack(batch.step(logits, attention, None, columns), batch.candidates)
    return [line.strategy for line in lines], [line.token for line in lines]


def test_the_reference_is_the_sum_of_its_definition() -> None:
    p = np.array([0.5, 0.25, 0.125, 0.125])
    assert opening_score(np.log(p), {0: 2.0, 2: -1.0}) == pytest.approx(-2.0 + 3.0)
    assert opening_score(np.log(p), {}) == 0.0


def test_tensors_agree_with_the_reference() -> None:
    logits = logits_of(50)
    ids, weights = (torch.from_numpy(array) for array in OpeningWeights.of(WEIGHTS))
    top = logits.double().max(-1, keepdim=True).values
    shift = torch.cat((top, (logits.double() - top).exp().sum(-1, keepdim=True).log()), 1)
    got = opening_scores(logits.double(), shift, torch.zeros(50, dtype=torch.int64), ids, weights)
    np.testing.assert_allclose(got.numpy(), references(logits), atol=1e-10)
    later = opening_scores(logits, shift.float(), torch.ones(50, dtype=torch.int64), ids, weights)
    assert bool((later == -torch.inf).all())


@pytest.mark.parametrize("kernels", [None, "torch"])
def test_clarify_fires_where_the_score_exceeds_the_cut_and_only_at_the_first_token(
    kernels: str | None,
) -> None:
    logits = logits_of(60)
    scores = references(logits)
    cut = float(np.median(scores))
    got, tokens = strategies(logits, [0] * 60, kernels, -cut)
    want = scores > cut
    assert 20 < want.sum() < 40
    np.testing.assert_array_equal(np.array(got) == Strategy.CLARIFY, want)
    np.testing.assert_array_equal(np.array(tokens)[want], TEXT)
    later, _ = strategies(logits, [1] * 60, kernels, -cut)
    assert Strategy.CLARIFY not in later
    mixed, _ = strategies(logits, [0, 5] * 30, kernels, -cut)
    np.testing.assert_array_equal(np.array(mixed) == Strategy.CLARIFY, want & (np.arange(60) % 2 == 0))


@pytest.mark.parametrize("kernels", [None, "torch"])
@pytest.mark.parametrize("token", [3, 11])
def test_a_masked_token_of_a_weight_keeps_clarify_out(kernels: str | None, token: int) -> None:
    logits = logits_of(4)
    assert strategies(logits, [0] * 4, kernels, 1e6)[0] == [Strategy.CLARIFY] * 4
    logits[:2, token] = -torch.inf
    got, _ = strategies(logits, [0] * 4, kernels, 1e6)
    assert [s == Strategy.CLARIFY for s in got] == [False, False, True, True]


def test_decide_without_scores_reads_as_no_first_token() -> None:
    made = profile(1e6)
    rows = PolicyRows.of(Composition.of([RowParams.of(made.params, True, made)], made), made)
    stats = StepStats(torch.ones(1, len(NAMES)))
    memory = StepColumns.of([StepRow(0)]).memory
    assert Strategy(int(decide(stats, memory, rows).strategy)) is not Strategy.CLARIFY
    opening = torch.zeros(1, dtype=torch.float64)
    assert Strategy(int(decide(stats, memory, rows, opening=opening).strategy)) is Strategy.CLARIFY


def test_opening_weights_round_trip_and_count_for_the_id(tmp_path: Path) -> None:
    made = profile(0.5)
    made.save(tmp_path / "p.toml")
    again = Profile.load(tmp_path / "p.toml")
    assert again == made
    assert again.opening_weights == WEIGHTS
    assert replace(made, opening_weights={}).id != made.id != replace(made, opening_weights={3: 1.0}).id


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tokens = [\n", "tokens = [\n    3,\n"),
        ("    11,", "    3,"),
        ("    11,", "    -11,"),
        ("    0.75,", '    "x",'),
        ("    0.75,", "    inf,"),
        ("tokens = [", "tok = ["),
    ],
)
def test_malformed_opening_weights_are_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "p.toml"
    profile(0.5).save(path)
    text = path.read_text()
    at = text.index("[clarify.opening]")
    assert old in text[at:]
    path.write_text(text[:at] + text[at:].replace(old, new, 1))
    with pytest.raises(ProfileError, match=r"p\.toml"):
        Profile.load(path)


def openings(shift: float, groups: int = 60, each: int = 5, seed: int = 1) -> MeasuredOpenings:
    """Made-up prompts, a third of each kind: an ambiguous one has ``shift`` nats more of tokens 1 to 4."""
    g = np.random.default_rng(seed)
    kinds = tuple(KINDS[i % 3] for i in range(3 * groups) for _ in range(each))
    names = tuple(f"t{i}" for i in range(3 * groups) for _ in range(each))
    x = g.normal(size=(len(kinds), 40))
    # what the prompts of a group share must not be taken for what their kind has in common
    x += 2 * g.normal(size=(3 * groups, 40)).repeat(each, 0)
    x[:, 1:5] += shift * np.array([k == "ambiguous" for k in kinds])[:, None]
    return MeasuredOpenings(torch.log_softmax(torch.from_numpy(x), -1).float().numpy(), kinds, names)


def test_what_was_put_in_is_found_on_groups_left_out_and_the_cut_holds_there() -> None:
    made = with_opening(profile(1.0), openings(6.0))
    assert made.clarify_weights == {}
    assert set(made.opening_weights) <= set(range(40))
    fresh = openings(6.0, seed=2)
    scores = np.array([opening_score(row, made.opening_weights) for row in fresh.logprobs])
    fires = scores + made.clarify_bias > 0
    ambiguous = np.array([kind == "ambiguous" for kind in fresh.kinds])
    assert fires[ambiguous].mean() > 0.8
    assert fires[~ambiguous].mean() < 0.05
    left_out = next(note for note in made.notes if "templates left out" in note)
    shares = [float(part.split("%")[0].split()[-1]) / 100 for part in left_out.split(",")[1:]]
    assert shares[0] > 0.8
    assert shares[1] <= FALSE_ALARMS["look-alike"] + 1e-9
    assert shares[2] <= FALSE_ALARMS["other"] + 1e-9
    assert made.thresholds["clarify_entropy"] >= made.thresholds["greedy_entropy"]


def test_where_nothing_was_put_in_clarify_fires_no_more_than_the_limits_allow() -> None:
    made = with_opening(profile(1.0), openings(0.0))
    left_out = next(note for note in made.notes if "templates left out" in note)
    assert float(left_out.split("%")[0].split()[-1]) < 10


def test_a_group_is_scored_without_any_of_its_prompts() -> None:
    """Prompts whose group has its own token: a fit that had seen the group would know its label from it."""
    groups = tuple(f"g{i}" for i in range(40) for _ in range(3))
    signals = torch.eye(40, dtype=torch.float64).repeat_interleave(3, 0)
    label = torch.tensor([i % 2 == 0 for i in range(40) for _ in range(3)])
    cost = torch.ones(120, dtype=torch.float64)
    scores = left_out_scores(signals, label, cost, groups)
    right = ((scores > 0) == label).double().mean()
    assert right < 0.75
    alone = left_out_scores(signals, label, cost, [str(i) for i in range(120)])
    assert ((alone > 0) == label).double().mean() > 0.95


def test_the_axes_keep_the_inner_products_of_standardised_signals() -> None:
    """Forty log probabilities that are linear in five numbers have five axes, and the same penalised fit."""
    rng = torch.Generator().manual_seed(3)
    hidden = torch.randn(200, 5, dtype=torch.float64, generator=rng)
    signals = hidden @ torch.randn(5, 40, dtype=torch.float64, generator=rng) + 3.0
    label = hidden[:, 0] + 0.5 * torch.randn(200, dtype=torch.float64, generator=rng) > 0
    mean, axes = principal_axes(signals)
    assert axes.shape == (40, 5)
    standardised = (signals - mean) / signals.std(0)
    reduced = (signals - mean) @ axes
    torch.testing.assert_close(reduced @ reduced.T, standardised @ standardised.T)
    along, bias = newton(reduced, label, STRENGTH)
    weights, at_zero = logistic(signals, label, STRENGTH)
    torch.testing.assert_close(axes @ along, weights, atol=1e-8, rtol=1e-6)
    assert bias - float(mean @ weights) == pytest.approx(at_zero, abs=1e-6)


def test_an_older_fit_leaves_no_note() -> None:
    once = with_opening(profile(1.0), openings(6.0))
    twice = with_opening(once, openings(6.0))
    assert twice.notes == once.notes


def test_too_few_prompts_leave_the_profile_with_a_note() -> None:
    measured = openings(4.0, groups=3)
    made = with_opening(profile(1.0), measured)
    assert made.opening_weights == profile(1.0).opening_weights
    assert any("too few labelled prompts (15 ambiguous" in note for note in made.notes)


def test_likely_tokens_leaves_out_what_some_distribution_masks() -> None:
    p = np.array([[0.5, 0.3, 0.2, 0.0], [0.1, 0.3, 0.6, 0.0]], dtype=np.float32)
    p[0, 2] = 0.0
    with np.errstate(divide="ignore"):
        logprobs = np.log(p)
    assert likely_tokens(logprobs).tolist() == [0, 1]
    assert likely_tokens(logprobs, 1).tolist() == [0]
    assert TOKENS > 1
