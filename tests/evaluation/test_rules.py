"""Rules over replies: votes, weights, ties, early stops."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_eval.rules import Rule, RuleError, Voter, beta_above_half, parse_rule, pick


def voter(answer: str | None, logprob: float = 0.0, cut: bool = False) -> Voter:
    return Voter(answer, {"mean_logprob": logprob, "sum_logprob": 10 * logprob}, cut, 10)


def test_the_most_frequent_answer_wins_and_the_first_of_equals() -> None:
    assert pick(Rule(5), [voter("a"), voter("b"), voter("b")]) == (1, 3)
    assert pick(Rule(5), [voter("a"), voter("b")]) == (0, 2)
    assert pick(Rule(2), [voter("a"), voter("b"), voter("b")]) == (0, 2)


def test_replies_without_an_answer_abstain() -> None:
    assert pick(Rule(5), [voter(None), voter(None), voter("a")]) == (2, 3)
    assert pick(Rule(5), [voter(None), voter(None)]) == (0, 2)
    best = Rule(5, "best", "mean_logprob", 3.0)
    assert pick(best, [voter(None, -0.1), voter("a", -2.0)]) == (1, 2)


def test_a_weighted_vote() -> None:
    weighted = Rule(5, "vote", "mean_logprob", 3.0)
    # 2^-0.3 = .81 against twice 2^-3 = .25
    assert pick(weighted, [voter("a", -0.1), voter("b", -1.0), voter("b", -1.0)]) == (0, 3)
    # 2^-3 = .125 against .25
    assert pick(weighted, [voter("a", -1.0), voter("b", -1.0), voter("b", -1.0)]) == (1, 3)
    cut = Rule(5, cut_weight=0.1)
    assert pick(cut, [voter("a", cut=True), voter("a", cut=True), voter("b")]) == (2, 3)


def test_the_reply_of_the_winning_answer_is_its_most_likely() -> None:
    weighted = Rule(5, "vote", "mean_logprob", 3.0)
    assert pick(weighted, [voter("a", -2.0), voter("a", -1.0)])[0] == 1


def test_stops() -> None:
    many = [voter("a", -0.1)] * 9
    assert pick(Rule(9, answered=True), [voter(None), voter("x", cut=True), voter("y"), voter("z")]) == (1, 3)
    assert pick(Rule(9, answered=True), [voter(None), voter("y"), voter("z")]) == (1, 2)
    assert pick(Rule(9, window=3), many)[1] == 3
    assert pick(Rule(9, window=3), [voter("a"), voter("b"), voter("a"), *many])[1] == 6
    assert pick(Rule(9, surprisal=1.5), many)[1] == 1
    assert pick(Rule(9, surprisal=0.5), many)[1] == 9
    # P(Beta(v + 1, 1) > 1/2) = 1 - 2^-(v + 1): above .95 from v = 4 on
    assert pick(Rule(9, beta=0.95), many)[1] == 4


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_beta_rule_is_a_binomial_tail(a: int, b: int) -> None:
    exact = sum(math.comb(a + b - 1, j) for j in range(a)) / 2 ** (a + b - 1)
    assert beta_above_half(a, b) == pytest.approx(exact, abs=1e-12)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.randoms())
def test_a_plain_vote_depends_on_the_order_only_through_ties(answers: list[str], random: object) -> None:
    voters = [voter(answer) for answer in answers]
    winner = answers[pick(Rule(9), voters)[0]]
    assert answers.count(winner) == max(answers.count(one) for one in answers)
    assert pick(Rule(9), voters + voters)[0] < len(voters)


def test_a_description() -> None:
    of, first, rule = parse_rule(
        {"of": "s", "first": "greedy", "k": 5, "weight": "mean_logprob", "stop": {"beta": 0.9}}
    )
    assert (of, first) == ("s", "greedy")
    assert rule == Rule(5, weight="mean_logprob", scale=3.0, beta=0.9)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([], "must be a table"),
        ({"of": "s", "k": 3, "n": 1}, "n: no such field"),
        ({"k": 3}, "of: must be"),
        ({"of": "s"}, "k: must be a whole number"),
        ({"of": "s", "k": 3, "choose": "best"}, "weight: the best reply needs"),
        ({"of": "s", "k": 3, "weight": "length"}, "weight: must be one of"),
        ({"of": "s", "k": 3, "stop": {"gamma": 1}}, "stop.gamma: no such field"),
        ({"of": "s", "k": 3, "stop": {"beta": 2}}, "stop.beta: must be a number from 0 to 1"),
        ({"of": "s", "k": 3, "stop": {"answered": 1}}, "stop.answered: must be true"),
        ({"of": "s", "k": 3, "cut_weight": True}, "cut_weight: must be a number"),
    ],
)
def test_an_error_names_the_field_of_a_rule(raw: object, says: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rule(raw)
    assert str(caught.value).startswith(says)
