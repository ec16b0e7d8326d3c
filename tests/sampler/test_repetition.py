"""The repetition of a reply against its definition, and its history as tokens come."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from entropick_sampler.repetition import LONGEST, WINDOW, TokenHistory, repeated_suffix_reference


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], 0),
        ([7], 0),
        ([7, 8, 9], 0),
        ([7, 7], 1),
        ([7, 7, 7], 2),  # an occurrence may overlap the suffix
        ([1, 2, 3, 9, 1, 2, 3], 3),
        ([1, 2, 3, 9, 0, 2, 3], 2),
        ([5, 1, 2, 9, 4, 1, 2, 8, 4, 1, 2], 3),  # the longest of two occurrences, not the newest
        ([3] * 100, LONGEST),
    ],
)
def test_known_answers(tokens: list[int], expected: int) -> None:
    assert repeated_suffix_reference(tokens) == expected
    assert TokenHistory(tokens).repeated == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=120))
def test_equals_the_reference_after_every_token(tokens: list[int]) -> None:
    history = TokenHistory()
    for count, token in enumerate(tokens, start=1):
        history.append(token)
        assert history.repeated == repeated_suffix_reference(tokens[:count])
    assert history.newest == tuple(tokens)
    assert history == TokenHistory(tokens)


def test_long_replies_are_searched_within_the_window() -> None:
    phrase = [900, 901, 902, 903]
    for gap, expected in ((WINDOW - 8, 4), (WINDOW, 0)):
        # numbers of the gap are all different, so nothing else repeats
        tokens = [*phrase, *range(1000, 1000 + gap), *phrase]
        history = TokenHistory()
        for token in [*range(5000, 5000 + 3 * WINDOW), *tokens]:
            history.append(token)
        assert history.repeated == expected == repeated_suffix_reference(tokens)
        assert len(history.newest) == WINDOW


def test_a_copy_goes_its_own_way() -> None:
    history = TokenHistory([1, 2, 3])
    copy = history.copy()
    history.append(1)
    copy.append(3)
    assert (history.repeated, copy.repeated) == (1, 1)
    assert history.newest == (1, 2, 3, 1)
    assert copy.newest == (1, 2, 3, 3)
    assert history != copy
