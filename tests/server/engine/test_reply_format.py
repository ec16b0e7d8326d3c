from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import entropick_pico
from entropick_server.engine.grammar.tags import TaggedText
from entropick_server.engine.reply_format.form import ReplyFormat
from entropick_server.engine.reply_format.parts import Call, Part, Text
from entropick_server.engine.reply_format.probe import reply_format

from .chat_templates import OPENED, STYLES, THINKING

PICO = Path(entropick_pico.__file__).parent / "model"
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}},
    {"type": "function", "function": {"name": "g", "parameters": {"properties": {}}}},
]
PROMPT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def pico_tokenizer(chat_template: str | None = None, response: Any = None) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(PICO)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
        tokenizer.response_template = response
    return tokenizer


@cache
def _pico() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(PICO)


def parts(
    form: ReplyFormat, reply: str, *, prompt: str = PROMPT, tools: Any = TOOLS, cuts: list[int] | None = None
) -> list[Part]:
    """The parts of a reply that comes in pieces; stretches of text are joined."""
    tokenizer = _pico()
    reading = form.calling if tools else form.plain
    assert reading is not None
    parser = form.parser(reading, tokenizer.encode(prompt, add_special_tokens=False), tools)
    found: list[Part] = []
    bounds = [0, *sorted(cuts or []), len(reply)]
    for begin, end in itertools.pairwise(bounds):
        found += parser.feed(reply[begin:end])
    found += parser.finish()
    joined: list[Part] = []
    for part in found:
        last = joined[-1] if joined else None
        if isinstance(part, Text) and isinstance(last, Text) and last.reasoning == part.reasoning:
            joined[-1] = Text(last.text + part.text, part.reasoning)
        else:
            joined.append(part)
    return joined


@pytest.fixture(scope="module")
def pico() -> ReplyFormat:
    return reply_format(pico_tokenizer())


@pytest.fixture(scope="module")
def thinking() -> ReplyFormat:
    return reply_format(pico_tokenizer(THINKING))


def test_the_shipped_model_brings_its_own_template(pico: ReplyFormat) -> None:
    assert pico.takes_tools
    assert pico.plain is None
    reply = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
    assert parts(pico, reply) == [Call("f", '{"x": 1}')]
    form = pico.call_form
    assert form is not None
    assert form.between == ""
    grammar = form.grammar({"f": {"type": "object"}}, several=True)
    text = TaggedText.parse(grammar.text)
    assert text.tags[0].begin == '<tool_call>{"name": "f", "arguments": '
    assert text.tags[0].end == "}</tool_call>"
    assert text.at_most > 1


@pytest.mark.parametrize("name", STYLES)
def test_a_model_without_template_is_known_by_what_its_chat_template_writes(name: str) -> None:
    style = STYLES[name]
    form = reply_format(pico_tokenizer(style.template))
    assert form.takes_tools
    expected = [Call("f", '{"x": 1}'), Call("g", "{}")]
    several = any(mark in style.calls for mark in ('"g"', "=g", "]g"))
    assert parts(form, style.calls) == expected[: 1 + several]
    assert (form.call_form is not None) == style.forced
    if form.call_form is not None:
        assert (form.call_form.between is not None) == style.several
        written = form.call_form.begin + "f" + form.call_form.middle + '{"x": 1}' + form.call_form.end
        assert parts(form, written) == [Call("f", '{"x": 1}')]
    assert form.id_length == (9 if name == "mistral" else None)


def test_a_turn_without_a_header_begins_behind_the_turn_before() -> None:
    form = reply_format(pico_tokenizer(STYLES["headless"].template))
    assert form.calling is not None
    assert form.calling.template.start_anchor_literals == ["[/INST]", "[/RESULT]"]
    call = STYLES["headless"].calls
    # the call of the history is no part of the reply
    prompt = f"[INST]Hi[/INST]{call}<|im_end|>[RESULT]3[/RESULT]"
    assert parts(form, "Done.", prompt=prompt) == [Text("Done.")]


def test_an_empty_thought_is_no_part_of_a_forced_call() -> None:
    thoughtless = STYLES["hermes"].template.replace(
        "{% for call in", "<think>\n\n</think>\n\n{% for call in", 1
    )
    form = reply_format(pico_tokenizer(thoughtless)).call_form
    assert form is not None
    assert form.begin == '<tool_call>\n{"name": "'
    assert form.between == "\n"


def test_a_model_without_a_chat_template() -> None:
    tokenizer = pico_tokenizer()
    tokenizer.chat_template = None
    assert not reply_format(tokenizer).takes_tools


def test_a_response_template_that_cannot_be_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    form = reply_format(pico_tokenizer(STYLES["hermes"].template, {"fields": 3}))
    assert "response_template cannot be used" in caplog.text
    assert parts(form, STYLES["hermes"].calls)[0] == Call("f", '{"x": 1}')


def test_text_around_calls(pico: ReplyFormat) -> None:
    call = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
    expected = [Text("One moment."), Call("f", '{"x": 1}'), Call("f", '{"x": 1}'), Text("Done.\n")]
    assert parts(pico, f"One moment.\n{call}\n{call}\n\nDone.\n") == expected


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f", "arguments": {"x": 1}',
        '{"name": 3, "arguments": {}}',
        '{"arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": "\\ud800"}}',
        "no JSON",
        "",
        "[" * 5000,
    ],
)
def test_a_malformed_call_is_text(pico: ReplyFormat, body: str) -> None:
    reply = f"See: <tool_call>{body}</tool_call> ok"
    assert parts(pico, reply) == [Text(reply)]


def test_a_call_that_is_cut_is_text(pico: ReplyFormat) -> None:
    reply = 'So <tool_call>{"name": "f", "arg'
    assert parts(pico, reply) == [Text(reply)]


def test_a_call_whose_end_mark_is_missing_still_counts(pico: ReplyFormat) -> None:
    assert parts(pico, '<tool_call>{"name": "g", "arguments": {}}') == [Call("g", "{}")]


def test_arguments_are_typed_by_the_schema() -> None:
    form = reply_format(pico_tokenizer(STYLES["xml"].template))
    [call] = parts(form, "<tool_call><function=f><parameter=x>007</parameter></function></tool_call>")
    assert isinstance(call, Call)
    assert json.loads(call.arguments) == {"x": 7}


def test_reasoning_is_apart(thinking: ReplyFormat) -> None:
    reply = "<think>\nHm.\n\nYes.\n</think>\n\nIt is 4.\n"
    expected = [Text("Hm.\n\nYes.", True), Text("It is 4.\n")]
    assert parts(thinking, reply, tools=[]) == expected
    assert parts(thinking, reply) == expected
    calls = STYLES["hermes"].calls
    assert parts(thinking, f"<think>\nA.\n</think>\n\n{calls}") == [
        Text("A.", True),
        Call("f", '{"x": 1}'),
        Call("g", "{}"),
    ]


def test_without_tools_a_call_is_text(thinking: ReplyFormat) -> None:
    calls = STYLES["hermes"].calls
    assert parts(thinking, calls, tools=[]) == [Text(calls)]


def test_reasoning_that_the_prompt_opened_or_closed(thinking: ReplyFormat) -> None:
    opened = reply_format(pico_tokenizer(OPENED))
    assert opened.calling is None
    found = parts(opened, "Hm.\n</think>\n\nFour.", prompt=PROMPT + "<think>\n", tools=[])
    assert found == [Text("Hm.", True), Text("Four.")]
    closed = PROMPT + "<think>\n\n</think>\n\n"
    assert parts(thinking, "Four.", prompt=closed, tools=[]) == [Text("Four.")]


def test_the_turn_begins_behind_the_last_mark(thinking: ReplyFormat) -> None:
    long = "word " * 2000
    prompt = f"<|im_start|>assistant\n<think>\n<|im_end|>\n<|im_start|>user\n{long}<|im_end|>\n{PROMPT}"
    assert parts(thinking, "Four.", prompt=prompt, tools=[]) == [Text("Four.")]
    # a last message that is to be continued lies far back
    assert parts(thinking, " 5</think>6", prompt=PROMPT + "<think>\n" + long, tools=[]) == [
        Text(" 5", True),
        Text("6"),
    ]


def test_where_reasoning_lies() -> None:
    form = reply_format(pico_tokenizer(THINKING))
    assert form.plain is not None
    parser = form.parser(form.plain, [], ())
    for character in "<think>ab</think>cd":
        parser.feed(character)
    parser.finish()
    reasons = [parser.reasons_at(n) for n in range(20)]
    assert reasons == [True] * 17 + [False] * 3
    cut = form.parser(form.plain, [], ())
    cut.feed("<think>ab")
    cut.finish()
    assert cut.has_reasoned
    assert [cut.reasons_at(n) for n in (0, 8, 9)] == [True] * 3


PIECES = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            '{"name": "f", "arguments": {"x": 1}}',
            '{"name": "g"}',
            " ",
            "\n",
            "text",
            "<",
            "</th",
            "ü",
        ]
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(PIECES, st.data())
def test_parts_do_not_depend_on_how_a_reply_was_cut(
    thinking: ReplyFormat, pieces: list[str], data: st.DataObject
) -> None:
    reply = "".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(reply)), max_size=8))
    whole = parts(thinking, reply)
    assert parts(thinking, reply, cuts=cuts) == whole
    assert parts(thinking, reply, cuts=list(range(len(reply)))) == whole
