"""Chat templates in a process of their own: transformers' texts, and limits that end a rendering."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from entropick_pico import model_path
from entropick_server.chat_template import ChatTemplate, ChatTemplateError
from entropick_server.engine.reply_format.probe import reply_format
from entropick_server.engine.source import read_source
from entropick_server.engine.templates.renderer import (
    TemplateLimitError,
    TemplateProcessError,
    TemplateRenderer,
)
from entropick_server.engine.tokenizer import FastTokenizer
from entropick_server.engine.types import EngineOptions

from .chat_templates import NO_TOOLS, OPENED, STYLES, THINKING

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello 日本 \U0001f600"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "é", "parameters": {"type": "object"}}}
CALL = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"x": ["ü", 1.5]}}}
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ODD = (
    "{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{% generation %}{% set x = 1 %}"
    "{{ m.content | tojson(indent=1) }}{% endgeneration %}{{ x is defined }}{% endfor %}{{ bos_token }}"
    "{{ documents is none }}{{ strftime_now('%Y') }}\n   {% if tools %}\n{{ tools | tojson }}{% endif %}\n"
)


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    made = TemplateRenderer(60.0)
    yield made
    made.close()


@pytest.fixture
def hasty() -> Iterator[TemplateRenderer]:
    made = TemplateRenderer(0.5)
    yield made
    made.close()


def outcome(render: Any, *arguments: Any, **options: Any) -> str:
    try:
        return str(render(*arguments, **options))
    except (ValueError, TypeError) as error:
        return f"refused: {error}"


@pytest.mark.parametrize("name", [*STYLES, "thinking", "opened", "no tools", "odd", "pico"])
def test_the_texts_are_those_of_transformers(renderer: TemplateRenderer, name: str) -> None:
    backend = AutoTokenizer.from_pretrained(model_path())
    others = {"thinking": THINKING, "opened": OPENED, "no tools": NO_TOOLS, "odd": ODD, "pico": None}
    template = others[name] if name in others else STYLES[name].template
    theirs, ours = FastTokenizer(backend, template), FastTokenizer(backend, template, renderer)
    calls = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    conversations = [
        HELLO,
        [{"role": "system", "content": " Be brief. "}, *HELLO, {"role": "assistant", "content": "so I "}],
        [*HELLO, calls, {"role": "tool", "content": "5", "tool_call_id": "call00001"}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}]}],
    ]
    for turns in conversations:
        for tools in ([], [TOOL]):
            for more in ({"add_generation_prompt": True}, {"add_generation_prompt": False}):
                options: dict[str, Any] = {"tools": tools, "template_options": {"enable_thinking": False}}
                wanted = outcome(theirs.render_chat, turns, **options, **more)
                if not wanted.startswith("refused") or "refuses these messages" in wanted:
                    assert outcome(ours.render_chat, turns, **options, **more) == wanted
            more = {"add_generation_prompt": False, "continue_final_message": True}
            wanted = outcome(theirs.render_chat, turns, tools=tools, **more)
            found = outcome(ours.render_chat, turns, tools=tools, **more)
            assert found == wanted or (found.startswith("refused") and wanted.startswith("refused"))
    assert ours.reply_format.call_form == reply_format(theirs._tokenizer).call_form


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (ENDLESS, r"takes longer than 0.5 seconds \(chat_template_seconds\)"),
        ("{{ 'x' * 3000000000 }}", "needs more than 1024 MiB of memory"),
        ("{{ ('x' * 400000000) ~ ('y' * 400000000) }}", "needs more than 1024 MiB of memory"),
        ("{{ 'x' * 20000000 }}", "makes more than 167.* characters of text"),
    ],
)
def test_a_template_beyond_a_limit(hasty: TemplateRenderer, template: str, reason: str) -> None:
    made = hasty if template == ENDLESS else TemplateRenderer(60.0)
    with pytest.raises(TemplateLimitError, match=f"the chat template {reason}, on these messages"):
        made.render(template, HELLO, variables={})
    assert made.render("{{ messages | length }}", HELLO, variables={}) == "1"
    made.close()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1 / 0 }}", "fails on these messages: ZeroDivisionError: division by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails on these messages: RecursionError"),
        ("{{ raise_exception('no') }}", "refuses these messages: no"),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages: access to attribute"),
        ("{% for %}", "refuses these messages: Expected an expression"),
        ("{{ range(10000000) | list }}", "OverflowError"),
        ("{{ '\\ud800' }}{{ messages[0].nothing.more }}", "refuses these messages: 'dict object' has no"),
    ],
)
def test_a_template_that_fails(renderer: TemplateRenderer, template: str, reason: str) -> None:
    before = renderer.render("ok", HELLO, variables={}), renderer.process_id
    with pytest.raises(ValueError, match=reason):
        renderer.render(template, HELLO, variables={})
    assert (renderer.render("ok", HELLO, variables={}), renderer.process_id) == before


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    """True as soon as a process is not there, not even as a zombie that its parent forgot."""
    for _ in range(400):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


def test_a_process_that_was_killed_is_replaced(renderer: TemplateRenderer) -> None:
    renderer.render("ok", HELLO, variables={})
    first = renderer.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    while alive(first):
        time.sleep(0.01)
    assert renderer.render("ok", HELLO, variables={}) == "ok"
    assert renderer.process_id != first
    assert gone(first)


def test_the_process_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    for name in ("ENTROPICK_API_KEY", "entropick_api_key", "HF_TOKEN", "OPENAI_API_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, "secret-5f1c")
    made = TemplateRenderer(60.0)
    assert made.render("ok", HELLO, variables={}) == "ok"
    given = Path(f"/proc/{made.process_id}/environ").read_bytes()
    made.close()
    assert b"secret-5f1c" not in given
    assert b"TZ=Asia/Tokyo" in given


def test_closing_ends_a_rendering() -> None:
    made = TemplateRenderer(60.0)
    made.render("ok", HELLO, variables={})
    pid, errors = made.process_id, []
    assert pid is not None

    def render() -> None:
        try:
            made.render(ENDLESS, HELLO, variables={})
        except TemplateProcessError as error:
            errors.append(str(error))

    thread = threading.Thread(target=render)
    thread.start()
    while not made._turn.locked():
        time.sleep(0.01)
    made.close()
    thread.join(30)
    assert errors == ["the process that renders chat templates was ended"]
    assert gone(pid)
    with pytest.raises(TemplateProcessError, match="was ended"):
        made.render("ok", HELLO, variables={})


def test_nothing_is_left_of_a_server_that_was_killed() -> None:
    """Not even where the template never ends."""
    code = (
        "from entropick_server.engine.templates.renderer import TemplateRenderer\n"
        f"made = TemplateRenderer(1.0)\nmade.render('ok', [], variables={{}})\n"
        f"print(made.process_id, flush=True)\nmade.render({ENDLESS!r}, [], variables={{}})"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    child = int(server.stdout.readline())
    server.kill()
    server.communicate()
    for _ in range(400):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(TemplateProcessError, match="cannot be started"):
        TemplateRenderer(1.0).render("ok", HELLO, variables={})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TemplateProcessError, match="does not start"):
        TemplateRenderer(1.0).render("ok", HELLO, variables={})


def test_a_model_whose_template_never_ends_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its chats fail, each within the limit; nothing else does."""
    file = tmp_path / "chat.jinja"
    file.write_text(ENDLESS)
    options = EngineOptions(str(model_path()), chat_template=str(file), chat_template_seconds=0.5)
    tokenizer = read_source(options).tokenizer
    assert "chats will fail: the chat template takes longer than 0.5 seconds" in caplog.text
    assert not tokenizer.reply_format.takes_tools
    with pytest.raises(ChatTemplateError, match=r"^the chat template takes longer than 0.5 seconds"):
        ChatTemplate(tokenizer).prompt(HELLO)
    tokenizer.close()


async def test_a_conversation_that_a_template_cannot_end(
    client: httpx.AsyncClient, engine: Any, hasty: TemplateRenderer
) -> None:
    template = "{% if messages | length > 1 %}" + ENDLESS + "{% endif %}{{ messages[0].content }}"
    backend = AutoTokenizer.from_pretrained(model_path())
    engine.tokenizer.render_chat = FastTokenizer(backend, template, hasty).render_chat
    for _ in range(2):
        answer = await client.post("/v1/chat/completions", json={"messages": HELLO * 2})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["type"]) == (
            400,
            "messages",
            "invalid_request_error",
        )
        assert error["message"].startswith("messages: the chat template takes longer than 0.5 seconds")
        answer = await client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 1})
        assert answer.status_code == 200, answer.text
    hasty.close()
    answer = await client.post("/v1/chat/completions", json={"messages": HELLO})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "chat_template_process")
