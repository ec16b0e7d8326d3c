"""When branches open, how they are scored, which one is kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_sampler.branch import Trajectory, in_doubt, opens, runner_up, scores, select, token_f1
from entropick_sampler.branch_config import SCORERS, BranchConfig, Scorer, branch_config
from entropick_sampler.strategy import Strategy

EXCESS: tuple[Scorer, ...] = ("mean_excess", "lowest_excess", "lowest_group_excess")


def branch(*tokens: tuple[int, float, float]) -> Trajectory:
    ids, logprobs, entropies = zip(*tokens, strict=True)
    return Trajectory(ids, logprobs, entropies, [1.0] * len(ids))


SURE_AFTER_DOUBT = branch((1, -2.0, 3.0), (2, -0.1, 0.2), (3, -0.1, 0.2), (4, -0.1, 0.2), (5, -0.1, 0.2))
DOUBT_AFTER_SURE = branch((9, -0.1, 3.0), (8, -0.9, 2.0), (7, -0.9, 2.0), (6, -0.9, 2.0), (5, -0.9, 2.0))


def test_mean_logprob_counts_the_branching_token() -> None:
    assert scores("mean_logprob", [SURE_AFTER_DOUBT, DOUBT_AFTER_SURE]) == pytest.approx([-0.48, -0.74])
    # without it the first branch would be at -0.1
    assert scores("mean_logprob", [branch((1, -2.0, 3.0))]) == [-2.0]


def test_confidence_is_the_entropy_that_fell() -> None:
    assert scores("confidence", [SURE_AFTER_DOUBT, DOUBT_AFTER_SURE]) == pytest.approx([2.8, 1.0])
    assert scores("confidence", [branch((1, -2.0, 3.0))]) == [0.0]


def test_lowest_group_is_the_worst_passage() -> None:
    # groups of four: the first holds the doubtful token, in the other branch the second holds four bad ones
    expected = [(-2.0 - 0.3) / 4, -0.9]
    assert scores("lowest_group", [SURE_AFTER_DOUBT, DOUBT_AFTER_SURE]) == pytest.approx(expected)
    assert scores("lowest_group", [branch((1, -2.0, 1.0), (2, -1.0, 1.0))]) == pytest.approx([-1.5])


def test_excess_is_the_surprisal_beside_the_entropy() -> None:
    """The first branch chose among equals and then knew; the second was surer, but for one token."""
    bit = math.log(2.0)
    free = branch((1, -3.0 * bit, 3.0), *[(i, -0.25 * bit, 0.5) for i in range(4)])
    wrong = branch((1, -0.5 * bit, 0.5), *[(i, -0.25 * bit, 0.5) for i in range(3)], (9, -2.0 * bit, 0.5))
    assert scores("mean_excess", [free, wrong]) == pytest.approx([0.2, (3 * 0.25 - 1.5) / 5])
    assert scores("lowest_excess", [free, wrong]) == pytest.approx([0.0, -1.5])
    assert scores("lowest_group_excess", [free, wrong]) == pytest.approx([0.75 / 4, -0.75 / 4])
    assert select(scores("mean_logprob", [free, wrong])) == 1
    assert [select(scores(scorer, [free, wrong])) for scorer in EXCESS] == [0, 0, 0]


@pytest.mark.parametrize("scorer", sorted({*SCORERS} - {"vote"}))
def test_lost_figures_never_win(scorer: Scorer) -> None:
    lost = Trajectory((1, 2), (-0.1, math.nan), (1.0, 0.0), (1.0, 1.0))
    scored = scores(scorer, [lost, DOUBT_AFTER_SURE])
    assert math.isnan(scored[0])
    assert select(scored) == 1


def test_vote_prefers_what_the_others_say() -> None:
    same, near, far = ([(t, -1.0, 1.0) for t in ids] for ids in ((1, 2, 3), (1, 2, 4), (7, 8, 9)))
    got = scores("vote", [branch(*same), branch(*near), branch(*far)])
    assert got == pytest.approx([1 / 3, 1 / 3, 0.0])
    assert scores("vote", [branch(*same), branch(*same), branch(*far)]) == pytest.approx([0.5, 0.5, 0.0])
    assert scores("vote", [branch(*same)]) == [1.0]


def test_seed_score_adds_the_confidence_of_the_steps() -> None:
    one = Trajectory((1, 2), (-1.0, -2.0), (1.0, 1.0), (0.5, -0.5))
    assert scores("seed", [one]) == pytest.approx([-1.5])


def test_ties_go_to_the_branch_without_branching() -> None:
    assert select([0.5, 0.7, 0.7]) == 1
    assert select([0.5, 0.5]) == 0
    # a rounding apart: they share the tokens that the score is made of
    assert select([-1.1, -0.4, -0.4 + 4e-7]) == 1
    assert select([-0.4, -0.399]) == 1
    assert select([math.nan, -3.0, -2.0]) == 2
    assert select([math.nan, math.nan]) == 0


@given(st.lists(st.floats(allow_nan=False) | st.integers(-3, 3).map(float), min_size=1))
def test_select_is_the_first_of_the_best(values: list[float]) -> None:
    best = select(values)
    assert values[best] >= max(values) - 1e-4
    assert all(value < max(values) - 1e-4 for value in values[:best])


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_overlap_is_symmetric_and_bounded(a: list[int], b: list[int]) -> None:
    assert token_f1(a, b) == token_f1(b, a)
    assert 0.0 <= token_f1(a, b) <= 1.0
    assert token_f1(a, a) == 1.0


@given(
    width=st.integers(2, 16), depth=st.integers(1, 64), budget=st.floats(0, 4), spent=st.integers(0, 200),
    room=st.integers(1, 200), max_tokens=st.integers(1, 200),
)  # fmt: skip
def test_the_budget_is_never_exceeded(
    width: int, depth: int, budget: float, spent: int, room: int, max_tokens: int
) -> None:
    config = BranchConfig(width=width, depth=depth, budget=budget)
    got = opens(config, Strategy.EXPLORE, max_tokens, spent, room)
    assert got <= min(depth, room)
    if got:
        assert spent + (width - 1) * got <= budget * max_tokens
    else:
        assert spent + (width - 1) * min(depth, room) > math.floor(budget * max_tokens)


def test_the_depth_of_branches_that_a_text_ends_is_the_room() -> None:
    def depth(room: int, **fields: Any) -> int:
        return opens(BranchConfig(width=3, budget=2.0, **fields), Strategy.EXPLORE, 100, 0, room)

    assert [depth(100), depth(100, until="\n"), depth(100, until="end")] == [12, 100, 100]
    assert [depth(70, until="\n"), depth(70, until="\n", depth=40)] == [70, 40]
    # the budget holds what the branches cost if nothing ends them
    assert depth(101, until="\n") == 0


def test_only_the_chosen_strategies_open() -> None:
    config = BranchConfig(on=frozenset({Strategy.ADAPTIVE}))
    assert opens(config, Strategy.ADAPTIVE, 100, 0, 100) == 12
    assert opens(config, Strategy.EXPLORE, 100, 0, 100) == 0
    assert opens(config, None, 100, 0, 100) == 0


def test_the_runner_up_is_the_likeliest_other_beginning() -> None:
    half, tenth = math.log(0.5), math.log(0.1)
    assert runner_up(7, half, [(7, half), (8, tenth), (9, math.log(0.2))]) == pytest.approx(0.4)
    assert runner_up(7, half, [(7, half), (7, half)]) == 0.0
    assert runner_up(7, half, []) == 0.0
    # an unlucky draw: the other branch begins with the likelier token
    assert runner_up(8, tenth, [(7, half)]) == 1.0
    assert runner_up(8, -800.0, [(7, 0.0)]) == 1.0


def test_limits_keep_branches_to_doubtful_tokens() -> None:
    assert in_doubt(BranchConfig(), None, 0.0)
    bits = BranchConfig(min_entropy=1.5)
    assert [in_doubt(bits, h, 0.0) for h in (1.5, 1.4, None)] == [True, False, False]
    plausible = BranchConfig(min_runner_up=0.25)
    assert [in_doubt(plausible, None, share) for share in (0.25, 0.2, 0.0)] == [True, False, False]
    both = BranchConfig(min_entropy=1.5, min_runner_up=0.25)
    assert [in_doubt(both, h, share) for h, share in ((2, 0.3), (1, 0.3), (2, 0.2))] == [True, False, False]


def test_config_from_a_request() -> None:
    assert branch_config({}) == BranchConfig()
    config = branch_config({"width": 5, "budget": 2, "scorer": "vote", "on": ["adaptive", "greedy"]})
    assert config.on == {Strategy.ADAPTIVE, Strategy.GREEDY}
    assert (config.width, config.budget, config.scorer) == (5, 2, "vote")
    server = branch_config({"until": "\n", "depth": 300})
    assert (server.until, server.depth) == ("\n", 300)
    asked = branch_config({"until": None, "depth": None}, server)
    assert asked == BranchConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 1}, "branch.width: must be between 2 and 16"),
        ({"width": 2.5}, "branch.width: must be a whole number"),
        ({"depth": True}, "branch.depth: must be a number"),
        ({"depth": 4097}, "branch.depth: must be between 1 and 4096"),
        ({"width": None}, "branch.width: must be a number"),
        ({"until": ""}, "branch.until: must be null, 'end' or a text of 1 to 64 characters"),
        ({"until": "x" * 65}, "branch.until: must be null"),
        ({"until": ["\n"]}, "branch.until: must be null"),
        ({"until": "\ud800"}, "branch.until: must be null"),
        ({"budget": "much"}, "branch.budget: must be a number"),
        ({"budget": math.nan}, "branch.budget: must be between 0 and 16"),
        ({"min_entropy": -1}, "branch.min_entropy: must be between 0 and 64"),
        ({"min_entropy": "high"}, "branch.min_entropy: must be a number"),
        ({"min_runner_up": 1.5}, "branch.min_runner_up: must be between 0 and 1"),
        ({"scorer": "best"}, "branch.scorer: must be one of mean_logprob"),
        ({"scorer": ["vote"]}, "branch.scorer: must be one of mean_logprob"),
        ({"on": "explore"}, "branch.on: must be a list of greedy, explore"),
        ({"on": ["clarify"]}, "branch.on: must be a list of greedy, explore"),
        ({"depht": 3}, "branch.depht: no such field; known: width, depth"),
    ],
)
def test_bad_config_names_the_field_and_the_limit(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        branch_config(values)


@pytest.mark.parametrize("scorer", SCORERS)
def test_every_scorer_refuses_an_empty_branch(scorer: str) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        scores(scorer, [Trajectory((), (), (), ())])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no branch"):
        scores(scorer, [])  # type: ignore[arg-type]
