"""Clients that go away or do not read, and how the pieces of a stream come together."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from .support import Client, until

BODY = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompts", [1, 3])
async def test_a_client_that_leaves_cancels_at_once(
    engine: Any, serve: Any, stream: bool, prompts: int
) -> None:
    async with serve(engine) as client:
        engine.delay = 0.02
        began: list[str] = []
        engine.subscribe(lambda report: began.extend(name for name, _ in report.queued_seconds))
        body = {"prompt": ["Hello"] * prompts, "stream": stream}
        gone = Client(client.app, body, "/v1/completions")
        await until(lambda: len(began) == prompts and (gone.arrived.is_set() or not stream))
        gone.gone.set()
        await asyncio.wait_for(gone.task, 1)
        assert engine.running == {}
        assert len(engine.closed) == prompts
        newest = client.app.state.server.recent.newest()
        assert {finished.head()["finish_reason"] for finished in newest} == {"cancelled"}
        assert client.app.state.server.in_flight == 0
        engine.delay = 0
        assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200


async def test_a_client_that_leaves_before_the_first_token(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.delay = 30
        gone = Client(client.app, {**BODY, "stream": True})
        await until(lambda: engine.running)
        gone.gone.set()
        await asyncio.wait_for(gone.task, 1)
        assert engine.running == {}
        assert gone.messages == []


async def test_many_clients_leave(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.delay = 0.05
        leaving = [Client(client.app, {**BODY, "stream": n % 2 == 0}) for n in range(60)]
        await until(lambda: len(engine.running) == 60)
        for one in leaving:
            one.gone.set()
        await asyncio.wait_for(asyncio.gather(*(one.task for one in leaving)), 3)
        assert engine.running == {}
        engine.delay = 0
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200


async def test_headers_come_even_if_the_first_token_takes_long(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.delay = 30
        waiting = Client(client.app, {**BODY, "stream": True})
        await until(lambda: waiting.messages)
        assert waiting.messages[0]["status"] == 200
        waiting.gone.set()
        await asyncio.wait_for(waiting.task, 1)


async def test_a_client_that_does_not_read_is_dropped(engine: Any, serve: Any) -> None:
    async with serve(engine, write_timeout_seconds=0.05) as client:
        engine.delay = 0.01
        slow = Client(client.app, {**BODY, "stream": True})
        await slow.arrived.wait()
        slow.blocked = True
        await asyncio.wait_for(slow.task, 2)
        assert engine.running == {}
        assert slow.messages[-1].get("more_body")


async def test_the_engines_end_is_told(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.delay = 0.01
        open_stream = Client(client.app, {**BODY, "stream": True})
        await open_stream.arrived.wait()
        await client.app.state.server.close()
        await asyncio.wait_for(open_stream.task, 2)
        event = open_stream.messages[-2]["body"].decode()
        assert json.loads(event.removeprefix("data: "))["error"]["code"] == "engine_stopped"
        assert open_stream.messages[-1]["more_body"] is False


async def test_requests_side_by_side(engine: Any, serve: Any) -> None:
    engine.delay = 0.001
    engine.script = lambda request: list(reversed(request.prompt_token_ids[1:]))
    async with serve(engine) as client:
        prompts = [f"text {n}" for n in range(8)]
        answers = await asyncio.gather(*(client.post("/v1/completions", json={"prompt": p}) for p in prompts))
        assert [a.json()["choices"][0]["text"] for a in answers] == [p[::-1] for p in prompts]


async def test_a_silent_stream_has_comments(engine: Any, serve: Any) -> None:
    """While it waits for its first token, and between tokens; clients that know the format ignore them."""
    async with serve(engine, stream_comment_seconds=0.05) as client:
        engine.delay, engine.script = 30, lambda request: [65]
        waiting = Client(client.app, {**BODY, "stream": True})
        await until(lambda: len(waiting.messages) >= 4)
        assert waiting.messages[0]["status"] == 200
        assert {message["body"] for message in waiting.messages[1:]} == {b": waiting\n\n"}
        waiting.gone.set()
        await asyncio.wait_for(waiting.task, 1)
        assert engine.running == {}
        engine.delay = 0.3
        text = (await client.post("/v1/chat/completions", json={**BODY, "stream": True})).text
        events = text.split("\n\n")
        assert 3 <= events.count(": waiting") <= 12
        assert events[-2:] == ["data: [DONE]", ""]
        # between tokens too, never inside an event
        at = [i for i, event in enumerate(events) if event.startswith("data: ")]
        assert any(events[i - 1] == ": waiting" for i in at[1:-1])
        assert all(event == ": waiting" or event.startswith("data: ") for event in events[:-1])


@pytest.mark.parametrize("seconds", [0, 5])
async def test_no_comments_without_silence(engine: Any, serve: Any, seconds: float) -> None:
    async with serve(engine, stream_comment_seconds=seconds) as client:
        engine.delay = 0.01
        answer = await client.post("/v1/chat/completions", json={**BODY, "stream": True})
        assert ": waiting" not in answer.text


async def test_a_client_that_takes_no_comments_is_dropped(engine: Any, serve: Any) -> None:
    async with serve(engine, stream_comment_seconds=0.02, write_timeout_seconds=0.05) as client:
        engine.delay = 30
        slow = Client(client.app, {**BODY, "stream": True})
        await slow.arrived.wait()
        slow.blocked = True
        await asyncio.wait_for(slow.task, 2)
        assert engine.running == {}
