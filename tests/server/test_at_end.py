"""``at_end``: a stream's last chunk has all rows again, in both routes and however the choice ended."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 99}),
]
ENDS: list[dict[str, Any]] = [
    {},
    {"stop": "from 北"},
    {"max_tokens": 3},
    {"ignore_eos": True},
    {"stop_token_ids": [ord(",")]},
]


async def chunks(client: httpx.AsyncClient, path: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.post(path, json={**fields, "seed": 42, "stream": True})
    events = [e.removeprefix("data: ") for e in answer.text.strip().split("\n\n") if e.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [choice for event in events for choice in json.loads(event)["choices"]]


@pytest.mark.parametrize(("path", "fields"), ROUTES)
@pytest.mark.parametrize("level", ["tokens", "full"])
@pytest.mark.parametrize("end", ENDS)
async def test_at_end_the_last_chunk_has_all_rows_again(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], level: str, end: dict[str, Any]
) -> None:
    plain = await chunks(client, path, {**fields, **end, "entropick": {"telemetry": level}})
    again = await chunks(client, path, {**fields, **end, "entropick": {"telemetry": level, "at_end": True}})
    rows = [row for choice in plain for row in choice.get("entropick", {}).get("tokens", [])]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert again[-1]["entropick"]["tokens"] == rows
    # nothing else of the stream is another
    assert again[:-1] == plain[:-1]
    assert again[-1]["entropick"]["summary"] == plain[-1]["entropick"]["summary"]


@pytest.mark.parametrize(("path", "fields"), ROUTES)
async def test_at_end_changes_no_whole_answer(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any]
) -> None:
    told = []
    for at_end in ({}, {"at_end": False}, {"at_end": True}):
        asked = {**fields, "seed": 42, "entropick": {"telemetry": "tokens", **at_end}}
        told.append((await client.post(path, json=asked)).json()["choices"])
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize(("path", "fields"), ROUTES)
async def test_at_end_of_several_choices_and_of_a_vote(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any]
) -> None:
    asked = {"telemetry": "tokens", "at_end": True}
    vote = {**asked, "consensus": {"extract": "text", "k": 3}}
    for body in ({**fields, "n": 2, "entropick": asked}, {**fields, "entropick": vote}):
        ends: dict[int, list[Any]] = {}
        rode: dict[int, list[Any]] = {}
        for choice in await chunks(client, path, body):
            rows = choice.get("entropick", {}).get("tokens", [])
            if choice["finish_reason"] is None:
                rode.setdefault(choice["index"], []).extend(rows)
            else:
                ends[choice["index"]] = rows
        assert len(ends) == body.get("n", 1)
        for index, rows in ends.items():
            assert rows[: len(rode[index])] == rode[index]
            assert rows[-1]["eos"] is True


@pytest.mark.parametrize(("path", "fields"), ROUTES)
@pytest.mark.parametrize("level", [None, "none", "summary"])
async def test_at_end_without_rows_is_refused(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], level: str | None
) -> None:
    asked = {"at_end": True} if level is None else {"at_end": True, "telemetry": level}
    answer = await client.post(path, json={**fields, "entropick": asked})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "entropick.at_end"
    assert "'tokens' or 'full'" in answer.json()["error"]["message"]
    answer = await client.post(path, json={**fields, "entropick": {"at_end": "yes", "telemetry": "tokens"}})
    assert answer.json()["error"]["param"] == "entropick.at_end"


async def test_many_rows_at_the_end_are_written_beside_the_event_loop(
    client: httpx.AsyncClient, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    offload = client.app.state.server.offload  # type: ignore[attr-defined]
    ordinary = offload.run

    async def noted(size: int, *more: Any) -> Any:
        sizes.append(size)
        return await ordinary(size, *more)

    monkeypatch.setattr(offload, "run", noted)
    engine.script = lambda request: [65] * 200
    asked = {"telemetry": "tokens", "at_end": True}
    told = await chunks(client, *ROUTES[0][:1], {**ROUTES[0][1], "entropick": asked})
    assert len(told[-1]["entropick"]["tokens"]) == 201
    assert max(sizes) >= 201 * 16
