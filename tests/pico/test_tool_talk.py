"""Roles and tools: the template writes what training sees, and a reply is parsed back into calls."""

import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from entropick_pico import grammar, tokenizer
from entropick_pico.evaluate import prompt
from entropick_pico.grammar import tools


@lru_cache
def build() -> Any:
    return tokenizer.build(samples=1500)


def structured(message: dict[str, str], as_text: bool) -> dict[str, Any]:
    """The message as a client of the API sends it: a call in ``tool_calls``."""
    content = message["content"]
    if not content.startswith(tools.CALL):
        return dict(message)
    function = json.loads(content.removeprefix(tools.CALL).removesuffix(tools.CALL_END))
    if as_text:
        function["arguments"] = json.dumps(function["arguments"])
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_training_sees_what_the_template_writes(system: str | None) -> None:
    tok, rng = build(), random.Random(2)
    encoder = tokenizer.Encoder(tok)
    called = 0
    for number in range(100):
        talk = grammar.conversation(rng, with_tools=0.7)
        plain = [message for example in talk for message in example.messages]
        sent = [structured(message, number % 2 == 0) for message in plain]
        called += any("tool_calls" in message for message in sent)
        if system is not None:
            sent = [{"role": "system", "content": system}, *sent]
        given = [dict(tool) for example in talk for tool in example.tools]
        text = tok.apply_chat_template(sent, tools=given or None, tokenize=False)
        assert encoder.encode_talk(talk, system).ids == encoder.ids(text)
    assert called > 40


def test_tools_are_written_as_signatures() -> None:
    add = {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"anyOf": []}}},
        },
    }
    bare = {"name": "now"}
    text = build().apply_chat_template([{"role": "user", "content": "Hi"}], tools=[add, bare], tokenize=False)
    assert text == (
        "<|im_start|>system\nTools:\nadd(a: integer, b: any) - Adds.\nnow()<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
    )


def test_a_reply_is_parsed_into_its_calls(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    tok: Any = tokenizer.load(tmp_path)
    encoder = tokenizer.Encoder(tok)
    rng = random.Random(4)
    for _ in range(30):
        first, *_ = grammar.tool_talk(rng, kind="call")
        before = prompt(tok, [first])
        given = [dict(tool) for tool in first.tools]
        reply = tok.parse_response(encoder.ids(first.assistant + tokenizer.END), prefix=before, tools=given)
        function = json.loads(first.assistant.removeprefix(tools.CALL).removesuffix(tools.CALL_END))
        assert reply == {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
        chosen = next(tool["function"] for tool in given if tool["function"]["name"] == function["name"])
        assert set(function["arguments"]) == set(chosen["parameters"]["properties"])
    two = first.assistant + first.assistant
    assert len(tok.parse_response(two, prefix=before, tools=given)["tool_calls"]) == 2
    said = tok.parse_response(encoder.ids("Hello there." + tokenizer.END), prefix=before)
    assert said == {"role": "assistant", "content": "Hello there."}


def test_a_streamed_call_is_parsed_piece_by_piece() -> None:
    first, *_ = grammar.tool_talk(random.Random(5), kind="call")
    parser = build().get_response_parser(prefix=prompt(build(), [first]))
    events = [event for char in first.assistant for event in parser.feed(char)]
    message, more = parser.finalize()
    closed = [event["value"] for event in events + more if event["type"] == "region_close"]
    assert closed == message["tool_calls"]
    assert not any(event["field"] == "content" for event in events + more)


def test_the_markers_of_a_call_are_tokens_that_a_client_sees() -> None:
    encoder = tokenizer.Encoder(build())
    for mark in (tools.CALL, tools.CALL_END):
        (token,) = encoder.ids(mark)
        assert build().decode([token], skip_special_tokens=True) == mark


def test_an_answer_comes_from_the_result() -> None:
    rng = random.Random(6)
    for _ in range(60):
        call, report, *more = grammar.tool_talk(rng, kind="call")
        assert (call.kind, report.kind, report.role) == ("call", "report", "tool")
        assert len(more) in (0, 2)
        (value,) = json.loads(report.user).values()
        assert report.assistant == {True: "It is done.", False: "That failed."}.get(
            value if isinstance(value, bool) else "", report.assistant
        )
        assert isinstance(value, bool) or str(value) in report.assistant


def test_a_question_without_a_tool_is_refused_and_no_tool_offered_fits() -> None:
    rng = random.Random(7)
    for _ in range(60):
        (example,) = grammar.tool_talk(rng, kind="no_tool")
        assert example.assistant == tools.NO_TOOL
        (wanted,) = [need for need in tools.NEEDS if (example.key or "").startswith(f"tool {need.names[0]} ")]
        assert not any(tool["function"]["name"] in wanted.names for tool in example.tools)


def test_held_out_inputs_are_kept_from_training() -> None:
    rng = random.Random(8)
    trained = {grammar.tool_talk(rng, "train")[0].key for _ in range(300)}
    checked = {grammar.tool_talk(rng, "check")[0].key for _ in range(60)}
    assert trained.isdisjoint(checked)
    assert all(key is not None and grammar.held_out(key) for key in checked)


def test_json_replies_have_the_form_that_was_asked_for() -> None:
    rng = random.Random(9)
    for kind in ("json_fields", "json_free"):
        for _ in range(100):
            example = grammar.sample(rng, kind)
            form = example.user[example.user.index("{") : example.user.rindex("}") + 1]
            kinds = json.loads(form.replace(": string", ': "str"').replace(": integer", ': "int"'))
            values = json.loads(example.assistant)
            assert {key: type(value).__name__ for key, value in values.items()} == kinds
