"""Errors tell a client nothing about the machine: no path, no address, no trace, whatever an engine says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from jinja2 import TemplateError

from entropick_server.engine.base import EngineDeadError, EngineError, ModelLoadError
from entropick_server.engine.templates.renderer import TemplateProcessError
from entropick_server.protocol.errors import from_engine
from entropick_server.redaction import redacted

ROOT = Path(__file__).parents[2]

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
SECRETS = (
    "/srv/models/secret/model.safetensors",
    "~/keys.txt",
    "C:\\Users\\me\\model",
    "../up/one",
    "0x7ffd00aa11bb",
    "10.20.30.40:5555",
    "[fe80::1ff:fe23:4567:890a]:80",
    "tcp://127.0.0.1:41234",
    "ipc:///tmp/socket",
    'Traceback (most recent call last):\n  File "/srv/app.py", line 3, in f\nValueError: inner',
    "native_decoder.py:61",
)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "the engine died: cannot use {}", "it ({}) broke", "'{}', again", "a={}"]
)
def test_redaction(secret: str, around: str) -> None:
    text = redacted(around.format(secret))
    for part in ("srv", "secret", "keys.txt", "Users", "up/one", "7ffd", "10.20", "fe80", "127.0", "tmp"):
        assert part not in text
    for part in ("Traceback", "inner", ".py", "://"):
        assert part not in text


@pytest.mark.parametrize(
    "text",
    [
        "the request ran out of memory after 12 tokens and/or time; n/a",
        "logits were NaN",
        "request id 'chatcmpl-1' is in use",
        "vLLM's engine died; the server's log says why",
        "version 2.11.0 needs 3.5 GB at 12:30",
        "temperature 0.7, top_p 1/2",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redacted(text) == text


def test_redaction_of_large_texts_is_short_and_quick() -> None:
    for unit in ("/", "/a", "a:", "0x", "1.", "::", "a/"):
        assert len(redacted(unit * 1_000_000)) <= 20_000


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("kind", [EngineError, EngineDeadError, ModelLoadError])
@pytest.mark.parametrize("route", [CHAT, "/v1/completions", "/v1/responses"])
async def test_what_an_engine_says(
    client: httpx.AsyncClient, engine: Any, kind: type[EngineError], begun: bool, stream: bool, route: str
) -> None:
    real = engine.generate

    async def generate(request: Any) -> Any:
        outputs = real(request)
        if begun:
            yield await anext(outputs)
        await outputs.aclose()
        raise kind("; ".join(SECRETS))

    engine.generate = generate
    asked = {CHAT: BODY, "/v1/completions": {"prompt": "Hi"}, "/v1/responses": {"input": "Hi"}}[route]
    answer = await client.post(route, json={**asked, "stream": stream})
    assert '"error"' in answer.text
    for hidden in ("/srv", "secret", "keys.txt", "7ffd", "10.20", "127.0.0.1", "fe80", "Traceback", ".py"):
        assert hidden not in answer.text
    if not begun:
        assert answer.status_code == (500 if kind is EngineError else 503)


def test_the_cause_of_a_dead_engine_stays_in_the_log() -> None:
    error = from_engine(EngineDeadError("the engine died: KeyError: 'the words of another caller'"))
    assert (error.status, error.message, error.code) == (503, "the engine died", "engine_stopped")


def test_a_model_that_was_not_loaded() -> None:
    error = from_engine(ModelLoadError("/srv/models/secret has no config.json"))
    assert (error.status, error.message) == (503, "The model could not be loaded.")


async def test_the_servers_own_failure(client: httpx.AsyncClient, engine: Any) -> None:
    def broken(_: Any) -> Any:
        raise OSError(2, "No such file or directory", "/srv/models/secret")

    engine.script = broken
    transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as lenient:
        answer = await lenient.post(CHAT, json=BODY)
    assert answer.status_code == 500
    assert json.loads(answer.text)["error"]["message"] == "Something went wrong in the server."


@pytest.mark.parametrize("kind", [TemplateProcessError, TypeError, ValueError, TemplateError])
async def test_what_a_chat_template_says(
    client: httpx.AsyncClient, engine: Any, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise kind("; ".join(SECRETS))

    monkeypatch.setattr(engine.tokenizer, "render_chat", broken)
    for route in (CHAT, "/tokenize"):
        answer = await client.post(route, json=BODY)
        assert answer.status_code == (503 if kind is TemplateProcessError else 400)
        for hidden in (
            "/srv",
            "secret",
            "keys.txt",
            "7ffd",
            "10.20",
            "127.0.0.1",
            "fe80",
            "Traceback",
            ".py",
        ):
            assert hidden not in answer.text


async def test_documents_name_no_folder(client: httpx.AsyncClient) -> None:
    """The model's folder is the operator's; what routes tell is its name."""
    app: Any = client.app  # type: ignore[attr-defined]
    for path in (
        "/v1/models",
        "/v1/policy",
        "/version",
        "/metrics",
        "/openapi.json",
        "/load",
        "/v1/requests",
    ):
        text = (await client.get(path)).text
        assert text
        for hidden in ("/home/", "/tmp/", "/srv/", str(ROOT), "site-packages", app.title + "_server/"):
            assert hidden not in text, path
