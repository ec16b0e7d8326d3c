"""The route of explanations: a row for each token, with rules where it was drawn."""

from __future__ import annotations

from typing import Any

import httpx

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hi"}], "entropick": {"telemetry": "tokens"}}


async def test_a_row_for_each_token(client: httpx.AsyncClient) -> None:
    answer = (await client.post(CHAT, json=BODY, headers={"X-Request-Id": "mine"})).json()
    page = await client.get("/v1/requests/mine/explanation")
    told = page.json()
    assert (told["object"], told["id"]) == ("explanation", answer["id"])
    (choice,) = told["choices"]
    rows = answer["choices"][0]["entropick"]["tokens"]
    assert choice["text"] == answer["choices"][0]["message"]["content"]
    assert choice["policy_parameters"]["greedy_entropy"] == 0.1
    for row, explained in zip(rows, choice["tokens"], strict=True):
        for name in ("index", "token", "token_id", "strategy", "forced", "parameters", "signals"):
            assert explained[name] == row[name]
        assert explained["rule"]
        assert abs(explained["probability"] - 2 ** -row["signals"]["surprisal"]) < 1e-12
    assert choice["tokens"][1]["how"].endswith("given, not drawn")
    assert choice["tokens"][0]["how"] == "drawn"


async def test_the_numbers_in_force(client: httpx.AsyncClient) -> None:
    block = {"preset": "seed", "overrides": {"explore_entropy": 2.5}}
    answer = (await client.post(CHAT, json={**BODY, "top_k": 11, "entropick": block})).json()
    (choice,) = (await client.get(f"/v1/requests/{answer['id']}")).json()["choices"]
    numbers = choice["policy_parameters"]
    assert (numbers["explore_entropy"], numbers["top_k"], numbers["clarify_entropy"]) == (2.5, 11, 3.0)
    answer = (await client.post(CHAT, json={**BODY, "entropick": {"policy": "mirostat"}})).json()
    (choice,) = (await client.get(f"/v1/requests/{answer['id']}/explanation")).json()["choices"]
    assert choice["policy_parameters"]["mirostat_tau"] == 5.0
    assert "policy mirostat: min_p: keeps tokens of at most mu bits" in choice["tokens"][0]["rule"]


async def test_nothing_is_told_of_an_unknown_request(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/requests/nope/explanation")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_not_found")


async def test_the_key_guards_it(engine: Any, serve: Any) -> None:
    async with serve(engine, api_key="k") as client:
        for path in ("/v1/requests/x", "/v1/requests/x/explanation"):
            assert (await client.get(path)).status_code == 401
