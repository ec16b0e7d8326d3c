"""Prompts that come back: echo, prompt_logprobs, token ids, truncation; whole and streamed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from entropick_server.streaming.echo import Echo
from entropick_server.vocabulary import Vocabulary

from .support import BOS, EOS, PAIR, ByteTokenizer

PLAIN, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hé"}]


async def whole(client: httpx.AsyncClient, route: str = PLAIN, **fields: Any) -> dict[str, Any]:
    answer = await client.post(route, json=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def events(client: httpx.AsyncClient, route: str = PLAIN, **fields: Any) -> list[dict[str, Any]]:
    answer = await client.post(route, json={**fields, "stream": True})
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def joined(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """The text and the log probabilities of a choice's chunks."""
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    rows: dict[str, list[Any]] = {}
    for choice in choices:
        for name, values in (choice["logprobs"] or {}).items():
            rows[name] = rows.get(name, []) + values
    return {"text": "".join(c["text"] for c in choices), "logprobs": rows or None}


async def test_echo_begins_text_and_rows_with_the_prompt(client: httpx.AsyncClient, engine: Any) -> None:
    engine.script = lambda request: list("és".encode())
    fields: dict[str, Any] = {"prompt": "Hé!", "echo": True, "logprobs": 1, "max_tokens": 3}
    answer = await whole(client, **fields)
    assert engine.requests[0].sampling.prompt_logprobs == 1
    choice = answer["choices"][0]
    assert choice["text"] == "Hé!és"
    rows = choice["logprobs"]
    assert rows["tokens"] == [
        "<bos>", "H", "bytes:\\xc3", "bytes:\\xa9", "!", "bytes:\\xc3", "bytes:\\xa9", "s"
    ]  # fmt: skip
    assert rows["text_offset"] == [0, 0, 1, 1, 2, 3, 3, 4]
    assert rows["token_logprobs"] == [None, -1.0, -2.0, -3.0, -4.0, -0.5, -0.5, -0.5]
    assert rows["top_logprobs"][:3] == [None, {"A": -0.25, "H": -1.0}, {"A": -0.25, "bytes:\\xc3": -2.0}]
    assert answer["usage"]["prompt_tokens"] == 5
    streamed = joined(await events(client, **fields))
    assert (streamed["text"], streamed["logprobs"]) == (choice["text"], rows)


async def test_no_token_at_all(client: httpx.AsyncClient, engine: Any) -> None:
    fields: dict[str, Any] = {"prompt": ["ab", "c"], "echo": True, "logprobs": 0, "max_tokens": 0}
    answer = await whole(client, **fields)
    first, second = answer["choices"]
    assert (first["text"], second["text"]) == ("ab", "c")
    assert first["finish_reason"] == "length"
    assert first["logprobs"]["tokens"] == ["<bos>", "a", "b"]
    assert first["logprobs"]["top_logprobs"] == [None, {"a": -1.0}, {"b": -2.0}]
    assert answer["usage"]["completion_tokens"] == 0
    chunks = await events(client, **fields)
    for index, choice in enumerate(answer["choices"]):
        found = joined(chunks, index)
        assert (found["text"], found["logprobs"]) == (choice["text"], choice["logprobs"])
    silent = await whole(client, prompt="ab", echo=True, max_tokens=0)
    assert silent["choices"][0]["text"] == "ab"
    assert silent["choices"][0]["logprobs"] is None
    assert engine.running == {}
    page = (await client.get("/metrics")).text
    assert 'entropick_prompt_tokens_total{model_name="fake"} 13.0' in page, "three times two prompts"


async def test_the_token_that_ends_a_reply_has_a_row_beside_an_echo(
    client: httpx.AsyncClient, engine: Any
) -> None:
    """lm-eval drops the last row, which must be a token of the reply."""
    engine.script = lambda request: []
    answer = await whole(client, prompt=[72, 105], echo=True, logprobs=1, max_tokens=1)
    rows = answer["choices"][0]["logprobs"]
    assert rows["tokens"] == ["H", "i", "<eos>"]
    assert rows["text_offset"] == [0, 1, 2]
    plain = await whole(client, prompt=[72, 105], logprobs=1, max_tokens=1)
    assert plain["choices"][0]["logprobs"]["tokens"] == []


async def test_several_choices_and_the_best_of_some_echo_too(client: httpx.AsyncClient, engine: Any) -> None:
    engine.script = lambda request: [65 + request.choice]
    answer = await whole(client, prompt="x", echo=True, n=2, best_of=3)
    assert [choice["text"] for choice in answer["choices"]] == ["xA", "xB"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "best_of": 2}, "best_of"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 257}, "truncate_prompt_tokens"),
        ({"echo": True, "entropick": {"rewind": {"token_ids": [65]}}}, "echo"),
        ({"prompt_logprobs": 1, "entropick": {"rewind": {"token_ids": [65]}}}, "prompt_logprobs"),
        ({"echo": True, "entropick": {"consensus": {"extract": "text"}}}, "echo"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
        ),
    ],
)
async def test_refusals(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    answer = await client.post(PLAIN, json={"prompt": "x", **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert param in answer.json()["error"]["message"]


async def test_a_decoder_without_logits_of_a_prompt(client: httpx.AsyncClient, engine: Any) -> None:
    state = client.app.state.server  # type: ignore[attr-defined]
    state._model = replace(state.model, info=replace(engine.info, prompt_logprobs=False))
    for fields in ({"prompt_logprobs": 1}, {"echo": True, "logprobs": 1}):
        answer = await client.post(PLAIN, json={"prompt": "x", **fields})
        assert answer.status_code == 400
    assert (await whole(client, prompt="x", echo=True))["choices"][0]["text"].startswith("x")


async def test_prompt_logprobs_in_both_routes(client: httpx.AsyncClient) -> None:
    rows = [
        None,
        {
            "97": {"logprob": -1.0, "rank": 3, "decoded_token": "a"},
            "65": {"logprob": -0.25, "rank": 1, "decoded_token": "A"},
            "66": {"logprob": -1.25, "rank": 2, "decoded_token": "B"},
        },
    ]
    answer = await whole(client, prompt="a", prompt_logprobs=2)
    assert answer["choices"][0]["prompt_logprobs"] == rows
    assert "prompt_logprobs" not in answer
    chat = await whole(client, CHAT, messages=HELLO, prompt_logprobs=0)
    assert chat["prompt_logprobs"][0] is None
    assert chat["prompt_logprobs"][1] == {"115": {"logprob": -1.0, "rank": 1, "decoded_token": "s"}}
    assert "prompt_logprobs" not in chat["choices"][0]
    # of echo's more alternatives than asked for none come back
    both = await whole(client, prompt="a", prompt_logprobs=1, echo=True, logprobs=2)
    assert len(both["choices"][0]["prompt_logprobs"][1]) == 2
    assert len(both["choices"][0]["logprobs"]["top_logprobs"][1]) == 3
    assert "prompt_logprobs" not in (await whole(client, prompt="a"))["choices"][0]


async def test_token_ids(client: httpx.AsyncClient, engine: Any) -> None:
    engine.script = lambda request: [65, 66]
    answer = await whole(client, prompt="a", return_token_ids=True)
    choice = answer["choices"][0]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([BOS, 97], [65, 66, EOS])
    chat = await whole(client, CHAT, messages=HELLO, return_token_ids=True)
    assert chat["prompt_token_ids"] == list(engine.requests[-1].prompt_token_ids)
    assert chat["choices"][0]["token_ids"] == [65, 66, EOS]
    for route, fields in ((PLAIN, {"prompt": "a"}), (CHAT, {"messages": HELLO})):
        chunks = await events(client, route, **fields, return_token_ids=True)
        ids = [i for chunk in chunks for c in chunk["choices"] for i in c.get("token_ids", ())]
        assert ids == [65, 66, EOS]
        told = [chunk if route == CHAT else chunk["choices"][0] for chunk in chunks]
        assert ["prompt_token_ids" in one for one in told] == [True, *[False] * (len(told) - 1)]
        assert told[0]["prompt_token_ids"] == list(engine.requests[-1].prompt_token_ids)
    plain = await whole(client, prompt="a")
    assert not {"token_ids", "prompt_token_ids"} & {*plain, *plain["choices"][0]}


async def test_tokens_as_ids(client: httpx.AsyncClient, engine: Any) -> None:
    engine.script = lambda request: [67]
    fields: dict[str, Any] = {"return_tokens_as_token_ids": True}
    rows = (await whole(client, prompt="x", logprobs=1, echo=True, **fields))["choices"][0]["logprobs"]
    assert rows["tokens"][:3] == ["token_id:257", "token_id:120", "token_id:67"]
    assert rows["top_logprobs"][1] == {"token_id:65": -0.25, "token_id:120": -1.0}
    answer = await whole(client, CHAT, messages=HELLO, logprobs=True, top_logprobs=1, **fields)
    row = answer["choices"][0]["logprobs"]["content"][0]
    assert (row["token"], row["bytes"]) == ("token_id:67", [67])
    assert row["top_logprobs"][0]["token"] == "token_id:65"


async def test_truncation_keeps_the_last_tokens(client: httpx.AsyncClient, engine: Any) -> None:
    await whole(client, prompt="abcdef", truncate_prompt_tokens=2)
    assert engine.requests[-1].prompt_token_ids == (101, 102)
    await whole(client, prompt=[1, 2, 3], truncate_prompt_tokens=7)
    assert engine.requests[-1].prompt_token_ids == (1, 2, 3)
    # a prompt that fits nowhere is cut to what leaves room for the reply
    await whole(client, prompt="ab" * 5000, truncate_prompt_tokens=-1, max_tokens=6)
    assert len(engine.requests[-1].prompt_token_ids) == 250
    await whole(client, CHAT, messages=[{"role": "user", "content": "x" * 500}], truncate_prompt_tokens=-1)
    assert len(engine.requests[-1].prompt_token_ids) == 255
    assert (await client.post(PLAIN, json={"prompt": "ab" * 5000})).status_code == 400
    # the text that comes back is the one that was read
    answer = await whole(client, prompt="abcdef", truncate_prompt_tokens=2, echo=True, max_tokens=0)
    assert answer["choices"][0]["text"] == "ef"


async def test_special_tokens_are_left_out_of_a_prompt(client: httpx.AsyncClient, engine: Any) -> None:
    await whole(client, prompt="ab", add_special_tokens=False)
    assert engine.requests[-1].prompt_token_ids == (97, 98)


async def test_usage_on_every_chunk(client: httpx.AsyncClient, engine: Any) -> None:
    engine.script = lambda request: list(b"abc")
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await events(client, prompt="xy", stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 4)
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {3}
    assert chunks[-1]["choices"] == []


def laid(text: str | None, *token_ids: int) -> Echo:
    tokenizer = ByteTokenizer()
    return Echo.of(text, token_ids, Vocabulary(tokenizer, 259), tokenizer)


def test_offsets_of_an_echo() -> None:
    # special tokens take room where the text spells them
    assert laid("<bos>a", BOS, 97).offsets == (0, 5)
    assert laid("a", BOS, 97).offsets == (0, 0)
    assert laid(None, 97, EOS, 98) == Echo("a<eos>b", (97, EOS, 98), (0, 1, 6))
    # a space that the tokenizer put before the text
    assert laid("ab", 32, 97, 98).offsets == (0, 0, 1)
    # parts of a character belong to where it begins
    assert laid(None, PAIR, 0xA9, 97).offsets == (0, 2, 3)
    assert laid("", BOS) == Echo("", (BOS,), (0,))
