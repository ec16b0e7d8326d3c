"""The error probability: running figures against those of the whole reply, mixes, the profile's table."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entropick_sampler import reply_scores
from entropick_sampler.error_probability import (
    ANSWER_FEATURES,
    GROUP,
    REPLY_FEATURES,
    ErrorModel,
    Mix,
    RunningFigures,
    Weight,
    answer_figures,
    no_answer,
    sigmoid,
)
from entropick_sampler.profile import Profile, ProfileError

from .test_profile import PLAIN

BITS = st.floats(0.0, 30.0)
TOKENS = st.lists(st.tuples(BITS, BITS), min_size=1, max_size=60)


def running(tokens: list[tuple[float, float]]) -> RunningFigures:
    figures = RunningFigures()
    for token in tokens:
        figures.add(*token)
    return figures


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tokens=TOKENS, cut=st.booleans())
def test_running_figures_are_those_of_the_whole_reply(tokens: list[tuple[float, float]], cut: bool) -> None:
    found = running(tokens).features(cut)
    assert found is not None
    assert tuple(found) == REPLY_FEATURES
    surprisals, entropies = [s for s, _ in tokens], [h for _, h in tokens]
    whole = {
        "mean_logprob": reply_scores.mean_logprob(surprisals),
        "sum_logprob": -math.fsum(surprisals),
        "lowest_logprob": -max(surprisals),
        "lowest_group": reply_scores.lowest_group(surprisals, GROUP),
        "first_logprob": -surprisals[0],
        "mean_entropy": reply_scores.mean_entropy(entropies),
        "max_entropy": reply_scores.largest_entropy(entropies),
        "first_entropy": entropies[0],
        "mean_excess": reply_scores.mean_excess(surprisals, entropies),
        "lowest_excess": reply_scores.lowest_excess(surprisals, entropies),
        "log_tokens": math.log2(len(tokens)),
        "cut": float(cut),
    }
    assert found == pytest.approx(whole, abs=1e-9)


def test_a_token_without_figures_counts_nothing() -> None:
    figures = running([(1.0, 2.0)])
    for unknown in (None, math.nan, math.inf):
        for place in range(2):
            figures.add(*(unknown if place == at else 9.0 for at in range(2)))
    assert figures.tokens == 1
    assert figures.features(False) == running([(1.0, 2.0)]).features(False)
    assert RunningFigures().features(True) is None


def test_figures_of_an_answer() -> None:
    found = answer_figures([(1.0, 2.0), (3.0, 0.5)], before=7, behind=3, number=True)
    assert found == {
        "no_answer": 0.0,
        "answer_number": 1.0,
        "answer_mean": -2.0,
        "answer_sum": -4.0,
        "answer_lowest": -3.0,
        "answer_max_entropy": 2.0,
        "answer_first_entropy": 2.0,
        "answer_excess": -2.5,
        "answer_log_tokens": 1.0,
        "answer_begin": 3.0,
        "answer_rest": 2.0,
    }
    assert tuple(found) == tuple(no_answer()) == ANSWER_FEATURES
    assert no_answer()["no_answer"] == 1.0
    assert sum(no_answer().values()) == 1.0
    assert answer_figures([], 0, 0, False) is None


@given(logit=st.floats(-2000, 2000))
def test_sigmoid_has_no_overflow(logit: float) -> None:
    assert 0.0 <= sigmoid(logit) <= 1.0
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1.0)


MIX = Mix(0.5, {"mean_logprob": Weight(-2.0, -3.0, 0.0), "cut": Weight(1.0, 0.0, 1.0)})


@pytest.mark.parametrize(
    ("mean", "cut", "logit"),
    [(-1.0, 0.0, 2.5), (-1.0, 1.0, 3.5), (-3.0, 0.0, 6.5), (-90.0, 0.0, 6.5), (0.5, 0.0, 0.5)],
)
def test_a_mix_reads_no_value_beyond_its_fit(mean: float, cut: float, logit: float) -> None:
    found = MIX.probability({"mean_logprob": mean, "cut": cut, "unread": 9.0})
    assert found == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-15)
    assert MIX.probability({"cut": 1.0}) is None


REPLY, ANSWER, VOTE = (
    Mix(bias, {name: Weight(0.0, 0.0, 1.0)})
    for bias, name in ((1.0, "cut"), (2.0, "no_answer"), (3.0, "agreement"))
)
MODEL = ErrorModel("d", 10, 5, REPLY, ANSWER, VOTE)


@pytest.mark.parametrize(
    ("model", "features", "length", "logit"),
    [
        (MODEL, {"cut": 0.0}, 5, 1.0),
        (MODEL, {"cut": 0.0}, 6, None),
        (MODEL, {"cut": 0.0, "no_answer": 0.0}, 5, 2.0),
        (MODEL, {"cut": 0.0, "no_answer": 0.0, "agreement": 1.0}, 5, 3.0),
        (replace(MODEL, vote=None), {"cut": 0.0, "no_answer": 0.0, "agreement": 1.0}, 5, 2.0),
        (replace(MODEL, answer=None), {"cut": 0.0, "no_answer": 0.0}, 5, None),
        (replace(MODEL, reply=None), {"cut": 0.0}, 5, None),
    ],
)
def test_the_mix_that_knows_most_speaks(
    model: ErrorModel, features: dict[str, float], length: int, logit: float | None
) -> None:
    found = model.probability(features, length)
    assert found == (None if logit is None else pytest.approx(sigmoid(logit)))


NUMBERS = st.floats(-1e6, 1e6)
WEIGHTS = st.tuples(NUMBERS, NUMBERS, NUMBERS).map(lambda t: Weight(t[0], min(t[1:]), max(t[1:])))
MIXES = st.none() | st.builds(
    Mix, NUMBERS, st.dictionaries(st.sampled_from((*REPLY_FEATURES, *ANSWER_FEATURES)), WEIGHTS)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reply=MIXES, answer=MIXES, vote=MIXES)
def test_a_profile_keeps_the_coefficients(
    tmp_path: Path, reply: Mix | None, answer: Mix | None, vote: Mix | None
) -> None:
    profile = replace(PLAIN, error=ErrorModel("hash", 700, 96, reply, answer, vote))
    profile.save(tmp_path / "p.toml")
    again = Profile.load(tmp_path / "p.toml")
    assert again == profile
    # the coefficients decide nothing, so what was stored under the profile's id stays valid
    assert again.id == PLAIN.id
    assert again.as_dict()["error"] == profile.as_dict()["error"]


def test_a_profile_without_a_fit_has_no_table(tmp_path: Path) -> None:
    PLAIN.save(tmp_path / "p.toml")
    assert "[error" not in (tmp_path / "p.toml").read_text()
    assert "error" not in PLAIN.as_dict()
    assert Profile.load(tmp_path / "p.toml").error is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("longest = 96", "replies"),
        ("replies = 700", "longest"),
        ("longest = 0\nreplies = 1", "at least 1"),
        ("longest = 1\nreplies = 1\n[error.token]\nbias = 1", "error.token is not known"),
        ("longest = 1\nreplies = 1\n[error.reply]\nbias = nan\nfeatures = {}", "error.reply.bias"),
        (
            "longest = 1\nreplies = 1\n[error.reply]\nbias = 1\nfeatures = {x = [1, 0, 1]}",
            "features.x is not",
        ),
        (
            "longest = 1\nreplies = 1\n[error.reply]\nbias = 1\nfeatures = {cut = [1, 1, 0]}",
            "features.cut must",
        ),
        ("longest = 1\nreplies = 1\n[error.reply]\nbias = 1\nfeatures = {cut = [1, 1]}", "features.cut must"),
        (
            "longest = 1\nreplies = 1\n[error.reply]\nbias = 1\nfeatures = {cut = [inf, 0, 1]}",
            "features.cut must",
        ),
        ("longest = 1\nreplies = 1\n[error.reply]\nfeatures = {}", "bias"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "p.toml"
    PLAIN.save(path)
    path.write_text(f'{path.read_text()}\n[error]\ndata_hash = "d"\n{line}\n')
    with pytest.raises(ProfileError, match=problem):
        Profile.load(path)
