"""Rules over replies: votes, weights, ties, early stops, and the server's consensus."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_eval.replies import OFFSET
from entropick_eval.rules import ConsensusRule, Rule, RuleError, Voter, parse_rule
from entropick_server.answers import Extracted
from entropick_server.consensus.config import consensus_config

from .support import PATIENT


def voter(answer: str | None, logprob: float = 0.0, cut: bool = False) -> Voter:
    """Builds a reply of two tokens, whose second is the answer; both have the same log probability (bits)."""
    signals = {"surprisal": (-logprob, -logprob), "logits_entropy": (1.0, 2.0), OFFSET: (0, 3)}
    found = None if answer is None else Extracted(answer, 3, 3 + len(answer))
    return Voter(f"is {answer}", found, {"mean_logprob": logprob}, signals, cut)


def test_the_most_frequent_answer_wins_and_the_first_of_equals() -> None:
    assert Rule(5).pick([voter("a"), voter("b"), voter("b")]) == (1, 3)
    assert Rule(5).pick([voter("a"), voter("b")]) == (0, 2)
    assert Rule(2).pick([voter("a"), voter("b"), voter("b")]) == (0, 2)
    with pytest.raises(ValueError, match="needs a reply"):
        Rule(2).pick([])


def test_replies_without_an_answer_abstain() -> None:
    assert Rule(5).pick([voter(None), voter(None), voter("a")]) == (2, 3)
    assert Rule(5).pick([voter(None), voter(None)]) == (0, 2)
    best = Rule(5, "best", "mean_logprob", 3.0)
    assert best.pick([voter(None, -0.1), voter("a", -2.0)]) == (1, 2)


def test_a_weighted_vote() -> None:
    weighted = Rule(5, "vote", "mean_logprob", 3.0)
    # 2^-0.3 = .81 against twice 2^-3 = .25
    assert weighted.pick([voter("a", -0.1), voter("b", -1.0), voter("b", -1.0)]) == (0, 3)
    # 2^-3 = .125 against .25
    assert weighted.pick([voter("a", -1.0), voter("b", -1.0), voter("b", -1.0)]) == (1, 3)
    cut = Rule(5, cut_weight=0.1)
    assert cut.pick([voter("a", cut=True), voter("a", cut=True), voter("b")]) == (2, 3)


def test_the_reply_of_the_winning_answer_is_its_most_likely() -> None:
    weighted = Rule(5, "vote", "mean_logprob", 3.0)
    assert weighted.pick([voter("a", -2.0), voter("a", -1.0)])[0] == 1


def test_a_score_that_was_not_measured_weighs_nothing() -> None:
    rule = Rule(5, "vote", "lowest_excess", 1.0)
    assert rule.pick([voter("a"), voter("b")]) == (0, 2)


def test_no_further_reply_behind_an_answer() -> None:
    rule = Rule(9, answered=True)
    assert rule.pick([voter(None), voter("y"), voter("z")]) == (1, 2)
    # the cut reply is not the end, but its answer counts
    assert rule.pick([voter(None), voter("x", cut=True), voter("y"), voter("z")]) == (1, 3)


@PATIENT
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.integers(0, 99))
def test_a_plain_vote_does_not_depend_on_the_order_but_for_ties(answers: list[str], seed: int) -> None:
    shuffled = random.Random(seed).sample(answers, len(answers))
    for order in (answers, shuffled, answers + answers):
        winner = order[Rule(99).pick([voter(one) for one in order])[0]]
        assert order.count(winner) == max(order.count(one) for one in order)


def consensus(**fields: Any) -> ConsensusRule:
    return ConsensusRule(consensus_config({"extract": "text", **fields}))


def test_consensus_stops_and_wins_as_the_server_does() -> None:
    many = [voter("a", -0.1)] * 9
    # P(Beta(v + 1, 1) > 1/2) = 1 - 2^-(v + 1): above .95 from v = 4 on
    assert consensus(k=9, stop="beta").pick(many) == (0, 4)
    assert consensus(k=9, stop={"rule": "esc", "window": 3}, weight="none").pick(many) == (0, 3)
    # the answer's surprisal is .1 bits of the second token, below 1.6
    assert consensus(k=9, stop="cascade").pick(many) == (0, 1)
    assert consensus(k=9, stop={"rule": "cascade", "answer_bits": 0.05}).pick(many)[1] > 1
    assert consensus(k=9, stop="cascade").pick([voter("a", -0.1, cut=True), *many])[1] > 1
    assert consensus(k=3, stop="all", weight="none").pick([voter("a"), voter("b"), voter("b")]) == (1, 3)


def test_consensus_with_replies_missing() -> None:
    assert consensus(k=9, stop="beta").pick([voter("a"), voter("b")]) == (0, 2)


@PATIENT
@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.floats(-2, 0)), min_size=1, max_size=7))
def test_consensus_of_all_is_the_weighted_vote(rows: list[tuple[str | None, float]]) -> None:
    voters = [voter(answer, logprob) for answer, logprob in rows]
    weight = {"by": "mean_logprob", "scale": 3.0}
    found = consensus(k=max(2, len(rows)), weight=weight, stop="all").pick(voters)[0]
    expected = Rule(9, "vote", "mean_logprob", 3.0).pick(voters)[0]
    if any(one.answer for one in voters):
        assert rows[found][0] == rows[expected][0] or sum(
            2 ** (3 * b) for a, b in rows if a == rows[found][0]
        ) == pytest.approx(sum(2 ** (3 * b) for a, b in rows if a == rows[expected][0]))


def test_a_description() -> None:
    raw = {"of": "s", "first": "greedy", "k": 5, "weight": "mean_logprob", "answered": True}
    of, first, rule = parse_rule(raw)
    assert (of, first) == ("s", "greedy")
    assert rule == Rule(5, weight="mean_logprob", scale=3.0, answered=True)
    of, first, rule = parse_rule({"of": "s", "consensus": {"k": 4, "weight": "none"}})
    assert (first, rule) == ("greedy", consensus(k=4, weight="none"))
    assert parse_rule({"of": "s", "consensus": {"first": "sample"}})[1] is None


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([], "must be a table"),
        ({"of": "s", "k": 3, "n": 1}, "n: no such field"),
        ({"k": 3}, "of: must be"),
        ({"of": "s", "k": 3, "first": 1}, "first: must be"),
        ({"of": "s"}, "k: must be a whole number"),
        ({"of": "s", "k": 3, "choose": "best"}, "weight: the best reply needs"),
        ({"of": "s", "k": 3, "weight": "length"}, "weight: must be one of"),
        ({"of": "s", "k": 3, "answered": 1}, "answered: must be true"),
        ({"of": "s", "k": 3, "cut_weight": True}, "cut_weight: must be a number"),
        ({"of": "s", "k": 3, "consensus": {}}, "k: no such field beside consensus"),
        ({"of": "s", "consensus": 3}, "consensus: must be a table"),
        ({"of": "s", "consensus": {"k": 1}}, "consensus.k: must be between"),
    ],
)
def test_an_error_names_the_field_of_a_rule(raw: object, says: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rule(raw)
    assert str(caught.value).startswith(says)
