"""Clients that send slowly, or stop in the middle."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from entropick_server.connections.bodies import BodyBudget, IncomingBody, Share
from entropick_server.connections.protocol import Connection
from entropick_server.connections.table import Phase
from entropick_server.protocol.errors import ApiError

from .support import CHAT, Peer, ask, chat, code_of, listening, request, until


async def test_nothing_at_all_is_closed_without_an_answer(engine: Any) -> None:
    async with listening(engine, header_timeout_seconds=0.2) as (server, port):
        silent = await Peer.to(port)
        assert await silent.rest() == b""
        await until(lambda: len(server.connections) == 0)


async def test_a_slow_head_gets_a_408(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Slowloris: a byte now and then."""
    async with listening(engine, header_timeout_seconds=0.4) as (server, port):
        slow = [await Peer.to(port, b"GET /health HTTP/1.1\r\nX-A: ") for _ in range(5)]
        while server.connections.count(Phase.HEADERS):
            for peer in slow:
                peer.writer.write(b"b")
            await asyncio.sleep(0.05)
            assert (await ask(port))[0] == 200
        await until(lambda: len(server.connections) == 0)
        peer = await Peer.to(port, b"GET /health HTTP/1.1\r\n")
        status, body = await peer.answer()
        assert (status, code_of(body)) == (408, "header_timeout")
        assert await peer.rest() == b""
        await until(lambda: "head was not whole" in caplog.text)


async def test_the_head_of_a_second_request_has_a_deadline_too(engine: Any) -> None:
    async with listening(engine, header_timeout_seconds=0.3) as (server, port):
        peer = await Peer.to(port, request())
        assert (await peer.answer())[0] == 200
        assert server.connections.count(Phase.IDLE) == 1
        peer.writer.write(b"GET /health HT")
        assert (await peer.answer())[0] == 408


async def test_a_body_that_is_read_at_once_comes_behind_its_head(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under uvloop, which reads before the loop's next turn."""
    made = Connection.connection_made
    head, body = chat().split(b"\r\n\r\n")

    def read_at_once(self: Connection, transport: Any) -> None:
        made(self, transport)
        self.data_received(body)

    monkeypatch.setattr(Connection, "connection_made", read_at_once)
    async with listening(engine) as (_, port):
        peer = await Peer.to(port, head + b"\r\n\r\n")
        assert (await peer.answer())[0] == 200


async def test_an_idle_connection_is_closed(engine: Any) -> None:
    async with listening(engine, keep_alive_seconds=0.2) as (server, port):
        peer = await Peer.to(port, request())
        assert (await peer.answer())[0] == 200
        assert await peer.rest() == b""
        await until(lambda: len(server.connections) == 0)


async def test_nothing_is_built_for_a_head_that_is_not_whole(engine: Any) -> None:
    """Neither the parser nor a task sees it; where it is whole, they get all of it."""
    async with listening(engine) as (server, port):
        idle = [await Peer.to(port) for _ in range(20)]
        slow = [await Peer.to(port, b"GET /health HTTP/1.1\r\nX-A: b") for _ in range(20)]
        await until(lambda: server.connections.count(Phase.HEADERS) == 40)
        await asyncio.sleep(0.05)
        assert not server.server_state.connections
        assert {type(held).__name__ for held in server.connections} == {"Arrival"}
        for peer in slow:
            # the end of the head comes in two pieces, and a second request with it
            peer.writer.write(b"\r\nHost: x\r\n\r")
        await asyncio.sleep(0.05)
        assert not server.server_state.connections
        for peer in slow:
            peer.writer.write(b"\n" + request("/version"))
        for peer in slow:
            assert [(await peer.answer())[0] for _ in range(2)] == [200, 200]
        for peer in (*idle, *slow):
            peer.close()
        await until(lambda: len(server.connections) == 0)


async def test_a_large_body_that_comes_with_its_head(engine: Any) -> None:
    async with listening(engine) as (_, port):
        whole = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
        for size in (0, 1 << 15, 1 << 17, 1 << 20):
            assert (await ask(port, request(CHAT, whole + b" " * size)))[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_stops_gets_a_408(engine: Any, chunked: bool) -> None:
    async with listening(engine, body_timeout_seconds=0.3) as (server, port):
        if chunked:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            peer = await Peer.to(port, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n4\r\n{   \r\n")
        else:
            peer = await Peer.to(port, request(CHAT, b"{", 1000))
        status, body = await peer.answer()
        assert (status, code_of(body)) == (408, "body_timeout")
        assert server.connections.count(Phase.LINGER) == 1
        server.connections._seconds[Phase.LINGER] = 0.1
        assert await peer.rest() == b""
        await until(lambda: len(server.connections) == 0)
        assert (await ask(port, chat()))[0] == 200


async def test_a_body_that_trickles_gets_a_408(engine: Any) -> None:
    async with listening(engine, body_timeout_seconds=0.3) as (_, port):
        peer = await Peer.to(port, request(CHAT, b"{", 1000))

        async def trickle() -> None:
            while True:
                peer.writer.write(b" ")
                await asyncio.sleep(0.05)

        task = asyncio.create_task(trickle())
        assert (await peer.answer())[0] == 408
        task.cancel()


async def test_a_refusal_does_not_wait_for_the_body(engine: Any) -> None:
    async with listening(engine, api_key="k") as (server, port):
        peer = await Peer.to(port, request(CHAT, b"{", 4 << 20))
        status, body = await peer.answer()
        assert (status, code_of(body)) == (401, "invalid_api_key")
        # what still comes is dropped, for some seconds
        assert server.connections.count(Phase.LINGER) == 1
        server.connections._seconds[Phase.LINGER] = 0.1
        assert await peer.rest() == b""


async def test_half_sent_bodies_are_bounded_together(engine: Any) -> None:
    """100 half-sent bodies of 4 MB held 312 MB."""
    largest = 1 << 20
    async with listening(engine, max_body_bytes=largest, body_timeout_seconds=3) as (server, port):
        budget = server._budget
        assert budget.free == 16 * largest
        half = request(CHAT, b"[" * (largest * 3 // 4), largest)
        peers = [await Peer.to(port, half) for _ in range(100)]
        await until(lambda: budget.free == 0)
        # a small body needs no room, and nobody waits for one
        assert (await ask(port, chat()))[0] == 200
        answers = await asyncio.gather(*(peer.answer() for peer in peers))
        # sixteen at a time are read, sixty-four wait, the others are told to come again
        codes = [code_of(body) for _, body in answers]
        assert set(codes) == {"too_many_bodies", "body_timeout"}
        assert codes.count("body_timeout") >= 16
        await until(lambda: budget.free == 16 * largest)
        whole = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
        assert (await ask(port, request(CHAT, whole + b" " * (largest // 2))))[0] == 200


async def test_shares_are_granted_in_order_and_given_back() -> None:
    budget = BodyBudget(10)
    first, *others = [Share(80), Share(90), Share(70), Share(60)]
    await budget.take(first, 1)
    waiting = [asyncio.create_task(budget.take(share, 5)) for share in others]
    await asyncio.sleep(0)
    # there is room for the last, which does not overtake
    assert (budget.free, [share.granted for share in others], budget.crowded) == (80, [False] * 3, True)
    budget.give_back(others[0])
    await asyncio.sleep(0)
    assert [share.granted for share in others] == [False, True, False]
    waiting[2].cancel()
    budget.give_back(first)
    await asyncio.wait(waiting)
    assert (budget.free, budget.crowded, others[2].granted) == (90, False, False)
    budget.give_back(others[1])
    assert budget.free == 160
    budget.give_back(others[1])
    assert budget.free == 160


async def test_a_share_that_is_not_granted_in_time_is_refused() -> None:
    budget = BodyBudget(10)
    await budget.take(Share(160), 1)
    with pytest.raises(ApiError, match="Too many large request bodies") as refused:
        await budget.take(Share(1), 0.02)
    assert refused.value.status == 503
    assert not budget.crowded


async def test_a_fast_body_may_take_longer_than_its_deadline() -> None:
    body = IncomingBody(BodyBudget(1 << 22), 0.2, 1 << 22)
    sent = 0

    async def piece() -> Any:
        nonlocal sent
        await asyncio.sleep(0.05)
        sent += 1
        return {"type": "http.request", "body": b"x" * (1 << 14), "more_body": sent < 10}

    while (await body.receive(piece))["more_body"]:
        pass
    assert sent == 10


async def test_a_client_that_goes_in_the_middle_of_a_body_is_no_error(
    engine: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each wrote a traceback of 4 kB."""
    async with listening(engine, log_level="info") as (server, port):
        for sent in (request(CHAT, b"{", 1000), request(CHAT, b" " * 300_000, 1 << 20)):
            peer = await Peer.to(port, sent)
            await until(lambda: server.connections.count(Phase.BODY) == 1)
            await asyncio.sleep(0.05)
            peer.close()
            await until(lambda: len(server.connections) == 0 and not server.server_state.tasks)
        assert (await ask(port, chat()))[0] == 200
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err + caplog.text
    assert "ERROR" not in said.out + said.err + caplog.text


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"no http\r\n\r\n", 400, "invalid_http"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Big: " + b"x" * 70_000, 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\nb: c\x00\r\n\r\n", 400, "invalid_http"),
        (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            "Content-Type: application/json\r\n\r\nnonsense\r\n".encode(),
            400,
            "invalid_http",
        ),
    ],
)
async def test_what_is_no_http_is_refused_in_the_usual_shape(
    engine: Any, sent: bytes, status: int, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with listening(engine) as (server, port):
        peer = await Peer.to(port, sent)
        answered, body = await peer.answer()
        assert (answered, code_of(body)) == (status, code)
        assert await peer.rest() == b""
        await until(lambda: len(server.connections) == 0 and not server.server_state.tasks)
        # in the middle of a connection's second request, and behind an answer
        peer = await Peer.to(port, request() + sent)
        assert (await peer.answer())[0] in (200, 503)
        assert (await peer.answer())[0] == status
        assert (await ask(port))[0] == 200
    assert "Traceback" not in capfd.readouterr().err


async def test_pipelined_requests_are_answered_in_order(engine: Any) -> None:
    async with listening(engine) as (server, port):
        peer = await Peer.to(port, request() + chat() + request("/nope") + request("/version"))
        assert [(await peer.answer())[0] for _ in range(4)] == [200, 200, 404, 200]
        assert server.connections.count(Phase.IDLE) == 1
