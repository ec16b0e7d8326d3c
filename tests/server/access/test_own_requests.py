"""A key sees its own requests: those of other keys are unknown to it, as ids that nobody had."""

from __future__ import annotations

from typing import Any

import httpx

from .conftest import BODY, CHAT


async def ask(client: httpx.AsyncClient, key: dict[str, str], **more: Any) -> httpx.Response:
    headers = {**key, "X-Request-Id": "same-for-all"}
    return await client.post(CHAT, json={**BODY, **more}, headers=headers)


async def test_lists_hold_the_own_requests(client: httpx.AsyncClient, alice: Any, bob: Any) -> None:
    hers = [(await ask(client, alice)).json()["id"] for _ in range(2)]
    his = [(await ask(client, bob)).json()["id"]]
    for key, ids in ((alice, hers), (bob, his)):
        data = (await client.get("/v1/requests", headers=key)).json()["data"]
        assert [entry["id"] for entry in data] == ids[::-1]


async def test_another_keys_request_is_not_found(client: httpx.AsyncClient, alice: Any, bob: Any) -> None:
    hers = (await ask(client, alice)).json()["id"]
    nobodys = {}
    for route in ("", "/explanation"):
        assert (await client.get(f"/v1/requests/{hers}{route}", headers=alice)).json()["id"] == hers
        nobodys[route] = await client.get(f"/v1/requests/chatcmpl-nobody{route}", headers=bob)
        assert nobodys[route].status_code == 404
        for name in (hers, "same-for-all"):
            refused = await client.get(f"/v1/requests/{name}{route}", headers=bob)
            assert (refused.status_code, refused.json()) == (404, nobodys[route].json())
    # the same X-Request-Id leads each to the own answer
    his = (await ask(client, bob)).json()["id"]
    for key, own in ((alice, hers), (bob, his)):
        assert (await client.get("/v1/requests/same-for-all", headers=key)).json()["id"] == own


async def test_another_keys_reply_cannot_be_continued(
    client: httpx.AsyncClient, alice: Any, bob: Any
) -> None:
    hers = (await ask(client, alice)).json()["id"]
    for name in (hers, "same-for-all"):
        rewind = {"rewind": {"request": name, "index": 2}}
        refused = await ask(client, bob, entropick=rewind)
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "request_not_found"
        assert (await ask(client, alice, entropick=rewind)).status_code == 200


async def test_the_shared_ring_without_keys(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        made = (await client.post(CHAT, json=BODY)).json()["id"]
        assert (await client.get(f"/v1/requests/{made}")).status_code == 200
        assert len((await client.get("/v1/requests")).json()["data"]) == 1
