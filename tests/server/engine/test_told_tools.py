"""Tools that are told as text, to models whose chat template has no place for them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

import entropick_pico
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.reply_format.form import ReplyFormat
from entropick_server.engine.reply_format.parts import Call, Part, Text
from entropick_server.engine.reply_format.probe import reply_format
from entropick_server.engine.tokenizer import FastTokenizer
from entropick_server.engine.types import EngineOptions
from entropick_server.prompts import PromptEncoder
from entropick_server.protocol.requests import ChatRequest
from entropick_server.vocabulary import Vocabulary

from ..conftest import Serve
from .chat_templates import NO_TOOLS

PICO = Path(entropick_pico.__file__).parent / "model"
STRICT = """\
{%- if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif -%}
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif -%}
{%- if m.role not in ('user', 'assistant') %}{{ raise_exception('no such role') }}{% endif -%}
<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>model
{% endif -%}"""
"""as Gemma's: no system, and turns that alternate"""
BARE = "{% for m in messages %}{{ m.content }}{% endfor %}"
DROPPING = NO_TOOLS.replace("in messages", "in messages if message.role != 'system'")
HEADLESS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}<|im_end|>"
    "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"
)
AGE = {
    "type": "function",
    "function": {
        "name": "get_age",
        "description": "Alter für {name}",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
TOLD = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "get_age", "description": "Alter für {name}", "parameters": \
{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}}}
{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
HI = {"role": "user", "content": "Hi"}
CALLED = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "get_age", "arguments": '{"name":"Zoë"}'}},
        {"id": "b", "type": "function", "function": {"name": "now", "arguments": ""}},
    ],
}
RESULTS = [
    {"role": "tool", "tool_call_id": "a", "content": '{"age": 31}'},
    {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "12:00"}]},
]
CALLS_TEXT = """\
<tool_call>
{"name": "get_age", "arguments": {"name": "Zoë"}}
</tool_call>
<tool_call>
{"name": "now", "arguments": {}}
</tool_call>"""
RESULTS_TEXT = """\
<tool_response>
{"age": 31}
</tool_response>
<tool_response>
12:00
</tool_response>"""


def tokenizer(template: str, response: Any = None) -> FastTokenizer:
    made = AutoTokenizer.from_pretrained(PICO)
    made.response_template = response
    return FastTokenizer(made, template)


def prompt(template: str, messages: list[Any], tools: Any = (AGE, NOW)) -> str:
    made = tokenizer(template)
    body = ChatRequest.model_validate({"messages": messages, "tools": list(tools)})
    encoder = PromptEncoder(made, Vocabulary(made, made.size), 10_000)
    ids = encoder.conversation(body.messages, tools=[tool.definition for tool in body.offered])
    return made.decode(ids, skip_special_tokens=False)


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def parts(form: ReplyFormat, before: list[int], reply: str) -> list[Part]:
    assert form.calling is not None
    parser = form.parser(form.calling, before, [AGE, NOW])
    return [*parser.feed(reply), *parser.finish()]


OPENED = "<|im_start|>assistant\n"


def test_tools_have_a_system_message_of_their_own() -> None:
    assert prompt(NO_TOOLS, [HI]) == turn("system", TOLD) + turn("user", "Hi") + OPENED


@pytest.mark.parametrize("content", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
@pytest.mark.parametrize("role", ["system", "developer"])
def test_tools_stand_behind_the_text_of_the_system(content: Any, role: str) -> None:
    told = prompt(NO_TOOLS, [{"role": role, "content": content}, HI])
    assert told == turn("system", f"Be brief.\n\n{TOLD}") + turn("user", "Hi") + OPENED


def test_calls_and_results_of_the_history_are_text() -> None:
    expected = turn("assistant", f"Let me see.\n{CALLS_TEXT}") + turn("user", RESULTS_TEXT) + OPENED
    history = [HI, CALLED, *RESULTS]
    assert prompt(NO_TOOLS, history) == turn("system", TOLD) + turn("user", "Hi") + expected
    # without tools, the history stays
    assert prompt(NO_TOOLS, history, tools=()) == turn("user", "Hi") + expected
    silent = {**CALLED, "content": None}
    assert turn("assistant", CALLS_TEXT) in prompt(NO_TOOLS, [HI, silent, *RESULTS])


def test_what_the_user_adds_to_results_is_of_the_same_turn() -> None:
    said = {"role": "user", "content": "And Ben?"}
    told = prompt(NO_TOOLS, [HI, HI, CALLED, *RESULTS, said, HI])
    assert turn("user", f"{RESULTS_TEXT}\nAnd Ben?") + turn("user", "Hi") + OPENED in told
    assert turn("user", "Hi") + turn("user", "Hi") in told


def test_a_template_without_a_system_has_them_before_the_first_user() -> None:
    history = [HI, CALLED, *RESULTS, {"role": "user", "content": "And Ben?"}]
    told = prompt(STRICT, history)
    assert told.startswith(turn("user", f"{TOLD}\n\nHi") + turn("model", f"Let me see.\n{CALLS_TEXT}"))
    assert told.endswith(turn("user", f"{RESULTS_TEXT}\nAnd Ben?") + "<|im_start|>model\n")
    dropped = prompt(DROPPING, [{"role": "system", "content": "Be brief."}, HI])
    assert dropped == turn("user", f"{TOLD}\n\nHi") + OPENED


@pytest.mark.parametrize("template", [NO_TOOLS, STRICT, DROPPING, HEADLESS, BARE])
def test_replies_are_read_as_told(template: str) -> None:
    form = tokenizer(template).reply_format
    assert form.takes_tools
    assert form.plain is None
    assert form.telling is not None
    assert form.telling.in_system == (template in (NO_TOOLS, HEADLESS, BARE))
    made = tokenizer(template)
    before = made.encode(prompt(template, [HI, CALLED, *RESULTS]), add_special_tokens=False)
    expected = [Text("So."), Call("get_age", '{"name": "Zoë"}'), Call("now", "{}")]
    assert parts(form, before, f"So.\n{CALLS_TEXT}") == expected
    assert form.call_form is not None
    begin, end, between = form.call_form.begin, form.call_form.end, form.call_form.between
    written = f"{begin}now{form.call_form.middle}{{}}{end}"
    assert f"{written}{between}{written}".count(CALLS_TEXT.partition("</tool_call>\n")[2]) == 2
    assert parts(form, before, f"{written}{between}{written}") == [Call("now", "{}")] * 2


def test_reasoning_is_read_beside_told_calls() -> None:
    thinking = NO_TOOLS.replace("<|im_end|>", "{% if message.think %}</think>{% endif %}<|im_end|>", 1)
    form = tokenizer(thinking).reply_format
    assert parts(form, [], f"<think>Hm.</think>{CALLS_TEXT}") == [
        Text("Hm.", True),
        Call("get_age", '{"name": "Zoë"}'),
        Call("now", "{}"),
    ]


def test_calls_of_a_template_of_its_own_are_read_as_told() -> None:
    own = {
        "start_anchor": OPENED,
        "fields": {
            "content": {"content": "text"},
            "thinking": {"open": "[think]", "close": "[/think]", "content": "text"},
            "tool_calls": {"open": "[call]", "close": "[/call]", "content": "json"},
        },
    }
    form = tokenizer(NO_TOOLS, own).reply_format
    assert parts(form, [], f"[think]Hm.[/think]{CALLS_TEXT}") == [
        Text("Hm.", True),
        Call("get_age", '{"name": "Zoë"}'),
        Call("now", "{}"),
    ]


@pytest.mark.parametrize("template", ["{{ messages | length }}", "{{ raise_exception('no') }}"])
def test_a_template_that_shows_no_tools_at_all(template: str) -> None:
    made = AutoTokenizer.from_pretrained(PICO)
    made.chat_template, made.response_template = template, None
    form = reply_format(made)
    assert not form.takes_tools
    assert form.telling is None
    assert form.call_form is None


async def test_forced_calls_of_a_model_that_is_told(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(NO_TOOLS)
    options = EngineOptions(
        model=str(PICO),
        device="cpu",
        threads=1,
        max_num_seqs=4,
        decoder="torch",
        kernels="torch",
        chat_template=str(file),
    )
    caplog.set_level("INFO")
    async with serve(EmbeddedEngine(options, profile_cache=tmp_path), wait=False) as client:
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.05)
        assert caplog.text.count("tools are told as text in the system message") == 1
        for seed in range(4):
            await _calls(client, seed, {"type": "function", "function": {"name": "pick"}})
            await _calls(client, seed, "required")


async def _calls(client: httpx.AsyncClient, seed: int, choice: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"place": {"enum": ["beach", "park"]}, "days": {"type": "integer", "maximum": 7}},
        "required": ["place", "days"],
    }
    pick = {"type": "function", "function": {"name": "pick", "parameters": schema}}
    body = {
        "messages": [{"role": "user", "content": "hello!"}, CALLED, *RESULTS],
        "tools": [pick, NOW],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 1,
        "seed": seed,
        "max_tokens": 120,
    }
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    [told] = answer.json()["choices"]
    assert told["finish_reason"] == "tool_calls"
    assert told["message"]["content"] is None
    [call] = told["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    if choice != "required":
        assert call["function"]["name"] == "pick"
    if call["function"]["name"] == "pick":
        assert arguments.keys() == {"place", "days"}
        assert arguments["place"] in ("beach", "park")
        assert arguments["days"] <= 7
    else:
        assert arguments == {}
