"""The adjustments of a reply: bans and masks by its tokens, counts for penalties, copies for branches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from entropick_sampler.adjustments import Masks, words_of
from entropick_sampler.params import SamplingParams
from entropick_sampler.reply_adjustments import ReplyAdjustments, adjusts, step_adjustments

V = 70


def reply(prompt: tuple[int, ...] = (), output: tuple[int, ...] = (), **asked: object) -> ReplyAdjustments:
    made = ReplyAdjustments.of(SamplingParams(**asked), prompt, output)  # type: ignore[arg-type]
    assert made is not None
    return made


def allowed(of: ReplyAdjustments, mask: tuple[int, ...] | None = None) -> set[int]:
    words = of.words(V, None if mask is None else words_of(mask, V))
    if words is None:
        return set(range(V))
    return {i for i in range(V) if int(words[i // 32]) >> (i % 32) & 1}


def test_a_request_without_adjustments_has_none() -> None:
    assert not adjusts(SamplingParams(0.7, stop_token_ids=(1, 2), logprobs=3))
    assert ReplyAdjustments.of(SamplingParams(), (1, 2)) is None
    assert step_adjustments([None, None], V) is None


@pytest.mark.parametrize(
    "asked",
    [
        {"presence_penalty": 0.1},
        {"frequency_penalty": -2.0},
        {"repetition_penalty": 1.1},
        {"logit_bias": ((3, 0.0),)},
        {"min_tokens": 1},
        {"bad_words": ((1,),)},
        {"allowed_token_ids": (1,)},
    ],
)
def test_each_field_is_an_adjustment(asked: dict[str, object]) -> None:
    assert adjusts(SamplingParams(**asked))  # type: ignore[arg-type]


def test_no_token_that_ends_a_reply_comes_before_min_tokens() -> None:
    of = reply(min_tokens=2, stop_token_ids=(5, 66))
    for _ in range(2):
        assert allowed(of) == set(range(V)) - {5, 66}
        of.take(9)
    assert of.words(V) is None


def test_the_last_token_of_a_bad_word_is_banned_behind_its_beginning() -> None:
    of = reply(bad_words=((7,), (1, 2), (1, 1, 3), (2, 1, 4)))
    assert allowed(of) == set(range(V)) - {7}
    steps = {1: {7, 2}, 2: {7}, 3: {7}}
    for token, banned in steps.items():
        of.take(token)
        assert of.banned() == banned
    for token in (2, 1):
        of.take(token)
    assert of.banned() == {7, 2, 4}
    of.take(1)
    assert of.banned() == {7, 2, 3}


def test_the_beginning_of_a_bad_word_in_the_prompt_does_not_count() -> None:
    assert reply((1,), bad_words=((1, 2),)).banned() == set()
    assert reply((9,), (1,), bad_words=((1, 2),)).banned() == {2}


def test_masks_meet_and_bans_yield_where_they_would_leave_nothing() -> None:
    of = reply(allowed_token_ids=(1, 2, 66), bad_words=((2,),), min_tokens=3, stop_token_ids=(66,))
    assert allowed(of) == {1}
    assert allowed(of, (1, 2, 69)) == {1}
    assert allowed(of, (2, 66)) == {2, 66}
    assert allowed(of, (69,)) == set()


def test_counts_are_those_of_the_output_and_the_prompt_is_seen_for_repetition_alone() -> None:
    for repetition, seen in ((1.0, {4: 2, 5: 1}), (1.2, {1: 0, 2: 0, 4: 2, 5: 1})):
        of = reply((1, 2, 1, 4), (4,), presence_penalty=0.5, repetition_penalty=repetition)
        for token in (4, 5):
            of.take(token)
        ids, counts = of.seen
        assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == seen
        assert of.factors == (0.5, 0.0, repetition)


def test_a_long_reply_is_counted_as_by_hand() -> None:
    rng = np.random.default_rng(1)
    prompt, output = rng.integers(0, 3000, 40).tolist(), rng.integers(0, 3000, 4000).tolist()
    of = reply(tuple(prompt), tuple(output[:100]), repetition_penalty=1.1)
    for token in output[100:]:
        of.take(token)
    ids, counts = of.seen
    want = dict.fromkeys(prompt, 0) | Counter(output)
    assert len(ids) == len(want) > 1024
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == want


def test_a_branch_counts_for_itself() -> None:
    of = reply((1,), (2,), frequency_penalty=1.0, bad_words=((2, 3, 4),), min_tokens=2, stop_token_ids=(5,))
    other = of.copy()
    other.take(3)
    assert (of.length, other.length) == (1, 2)
    assert (of.banned(), other.banned()) == ({5}, {4})
    assert (of.seen[1].tolist(), other.seen[1].tolist()) == ([1.0], [1.0, 1.0])


def test_a_text_that_could_be_excluded_is_not_said() -> None:
    assert reply(logit_bias=((1, -100.0),)).may_say((1, 2))
    assert not reply(allowed_token_ids=(1, 66)).may_say((1, 2))
    assert not reply(bad_words=((3, 2),)).may_say((1, 2))
    early = reply(min_tokens=1, stop_token_ids=(2,))
    assert not early.may_say((1, 2))
    early.take(1)
    assert early.may_say((1, 2))


def test_a_step_has_what_each_row_asks_for() -> None:
    rows = [
        None,
        reply(logit_bias=((3, 5.0), (60, -2.0)), allowed_token_ids=(3, 60)),
        reply((8,), (9, 9), repetition_penalty=2.0),
        reply(bad_words=((1,),)),
    ]
    made = step_adjustments(
        rows, V, given={3}, masks=Masks(np.array([0, 1, 3]), np.array([words_of([3], V)] * 3))
    )
    assert made is not None
    made.check(4, V)
    assert made.masks is not None
    assert made.masks.rows.tolist() == [0, 1]
    assert made.only_choices(V) == {0, 1}
    assert made.added is not None
    assert made.added.rows.tolist() == [1, 1]
    assert dict(zip(made.added.ids.tolist(), made.added.values.tolist(), strict=True)) == {3: 5.0, 60: -2.0}
    assert made.seen is not None
    assert made.seen.rows.tolist() == [2, 2]
    assert made.seen.values.tolist() == [0.0, 2.0]
    assert made.factors is not None
    assert made.factors.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 2], [0, 0, 1]]
