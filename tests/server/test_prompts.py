"""From texts to token ids: beside the event loop, given up with the client, refused where they cannot fit."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from entropick_server.offload import SMALL, Work
from entropick_server.prompts import PromptEncoder
from entropick_server.protocol.errors import ApiError
from entropick_server.vocabulary import Vocabulary

from .support import ByteTokenizer, Client, Watched, until

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
LONG = SMALL + 1000
HUGE = 300_000


def body(letter: str, size: int = LONG, **fields: Any) -> dict[str, Any]:
    return {"prompt": letter * size, "max_tokens": 3, **fields}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_abandoned_prompt_is_never_tokenised(
    engine: Any, watched: Watched, serve: Any, stream: bool
) -> None:
    async with serve(engine) as client:
        watched.gate.clear()
        chat = {"messages": [{"role": "user", "content": "a" * LONG}]}
        asked = ((PLAIN, body("a")), (CHAT, chat), ("/tokenize", {"prompt": "a" * LONG}))
        first = [asyncio.create_task(client.post(path, json=sent)) for path, sent in asked]
        await until(lambda: len(watched.texts) == 3)
        leaving = [Client(client.app, body("b", stream=stream), PLAIN) for _ in range(4)]
        chat = {"messages": [{"role": "user", "content": "c" * LONG}], "stream": stream}
        leaving += [Client(client.app, chat), Client(client.app, {"prompt": "d" * LONG}, "/tokenize")]
        leaving.append(Client(client.app, {"tokens": [65] * LONG}, "/detokenize"))
        await until(lambda: client.app.state.server.in_flight == 7)
        for one in leaving:
            one.gone.set()
        # they end while the first texts still block the tokenizer
        await asyncio.wait_for(asyncio.gather(*(one.task for one in leaving)), 5)
        assert client.app.state.server.in_flight == 2
        watched.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*first)] == [200] * 3
        assert (await client.post(PLAIN, json=body("z"))).status_code == 200
        assert len(watched.texts) == 4
        assert not [text for text in watched.texts if "b" * 9 in text or "c" * 9 in text or "d" * 9 in text]
        assert client.app.state.server.in_flight == 0


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (PLAIN, {"prompt": "a" * LONG}),
        (PLAIN, {"prompt": ["a" * (LONG // 16)] * 16, "max_tokens": 1}),
        (CHAT, {"messages": [{"role": "user", "content": "a" * LONG}]}),
        ("/tokenize", {"prompt": "a" * LONG, "return_token_strs": True}),
        ("/tokenize", {"messages": [{"role": "user", "content": "a" * LONG}]}),
        ("/detokenize", {"tokens": [97] * LONG}),
    ],
    ids=["prompt", "prompts", "chat", "tokenize", "tokenize-chat", "detokenize"],
)
async def test_health_is_told_while_the_tokenizer_works(
    engine: Any, watched: Watched, serve: Any, path: str, fields: dict[str, Any]
) -> None:
    async with serve(engine) as client:
        watched.gate.clear()
        task = asyncio.create_task(client.post(path, json=fields))
        await until(lambda: watched.threads)
        assert (await client.get("/health")).status_code == 200
        assert not task.done()
        watched.gate.set()
        assert (await task).status_code == 200
        # one piece of work for all prompts of a request
        assert len(watched.threads) == 1
        assert watched.threads != {threading.get_ident()}


async def test_ordinary_prompts_do_not_wait_for_huge_ones(engine: Any, watched: Watched, serve: Any) -> None:
    async with serve(engine) as client:
        watched.gate.clear()
        watched.blocks_from = HUGE
        huge = asyncio.create_task(client.post(PLAIN, json=body("a", HUGE)))
        await until(lambda: watched.texts)
        assert (await client.post(PLAIN, json=body("b"))).status_code == 200
        assert not huge.done()
        watched.gate.set()
        assert (await huge).status_code == 200


@pytest.mark.parametrize("size", [LONG, HUGE])
async def test_prompts_wait_for_no_conversation_and_for_no_count(
    engine: Any, watched: Watched, serve: Any, size: int
) -> None:
    """As where a template loops until its time is over, or /tokenize gets some megabytes."""
    render, going = engine.tokenizer.render_chat, threading.Event()

    def endless(messages: list[dict[str, Any]], **options: Any) -> str:
        if "looping" in str(messages):
            assert going.wait(30)
        return str(render(messages, **options))

    engine.tokenizer.render_chat = endless
    async with serve(engine) as client:
        chat = {"messages": [{"role": "user", "content": "looping" + " " * size}], "max_tokens": 2}
        looping = [asyncio.create_task(client.post(CHAT, json=chat)) for _ in range(2)]
        watched.gate.clear()
        counted = [asyncio.create_task(client.post("/tokenize", json={"prompt": "a" * size}))]
        await until(lambda: watched.texts)
        watched.gate.set()
        watched.blocks_from = size + 1
        assert (await asyncio.wait_for(client.post(PLAIN, json=body("b", size)), 20)).status_code == 200
        assert not any(task.done() for task in looping)
        going.set()
        assert [answer.status_code for answer in await asyncio.gather(*looping, *counted)] == [200] * 3


@pytest.mark.parametrize("size", [SMALL // 2, 3_900_000])
async def test_a_text_that_cannot_fit_is_refused_unread(
    engine: Any, watched: Watched, serve: Any, size: int
) -> None:
    engine.info = replace(engine.info, max_model_len=100)  # of at most 5 bytes: <eos>
    async with serve(engine) as client:
        text = "a" * size
        for path, fields, param in (
            (PLAIN, {"prompt": text}, "prompt"),
            (PLAIN, {"prompt": ["a", text]}, "prompt"),
            (CHAT, {"messages": [{"role": "user", "content": text}]}, "messages"),
        ):
            answer = await client.post(path, json=fields)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", param)
            assert "100 tokens" in error["message"]
        assert {len(told) for told in watched.texts} <= {1}
        assert client.app.state.server.in_flight == 0
        # no answer is asked for, so no context has to hold it
        told = await client.post("/tokenize", json={"prompt": "a" * (SMALL + 1)})
        assert told.json()["count"] == SMALL + 2


async def test_texts_that_wait_when_the_server_stops(engine: Any, watched: Watched, serve: Any) -> None:
    async with serve(engine) as client:
        watched.gate.clear()
        first = asyncio.create_task(client.post("/tokenize", json=body("a")))
        await until(lambda: watched.texts)
        waiting = asyncio.create_task(client.post("/tokenize", json=body("b")))
        state = client.app.state.server
        await until(lambda: state.offload._ordinary[Work.COUNT]._work_queue.qsize())
        await state.close()
        for answer in (await waiting, await client.post("/tokenize", json=body("c"))):
            assert answer.status_code == 503
        assert (await waiting).json()["error"]["code"] == "shutting_down"
        watched.gate.set()
        assert (await first).status_code == 200
        assert {text[0] for text in watched.texts} == {"a"}


class Words(ByteTokenizer):
    """A token for each word of up to 64 characters."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.sizes.append(len(text))
        return [len(word) for word in text.split()]

    def token_bytes(self, token_id: int) -> bytes | None:
        return b"x" * token_id


def test_a_long_text_is_counted_only_until_it_is_too_long() -> None:
    words = Words()
    encoder = PromptEncoder(words, Vocabulary(words, 65), 2_000)
    short = "ab " * 60_000
    with pytest.raises(ApiError, match="more than 2000 tokens") as refused:
        encoder.texts([short])
    assert refused.value.code == "context_length_exceeded"
    assert words.sizes == [1 << 16]
    # as many characters in few tokens fit, and are encoded whole
    words.sizes.clear()
    long = ("x" * 60 + " ") * 1_900
    assert encoder.texts([long]) == [[60] * 1_900]
    assert words.sizes[-1] == len(long)
    assert max(words.sizes[:-1]) == 1 << 16
    # blanks count for nothing: one token may swallow any number of them
    assert encoder.texts([" " * 500_000 + "ab"]) == [[2]]
