"""Stop rules and verdicts on votes that are written by hand, and what holds for any votes."""

from __future__ import annotations

import math

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_server.consensus.beta import beta_cdf
from entropick_server.consensus.config import RULES, StopConfig
from entropick_server.consensus.rules import Verdict, judge, likeness, needed, stop_reason, tally
from entropick_server.consensus.weights import Vote


def votes(*answers: str | None, weight: float = 1.0) -> list[Vote]:
    return [Vote(answer, 0.0 if answer is None else weight, answer_bits=9.0) for answer in answers]


# -- the incomplete beta function ----------------------------------------------------------------------


@given(st.integers(1, 33), st.integers(1, 33))
def test_whole_arguments_are_a_binomial_tail(a: int, b: int) -> None:
    n = a + b - 1
    tail = sum(math.comb(n, j) for j in range(a, n + 1)) / 2**n
    assert beta_cdf(a, b, 0.5) == pytest.approx(tail, abs=1e-13)


@given(st.floats(0.05, 200), st.floats(0.05, 200), st.floats(0.001, 0.999))
def test_any_arguments(a: float, b: float, x: float) -> None:
    exact = float(mpmath.betainc(a, b, 0, x, regularized=True))
    assert beta_cdf(a, b, x) == pytest.approx(exact, abs=1e-11)


def test_the_ends() -> None:
    assert (beta_cdf(2, 3, 0.0), beta_cdf(2, 3, 1.0)) == (0.0, 1.0)
    assert beta_cdf(1, 1, 0.25) == pytest.approx(0.25)


# -- rules ----------------------------------------------------------------------------------------------


def test_all() -> None:
    rule = StopConfig("all")
    assert stop_reason(rule, votes(*"aaa"), 4) is None
    assert stop_reason(rule, votes(*"aaaa"), 4) == "exhausted"
    assert needed(rule, [], 4) == 4


def test_esc() -> None:
    rule = StopConfig("esc", window=3)
    assert stop_reason(rule, votes("a", "a"), 40) is None
    assert stop_reason(rule, votes("a", "a", "a"), 40) == "agreed"
    # windows follow each other: aab aaa, and baaa is none
    assert stop_reason(rule, votes(*"baaa"), 40) is None
    assert stop_reason(rule, votes(*"aabaaa"), 40) == "agreed"
    assert stop_reason(rule, votes(None, None, None), 40) is None
    assert stop_reason(rule, votes("a", "a", None), 40) is None
    assert [needed(rule, votes(*before), 40) for before in ("", "a", "aa", "ab", "aab")] == [3, 2, 1, 4, 3]
    assert needed(rule, votes(*"abc"), 5) == 2


def test_beta_counts() -> None:
    """P(Beta(n + 1, 1) > 1/2) = 1 - 2^-(n + 1): .75, .875, .9375, .969."""
    rule = StopConfig("beta")
    assert [stop_reason(rule, votes(*"a" * n), 40) for n in (3, 4)] == [None, "agreed"]
    assert needed(rule, [], 40) == 4
    assert needed(rule, votes(*"a"), 40) == 3
    # one against: P(Beta(v + 1, 2) > 1/2) = 1 - (v + 3) / 2^(v + 2): .9375 at 5, .965 at 6
    assert needed(rule, votes(*"ab"), 40) == 5
    assert [stop_reason(rule, votes(*"b" + "a" * n), 40) for n in (5, 6)] == [None, "agreed"]
    # counts, whatever they weigh
    assert stop_reason(rule, votes(*"aaaa", weight=0.01), 40) == "agreed"
    assert stop_reason(rule, votes(*"aaa", None), 40) is None


def test_weighted_beta() -> None:
    """P(Beta(v + 1, 1) > 1/2) = 1 - 2^-(v + 1) > .8 where v > log2(5) - 1 = 1.322."""
    rule = StopConfig("weighted_beta", 0.8)
    assert stop_reason(rule, votes("a", "a", weight=0.66), 40) is None
    assert stop_reason(rule, votes("a", "a", weight=0.662), 40) == "agreed"
    assert needed(rule, [], 40) == 2
    assert needed(rule, votes("a", weight=0.4), 40) == 1
    assert needed(rule, votes("a", weight=0.3), 40) == 2
    assert stop_reason(StopConfig("weighted_beta", 0.7), votes("a"), 40) == "agreed"


def test_cascade() -> None:
    rule = StopConfig("cascade", 0.8)
    assert needed(rule, [], 9) == 1
    assert stop_reason(rule, [Vote("a", 0.1, True, 1.59)], 9) == "agreed"
    for doubtful in (
        Vote("a", 0.1, True, 1.6),
        Vote("a", 0.1, False, 0.1),
        Vote("a", 0.1, True, math.inf),
        Vote(None, 0.0, True, 0.1),
    ):
        assert stop_reason(rule, [doubtful], 9) is None
    cut = StopConfig("cascade", 0.8, ended=False)
    assert stop_reason(cut, [Vote("a", 0.1, False, 0.1)], 9) == "agreed"
    assert stop_reason(cut, [Vote(None, 0.0, False, 0.1)], 9) is None
    assert needed(rule, [Vote("a", 0.1, True, 9.0)], 9) == 2
    assert needed(rule, [Vote("a", 0.4, True, 9.0)], 9) == 1
    assert stop_reason(rule, [Vote("a", 0.4, True, 9.0), Vote("a", 1.0)], 9) == "agreed"
    # the shortcut is reply 0's alone
    assert stop_reason(rule, [Vote(None, 0.0), Vote("a", 0.4, True, 0.1)], 9) is None


def test_a_lead_that_cannot_be_caught() -> None:
    rule = StopConfig("beta", 1.0)
    assert stop_reason(rule, votes(*"aaa"), 5) == "decided"
    assert stop_reason(rule, votes(*"aab"), 5) is None
    assert stop_reason(rule, votes(*"aa"), 4) is None  # two more could draw level
    assert needed(rule, [], 5) == 3
    assert needed(rule, votes(*"ab"), 5) == 2
    assert stop_reason(StopConfig("all"), votes(*"aaa"), 5) is None


# -- verdicts -------------------------------------------------------------------------------------------


def test_the_heaviest_answer_and_its_heaviest_reply() -> None:
    cast = [Vote("a", 0.5), Vote("b", 0.4), Vote("b", 0.6), Vote(None, 0.0), Vote("b", 0.6)]
    assert judge(StopConfig("all"), cast, 5) == Verdict(2, "b", pytest.approx(1.6 / 2.1), "exhausted")  # type: ignore[arg-type]
    assert tally(cast) == {"a": 0.5, "b": pytest.approx(1.6)}


def test_of_equals_the_earlier() -> None:
    assert judge(StopConfig("all"), votes(*"bab", "a"), 4).winner == 0
    near = [Vote("b", 0.5), Vote("a", 0.50005)]
    assert judge(StopConfig("all"), near, 2).answer == "b"
    assert judge(StopConfig("all"), [Vote("b", 0.5), Vote("a", 0.5002)], 2).answer == "a"


def test_without_answers_or_weight() -> None:
    assert judge(StopConfig("all"), votes(None, None), 2) == Verdict(0, None, None, "exhausted")
    assert judge(StopConfig("all"), [Vote(None, 0.0), Vote("a", 0.0), Vote("b", 0.0)], 3) == Verdict(
        1, "a", 0.5, "exhausted"
    )
    with pytest.raises(ValueError, match="further replies"):
        judge(StopConfig("all"), votes("a"), 2)


def test_the_most_typical_text() -> None:
    """F1 of bags of words: 2 x common / all."""
    cast = votes("red fox ran", "red fox slept", "blue cat", None, "red fox ran far")
    # with itself 1; with the second 4/6, the third 0, the last 6/7
    assert likeness(cast) == pytest.approx(
        [
            (1 + 4 / 6 + 0 + 6 / 7) / 4,
            (4 / 6 + 1 + 0 + 4 / 7) / 4,
            1 / 4,
            -1,
            (6 / 7 + 4 / 7 + 0 + 1) / 4,
        ]
    )
    verdict = judge(StopConfig("all"), cast, 5, similar=True)
    assert (verdict.winner, verdict.answer) == (0, "red fox ran")
    assert verdict.share == pytest.approx(likeness(cast)[0])
    heavy = [*cast[:2], Vote("blue cat", 9.0), *cast[3:]]
    assert judge(StopConfig("all"), heavy, 5, similar=True).winner == 2
    weightless = [Vote(vote.answer, 0.0) for vote in cast]
    assert likeness(weightless) == likeness(cast)
    # equal texts decide as any answers do
    assert judge(StopConfig("beta"), votes(*"aaaa"), 9, similar=True) == Verdict(0, "a", 1.0, "agreed")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_texts_that_share_nothing_are_voted_on(answers: list[str]) -> None:
    cast = votes(*answers)
    k = len(cast)
    assert likeness(cast) == pytest.approx([answers.count(answer) / k for answer in answers])
    if k > 1:
        plain, alike = (judge(StopConfig("all"), cast, k, similar=similar) for similar in (False, True))
        assert (plain.winner, plain.answer) == (alike.winner, alike.answer)


# -- whatever the votes ---------------------------------------------------------------------------------

ANY_RULE = st.builds(
    StopConfig,
    rule=st.sampled_from(RULES),
    threshold=st.none() | st.floats(0.5, 1.0),
    window=st.integers(2, 5),
    answer_bits=st.floats(0, 4),
    ended=st.booleans(),
)
ANY_VOTE = st.builds(
    Vote,
    answer=st.sampled_from(["a", "a", "b", "c", None]),
    weight=st.floats(0, 1) | st.just(1.0),
    ended=st.booleans(),
    answer_bits=st.floats(0, 4) | st.just(math.inf),
)


@given(ANY_RULE, st.lists(ANY_VOTE, min_size=12, max_size=12), st.integers(2, 12))
def test_waves_of_what_is_needed_are_the_same_as_one_reply_at_a_time(
    rule: StopConfig, cast: list[Vote], k: int
) -> None:
    single = next(n for n in range(1, k + 1) if stop_reason(rule, cast[:n], k) is not None)
    number = 0
    while more := needed(rule, cast[:number], k):
        number += more
    assert number == single
    assert judge(rule, cast[:number], k) == judge(rule, cast[:single], k)


@given(ANY_RULE, st.lists(ANY_VOTE, max_size=7), st.integers(2, 9))
def test_no_more_is_called_needed_than_luck_would_make_do_with(
    rule: StopConfig, cast: list[Vote], k: int
) -> None:
    """Some further votes, as many as were called needed, do stop the rule."""
    if any(stop_reason(rule, cast[:n], k) is not None for n in range(1, len(cast) + 1)):
        return
    more = needed(rule, cast, k)
    assert 1 <= more <= k - len(cast)
    lucky = [
        [*cast, *[Vote(answer, 1.0, True, 0.0)] * more]
        for answer in {vote.answer for vote in cast if vote.answer is not None} | {"z"}
    ]
    zero_bits = rule.rule == "cascade" and rule.answer_bits == 0.0
    assert zero_bits or any(stop_reason(rule, lot, k) is not None for lot in lucky)


@given(ANY_RULE, st.lists(ANY_VOTE, min_size=9, max_size=9))
def test_a_decided_answer_wins_in_the_end(rule: StopConfig, cast: list[Vote]) -> None:
    for n in range(1, 9):
        if stop_reason(rule, cast[:n], 9) == "decided":
            early = judge(rule, cast[:n], 9).answer
            assert judge(StopConfig("all"), cast, 9).answer == early
            return
