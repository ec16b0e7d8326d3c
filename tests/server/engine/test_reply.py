"""What a reply is, on every engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_sampler.params import PolicyConfig
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.reply import (
    MAX_CHOICES,
    ClarifyingText,
    Reply,
    check_request,
    philox_stream,
    step_columns,
    unfinished_character,
)
from entropick_server.engine.types import EngineOptions, FinishReason, ModelInfo, Request

Make = Callable[..., Request]
CLARIFIES = PolicyConfig(preset="seed")


class Letters:
    """A tokenizer whose token 0 is the first byte of a character of two."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token_id: int) -> bytes | None:
        return b"\xc3" if token_id == 0 else bytes([token_id])


LETTERS: Any = Letters()


@pytest.fixture(scope="module")
def info(model_folder: Callable[[str], Any]) -> ModelInfo:
    options = EngineOptions(str(model_folder("llama")), device="cpu", threads=1)
    return replace(load_model(options).info, max_model_len=10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ()}, "empty"),
        ({"prompt": (1,) * 10}, "context holds 10"),
        ({"prompt": (1, 300)}, "prompt token ids must be 0 to 299"),
        ({"forced": (-1,)}, "replayed token ids"),
        ({"max_tokens": -1}, "max_tokens must be at least 1"),
        ({"seed": 1 << 63}, "64 bits"),
        ({"policy": PolicyConfig(preset="calibrated")}, "profile"),
        ({"policy": PolicyConfig(preset="seed", overrides={"nonsense": 1.0})}, "nonsense"),
    ],
)
def test_requests_that_cannot_run(
    changes: dict[str, Any], message: str, info: ModelInfo, make_request: Make
) -> None:
    check_request(make_request(), info, None)
    with pytest.raises(ValueError, match=message):
        check_request(make_request(**changes), info, None)


def test_a_choice_beyond_the_philox_stream_is_refused(info: ModelInfo, make_request: Make) -> None:
    check_request(replace(make_request(), choice=MAX_CHOICES - 1), info, None)
    with pytest.raises(ValueError, match="choice must be"):
        check_request(replace(make_request(), choice=MAX_CHOICES), info, None)


def test_an_engine_that_measures_nothing_refuses_the_policy(info: ModelInfo, make_request: Make) -> None:
    check_request(make_request(), info, None, measures=False)
    with pytest.raises(ValueError, match="policy must be 'fixed'"):
        check_request(make_request(policy=CLARIFIES), info, None, measures=False)


def test_streams_of_branches_differ() -> None:
    streams = {philox_stream(choice, branch) for choice in range(4) for branch in range(64)}
    assert len(streams) == 256
    assert philox_stream(0, 0) == 0


def test_a_clarifying_text_begins_and_goes_on(make_request: Make) -> None:
    reply = Reply.begin(make_request((1,), policy=CLARIFIES, max_tokens=50), 100)
    text = ClarifyingText((1, 2, 3), (9, 1, 2, 3))
    assert reply.clarifying_text(text) == (1, 2, 3)
    reply.rollout_end = 4
    assert reply.clarifying_text(text) == (), "none begins in a rollout"
    reply.rollout_end = 0
    assert reply.take(7, LETTERS) is None
    later = reply.clarifying_text(text)
    assert later == (9, 1, 2, 3)
    assert reply.since_clarify is None
    reply.take(9, LETTERS, later)
    assert (list(reply.pending), reply.clarify_used, reply.since_clarify) == ([1, 2, 3], 1, 0)
    branch = reply.copy()
    for token in (1, 2, 3):
        assert reply.pending[0] == token
        reply.take(token, LETTERS)
    assert (list(reply.pending), reply.clarify_used, reply.since_clarify) == ([], 1, 3)
    assert list(branch.pending) == [1, 2, 3], "a copy goes its own way"
    columns, texts = step_columns([reply, branch], text)
    assert texts == [text.later, text.later]
    assert columns.data.tolist() == [[5, -1, 9, 0, 1, 3, 0, 0], [2, 1, 9, 0, 1, 0, 0, 0]]


def test_the_surprisal_of_a_reply_is_summed_where_it_is_known(make_request: Make) -> None:
    reply = Reply.begin(make_request((1,), max_tokens=50), 100)
    for surprisal in (0.5, None, 2.25):
        reply.take(7, LETTERS, surprisal=surprisal)
    branch = reply.copy()
    branch.take(7, LETTERS, surprisal=1.0)
    columns, _ = step_columns([reply, branch], ClarifyingText())
    assert columns.memory.tokens.tolist() == [2, 3]
    assert columns.memory.surprisal.tolist() == [2.75, 3.75]
    assert [row[0] for row in columns.data.tolist()] == [3, 4]


def test_a_reply_that_repeats_itself_says_so(make_request: Make) -> None:
    reply = Reply.begin(make_request((1,), max_tokens=50), 100)
    for token in (4, 5, 6, 4, 5):
        reply.take(token, LETTERS)
    branch = reply.copy()
    branch.take(6, LETTERS)
    reply.take(9, LETTERS)
    columns, _ = step_columns([reply, branch], ClarifyingText())
    assert columns.data[:, 3].tolist() == [0, 3]


def test_no_clarifying_text_inside_a_character_nor_under_fixed(make_request: Make) -> None:
    text = ClarifyingText((1,), (2,))
    reply = Reply.begin(make_request(policy=CLARIFIES), 100)
    reply.take(0, LETTERS)
    assert reply.unfinished == b"\xc3"
    assert reply.clarifying_text(text) == ()
    reply.take(0xA9, LETTERS)
    assert reply.clarifying_text(text) == (2,)
    assert Reply.begin(make_request(), 100).clarifying_text(text) == ()
    replayed = Reply.begin(make_request(policy=CLARIFIES, forced=(4, 5)), 100)
    assert replayed.clarifying_text(text) == ()


@pytest.mark.parametrize(
    ("sampling", "tokens", "reason"),
    [
        ({"max_tokens": 2}, [7, 7], FinishReason.LENGTH),
        ({"max_tokens": 9, "stop_token_ids": (5,)}, [7, 5], FinishReason.STOP),
        ({"max_tokens": 1, "stop_token_ids": (7,)}, [7], FinishReason.STOP),
        ({"max_tokens": 99}, [7] * 7, FinishReason.LENGTH),
        ({"max_tokens": 1, "forced": (4, 5, 6), "stop_token_ids": (5,)}, [4, 5, 6], FinishReason.LENGTH),
        ({"forced": (4,) * 20}, [4] * 7, FinishReason.LENGTH),
    ],
)
def test_why_a_reply_ends(
    sampling: dict[str, Any], tokens: list[int], reason: FinishReason, make_request: Make
) -> None:
    reply = Reply.begin(make_request((1, 2, 3), **sampling), max_model_len=10)
    assert [reply.take(t, LETTERS) for t in tokens] == [None] * (len(tokens) - 1) + [reason]


@given(
    data=st.lists(st.sampled_from([0, 0xA9, *b"ab"]), min_size=1, max_size=12),
    texts=st.lists(st.sampled_from(["a", "ab", "aab", "é", "éb"]), min_size=1, max_size=3),
    before=st.sampled_from([b"", b"a", b"aa"]),
)
def test_a_rollout_ends_with_the_token_that_completes_a_text(
    data: list[int], texts: list[str], before: bytes
) -> None:
    """Texts span tokens, characters too; what was said before the rollout does not count."""
    ends = tuple(text.encode() for text in texts)
    reply = Reply()
    for byte in before:
        reply.take(byte, LETTERS)
    reply.begin_rollout(10, ends)
    branch = reply.copy()
    text, over = b"", False
    for count, byte in enumerate(data, 1):
        branch.take(byte, LETTERS)
        text += LETTERS.token_bytes(byte)
        over = over or count == 10 or any(end in text for end in ends)
        assert branch.rolled_out == over
        if over:
            break
    assert not reply.rolled_out
    branch.end_rollout()
    assert (branch.rollout_end, branch.rollout_texts, branch.rollout_tail) == (0, (), b"")


def test_unfinished_characters() -> None:
    whole = "aé€🙂".encode()
    for cut in range(len(whole) + 1):
        left = unfinished_character(whole[:cut])
        assert whole[: cut - len(left)].decode().encode() == whole[: cut - len(left)]
        assert len(left) < 4
    assert unfinished_character(b"\x80\x80\x80") == b""


def test_the_text_behind_other_tokens_begins_with_a_space() -> None:
    text = ClarifyingText.of("  Which? ", LETTERS)
    assert (bytes(text.first), bytes(text.later)) == (b"Which?", b" Which?")
    assert ClarifyingText.of("  ", LETTERS) == ClarifyingText()
