"""Measures of open text, computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_eval.open_text import OpenReply, distinct, measures, ngrams, repeated_share, words

from .support import PATIENT


def test_words() -> None:
    assert words("It's a state-of-the-art Café, isn\u2019t it? 3.5_x") == [
        *["it's", "a", "state", "of", "the", "art", "café", "isn't", "it", "3", "5", "x"]
    ]
    assert words("...") == []


def test_repeated_4grams_by_hand() -> None:
    # a b c d | b c d a | c d a b | d a b c | a b c d: five, one of them seen before
    assert repeated_share(list("abcdabcd")) == pytest.approx(1 / 5)
    assert repeated_share(list("aaaaaaaa")) == pytest.approx(4 / 5)
    assert repeated_share(list("abcdefgh")) == 0
    assert repeated_share(list("abc")) == 0


def test_distinct_by_hand() -> None:
    assert distinct([list("abab")], 1) == pytest.approx(2 / 4)
    assert distinct([list("abab")], 2) == pytest.approx(2 / 3)
    # no n-gram reaches from one reply into the next
    assert distinct([list("ab"), list("ab")], 2) == pytest.approx(1 / 2)
    assert distinct([], 2) == 0


@PATIENT
@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4))
def test_one_reply_is_either_repeated_or_distinct(sequence: list[str], n: int) -> None:
    if ngrams(sequence, n):
        assert repeated_share(sequence, n) == pytest.approx(1 - distinct([sequence], n))


@PATIENT
@given(st.lists(st.lists(st.sampled_from("ab"), max_size=8), max_size=5), st.randoms())
def test_distinct_does_not_depend_on_the_order_of_replies(replies: list[list[str]], random: object) -> None:
    assert distinct(replies, 2) == distinct(replies[::-1], 2)


def test_measures_of_replies() -> None:
    found = measures({"p": OpenReply("a b c d a b c d", 9, 1.5), "q": OpenReply("", 1, None)})
    assert found["p"] == pytest.approx(
        {
            "repeated_4grams": 0.2,
            "words": 8,
            "tokens": 9,
            "mean_surprisal": 1.5,
            "distinct_1": 4 / 8,
            "distinct_2": 4 / 7,
            "distinct_3": 4 / 6,
        }
    )
    assert "mean_surprisal" not in found["q"]
