"""Large requests and answers leave the event loop to others: where their work runs, and in which pieces."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from entropick_server import serve as serving
from entropick_server.routes import _common
from entropick_server.streaming import formats
from entropick_server.streaming.pieces import PIECE, JsonWriter, PieceResponse, dumped, slices
from entropick_server.streaming.run import Run

from .conftest import FakeEngine, Serve

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO = [{"role": "user", "content": "Hello"}]


class Row(BaseModel):
    name: str
    rows: Any = None
    absent: int | None = None


LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5)


@given(
    lists=st.lists(st.lists(st.lists(LEAVES, max_size=5), max_size=4), max_size=4),
    size=st.integers(1, 6),
    name=st.text(max_size=8),
)
def test_a_document_in_pieces_is_the_whole_document(
    lists: list[list[list[Any]]], size: int, name: str
) -> None:
    writer = JsonWriter()

    def inner(rows: Sequence[list[Any]]) -> list[Row]:
        return [Row(name=name, rows=writer.later(slices(row, size))) for row in rows]

    outer = [Row(name=name, rows=writer.later(inner(some) for some in slices(rows, size))) for rows in lists]
    written = b"".join(writer.pieces({"choices": writer.later([[row] for row in outer]), "n": len(outer)}))
    plain = {
        "choices": [Row(name=name, rows=[Row(name=name, rows=row) for row in rows]) for rows in lists],
        "n": len(lists),
    }
    assert written == dumped(plain)


def test_a_text_cannot_pass_for_a_mark() -> None:
    writer, other = JsonWriter(), JsonWriter()
    foreign = other.later([[1]])
    assert (
        b"".join(writer.pieces({"a": foreign})) == json.dumps({"a": foreign}, separators=(",", ":")).encode()
    )


def test_a_list_is_made_while_it_is_written() -> None:
    writer, made = JsonWriter(), list[int]()

    def rows() -> Iterator[list[str]]:
        for n in range(100):
            made.append(n)
            yield ["x" * PIECE]

    pieces = writer.pieces({"rows": writer.later(rows())})
    next(pieces)
    assert len(made) == 1
    assert max(map(len, pieces)) < 2 * PIECE
    assert len(made) == 100


class Sent:
    """A connection that notes the pieces of an answer, and the turns that another task had by then."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.turns: list[int] = []
        self.headers: dict[bytes, bytes] = {}
        self._turn = 0

    async def tick(self) -> None:
        while True:
            self._turn += 1
            await asyncio.sleep(0)

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.headers = dict(message["headers"])
        else:
            self.bodies.append(message["body"])
            self.turns.append(self._turn)


async def test_others_get_a_turn_between_two_pieces_that_are_sent() -> None:
    pieces = [b"a" * 10, b"b" * (5 * PIECE), b"c"]
    sent = Sent()
    ticking = asyncio.create_task(sent.tick())
    await PieceResponse(pieces)({"type": "http"}, sent.send, sent.send)  # type: ignore[arg-type]
    ticking.cancel()
    assert b"".join(sent.bodies) == b"".join(pieces)
    assert int(sent.headers[b"content-length"]) == sum(map(len, pieces))
    assert sent.headers[b"content-type"] == b"application/json"
    assert max(map(len, sent.bodies)) <= 2 * PIECE
    # the last message is empty and ends the answer
    assert all(earlier < later for earlier, later in zip(sent.turns, sent.turns[1:], strict=False))


@pytest.fixture
def large(engine: FakeEngine) -> FakeEngine:
    """Answers with 3,000 tokens in few steps."""
    engine.info = replace(engine.info, max_model_len=400_000)
    engine.script = lambda request: [97] * 3_000
    engine.per_step = 500
    return engine


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], list[str]]:
    """Returns a function that notes in which threads a function is called."""

    def watch(owner: Any, name: str) -> list[str]:
        real, seen = getattr(owner, name), list[str]()

        def noted(*given: Any, **named: Any) -> Any:
            seen.append(threading.current_thread().name.rpartition("_")[0])
            return real(*given, **named)

        monkeypatch.setattr(owner, name, noted)
        return seen

    return watch


@pytest.mark.parametrize("level", ["tokens", "full"])
async def test_the_rows_of_a_long_answer_are_made_beside_the_loop(
    large: FakeEngine, serve: Serve, threads: Callable[[Any, str], list[str]], level: str
) -> None:
    rows, ends = threads(formats, "token_row"), threads(Run, "settle")
    async with serve(large) as client:
        body = {"messages": HELLO, "entropick": {"telemetry": level}, "logprobs": True, "top_logprobs": 3}
        answer = await client.post(CHAT, json=body)
        choice = answer.json()["choices"][0]
        assert [row["index"] for row in choice["entropick"]["tokens"]] == list(range(3_001))
        assert len(choice["logprobs"]["content"]) == 3_000
        assert len(rows) == 3_001
        assert set(rows) | set(ends) <= {"entropick-text", "entropick-large-text"}
        kept = (await client.get(f"/v1/requests/{answer.json()['id']}")).json()["choices"][0]
        assert len(kept["series"]["token_id"]) == 3_001
        assert kept["series"]["index"] == list(range(3_001))


async def test_a_few_rows_of_full_telemetry_are_work_for_a_thread(
    engine: FakeEngine, serve: Serve, threads: Callable[[Any, str], list[str]]
) -> None:
    rows = threads(formats, "token_row")
    async with serve(engine) as client:
        await client.post(CHAT, json={"messages": HELLO, "entropick": {"telemetry": "full"}})
    assert set(rows) == {"entropick-text"}


async def test_the_end_of_a_long_stream_is_computed_beside_the_loop(
    large: FakeEngine, serve: Serve, threads: Callable[[Any, str], list[str]]
) -> None:
    ends = threads(Run, "settle")
    computed = threads(Run, "_figures_at_end")
    async with serve(large) as client:
        answer = await client.post(CHAT, json={"messages": HELLO, "stream": True})
    assert answer.text.endswith("data: [DONE]\n\n")
    assert ends == computed == ["entropick-text"]


async def test_log_probabilities_of_a_response_are_the_same_in_its_events_and_at_its_end(
    large: FakeEngine, serve: Serve
) -> None:
    async with serve(large) as client:
        body = {"input": "Hello", "stream": True, "top_logprobs": 2, "max_output_tokens": 600}
        answer = await client.post(RESPONSES, json=body)
        whole = (await client.post(RESPONSES, json={**body, "stream": False})).json()
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    by_kind = {event["type"]: event for event in events}
    told = [row for e in events if e["type"].endswith("text.delta") for row in e["logprobs"]]
    assert len(told) == 600
    assert by_kind["response.output_text.done"]["logprobs"] == told
    assert by_kind["response.content_part.done"]["part"]["logprobs"] == told
    assert by_kind["response.output_item.done"]["item"]["content"][0]["logprobs"] == told
    for response in (by_kind["response.incomplete"]["response"], whole):
        assert response["output"][0]["content"][0]["logprobs"] == told


async def test_a_large_body_is_read_in_a_thread_of_its_own(
    client: httpx.AsyncClient, threads: Callable[[Any, str], list[str]]
) -> None:
    seen = threads(_common, "parse_body")
    await client.post(CHAT, json={"messages": HELLO})
    await client.post(CHAT, json={"messages": HELLO, "x": "a" * 20_000})
    assert [name == "entropick-body" for name in seen] == [False, True]


async def test_bad_words_and_allowed_tokens_are_laid_out_beside_the_loop(
    engine: FakeEngine, serve: Serve, threads: Callable[[Any, str], list[str]]
) -> None:
    seen = threads(engine.tokenizer, "encode")
    async with serve(engine) as client:
        answer = await client.post(TEXT, json={"prompt": "a", "bad_words": ["abc"] * 128, "max_tokens": 1})
    assert answer.status_code == 200
    assert set(seen) == {"entropick-text"}


def test_the_objects_of_the_start_are_left_to_no_collection() -> None:
    before = gc.get_freeze_count()
    try:
        serving.freeze_start()
        assert gc.get_freeze_count() > before + 1_000
    finally:
        gc.unfreeze()
