"""Clients that do not read."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from typing import Any

import pytest

from entropick_server.connections.protocol import WRITE_BUFFER
from entropick_server.connections.table import Phase

from .support import BIG, Peer, ask, chat, listening, request, stalled, until


def endless(engine: Any) -> None:
    """Lets the engine write more than all buffers take."""
    engine.info = replace(engine.info, max_model_len=1 << 24)
    engine.per_step = 100
    engine.script = lambda _: [65] * 2_000_000
    engine.delay = 0.001


def is_reset(reader: socket.socket) -> bool:
    """True where the server's socket is gone: the client's next words meet a reset."""
    reader.settimeout(5)
    try:
        while reader.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    return False


@pytest.mark.parametrize("asked", ["stream", "plain"])
async def test_a_stalled_reader_is_closed_and_holds_little(
    engine: Any, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Generation was cancelled, but the socket stayed, with 2.8 MB; a plain answer had no deadline."""
    endless(engine)
    sent = request("/big") if asked == "plain" else chat(stream=True, entropick={"telemetry": "full"})
    async with listening(engine, write_timeout_seconds=0.5) as (server, port):
        reader = stalled(port, sent)
        await until(lambda: server.connections.count(Phase.WRITING) == 1)
        (held,) = server.connections
        transport = held.transport  # type: ignore[attr-defined]
        for _ in range(10):
            assert transport.get_write_buffer_size() <= 3 * WRITE_BUFFER
            await asyncio.sleep(0.01)
        assert (await ask(port))[0] == 200
        await until(lambda: server.connections.count(Phase.WRITING) == 0)
        await until(lambda: not engine.running and not server.server_state.tasks)
        assert await asyncio.to_thread(is_reset, reader)
        reader.close()
        await until(lambda: "closed, whose client" in caplog.text)


async def test_a_slow_reader_gets_everything(engine: Any) -> None:
    async with listening(engine, write_timeout_seconds=0.6) as (server, port):
        peer = await Peer.to(port, request("/big"))
        await peer.reader.readuntil(b"\r\n\r\n")
        got = bytearray()
        while len(got) < len(BIG):
            got += await peer.reader.read(1 << 20)
            if len(got) < 4 << 20:
                await asyncio.sleep(0.05)
        assert bytes(got) == BIG
        await until(lambda: server.connections.count(Phase.IDLE) == 1)
        peer.writer.write(request())
        assert (await peer.answer())[0] == 200


async def test_an_answer_that_is_written_is_waited_for_before_the_connection_is_idle(engine: Any) -> None:
    async with listening(engine) as (server, port):
        # of some of these sizes the system takes all but a last piece, which is buffered here
        readers = [stalled(port, request(f"/big?size={size}")) for size in range(100_000, 500_000, 16_000)]
        done = lambda: [  # noqa: E731
            held
            for held in server.connections
            if held.phase is Phase.WRITING and held.cycle.response_complete  # type: ignore[attr-defined]
        ]
        await until(done)
        # an answer that is not delivered is owed, whatever has ended
        assert server.connections.owed(time.monotonic()) >= len(done())
        for reader in readers:
            reader.close()
        await until(lambda: len(server.connections) == 0)


async def test_stalled_readers_give_way_at_the_limit(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entropick_server.connections.table._STALLED_SECONDS", 0.1)
    async with listening(engine, max_connections=3) as (server, port):
        readers = [stalled(port, request("/big")) for _ in range(3)]
        await until(lambda: server.connections.count(Phase.WRITING) == 3)
        await asyncio.sleep(0.15)
        assert (await ask(port))[0] == 200
        assert await asyncio.to_thread(is_reset, readers[0])
        for reader in readers:
            reader.close()


async def test_many_clients_leave(engine: Any) -> None:
    engine.delay = 30
    async with listening(engine, max_queue=300) as (server, port):
        leavers = [await Peer.to(port, chat(stream=n % 2 == 0)) for n in range(60)]
        await until(lambda: len(engine.running) == 60)
        for peer in leavers:
            peer.close()
        await until(lambda: not engine.running and not len(server.connections))
        await until(lambda: not server._state.in_flight and not server.server_state.tasks)
        engine.delay = 0
        assert (await ask(port, chat()))[0] == 200


async def test_a_large_event_is_not_cut_by_the_deadline_of_its_pieces(engine: Any) -> None:
    endless(engine)
    engine.script = lambda _: [65] * 1000
    engine.per_step = 1000
    async with listening(engine, write_timeout_seconds=2) as (_, port):
        reader = stalled(port, chat(stream=True, entropick={"telemetry": "full"}))

        def read() -> bytes:
            got, began = bytearray(), time.monotonic()
            while b"[DONE]" not in got[-100:]:
                # more than the time of all of it, and less than that of a piece
                if time.monotonic() - began < 3:
                    time.sleep(0.02)
                got += reader.recv(1 << 13)
            return bytes(got)

        reader.settimeout(60)
        assert len(await asyncio.to_thread(read)) > 1 << 20
