"""One line for every HTTP request, whatever its end; nothing of a client's text in it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_server.logs.formats import FIELDS, JsonFormatter, TextFormatter

from ..support import Client, until

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "a prompt that is nobody's business"}]}
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Returns a function that returns the fields of the request lines so far, and forgets them."""
    caplog.set_level(logging.INFO)

    def taken() -> list[dict[str, Any]]:
        records = [r for r in caplog.records if r.name == "entropick_server.logs.requests"]
        for record in caplog.records:
            for formatter in (TextFormatter(traces=False), JsonFormatter(traces=False)):
                line = formatter.format(record)
                assert line.isprintable()
                assert "nobody" not in line
        caplog.clear()
        return [getattr(record, FIELDS) | {"level": record.levelno} for record in records]

    return taken


async def test_a_generation(client: httpx.AsyncClient, lines: Lines, engine: Any) -> None:
    for stream in (False, True):
        headers = {"X-Request-Id": "mine"}
        await client.post(CHAT, json={**BODY, "n": 2, "stream": stream}, headers=headers)
        (line,) = lines()
        assert line.pop("seconds") > 0
        tokens = len(engine.text.encode()) + 1
        assert line == {
            "level": logging.INFO,
            "method": "POST",
            "route": CHAT,
            "status": 200,
            "request_id": "mine",
            "client": "127.0.0.1",
            "prompt_tokens": len(engine.requests[-1].prompt_token_ids),
            "completion_tokens": 2 * tokens,
            "finish_reasons": {"stop": 2},
        }


@pytest.mark.parametrize(
    ("method", "path", "status", "route", "code"),
    [
        ("GET", "/v1/models", 200, "/v1/models", None),
        ("GET", "/v1/models/no-such-model", 404, "/v1/models/{model_id:path}", "model_not_found"),
        ("GET", "/secret-path?token=s3cret", 404, "none", "route_not_found"),
        ("POST", "/v1/embeddings", 404, "none", "route_not_served"),
        ("DELETE", CHAT, 405, CHAT, "method_not_allowed"),
        ("POST", CHAT, 415, CHAT, "unsupported_media_type"),
        ("BREW%0aFAKE" * 10, "/health", 405, "/health", "method_not_allowed"),
    ],
)
async def test_other_ends(
    client: httpx.AsyncClient, lines: Lines, method: str, path: str, status: int, route: str, code: str | None
) -> None:
    await client.request(method, path, headers={"X-Request-Id": "bad id\n\x1b[31m"})
    (line,) = lines()
    assert (line["status"], line["route"], line.get("code")) == (status, route, code)
    assert len(line["method"]) <= 16
    assert line["request_id"].startswith("req-")
    assert "s3cret" not in str(line)
    assert "finish_reasons" not in line


async def test_names_of_keys_never_keys(engine: Any, serve: Any, lines: Lines, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice: alice-0123456789\n")
    path.chmod(0o600)
    async with serve(engine, api_key_file=path) as client:
        for key, status in (("alice-0123456789", 200), ("wrong-0123456789", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert (await client.get("/v1/models", headers=headers)).status_code == status
    right, wrong = lines()
    assert (right["key"], right["status"]) == ("alice", 200)
    assert (wrong["status"], wrong["code"], wrong["route"]) == (401, "invalid_api_key", "/v1/models")
    assert "key" not in wrong
    assert "0123456789" not in f"{right}{wrong}"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away(
    client: httpx.AsyncClient, lines: Lines, engine: Any, stream: bool
) -> None:
    engine.delay = 0.02
    bare = Client(client.app, {**BODY, "stream": stream})  # type: ignore[attr-defined]
    await (bare.arrived.wait() if stream else until(lambda: engine.running))
    bare.gone.set()
    await asyncio.wait_for(bare.task, 20)
    (line,) = lines()
    assert line["status"] == (200 if stream else 499)
    assert line["finish_reasons"] == {"cancelled": 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_of_the_model(
    client: httpx.AsyncClient, lines: Lines, engine: Any, stream: bool
) -> None:
    engine.fail_after = 3
    await client.post(CHAT, json={**BODY, "stream": stream})
    (line,) = lines()
    assert line["finish_reasons"] == {"error": 1}
    assert line["completion_tokens"] == 3
    assert line["status"] == (200 if stream else 500)
    assert line["level"] == (logging.INFO if stream else logging.ERROR)


async def test_a_failure_of_the_server(client: httpx.AsyncClient, lines: Lines, engine: Any) -> None:
    engine.script = lambda request: 1 // 0
    with pytest.raises(ZeroDivisionError):
        await client.post(CHAT, json=BODY)
    (line,) = lines()
    assert (line["status"], line["level"]) == (500, logging.ERROR)


def test_the_lines_are_json() -> None:
    made = logging.LogRecord("n", logging.INFO, "f", 1, "POST %s", ("\n\x1b",), None)
    assert json.loads(JsonFormatter(traces=False).format(made))["message"] == "POST \n\x1b"
