"""Trials beside another client's stream: refusals, large answers, many prompts, long queues."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

from .beside import Beside
from .rows_server import LONG
from .served import GOOD, Served
from .trial import Result, Trial, milliseconds, trial
from .wire import CHAT, PLAIN, encoded

_STALLED: Final = 2.0
"""seconds for which another client's stream may stand still: a bound for a busy machine, no aim"""
_HELLO: Final = [{"role": "user", "content": "Hello"}]
_TEXT: Final = "the quick brown fox jumps over the lazy dog and then it sleeps "


async def beside(served: Served, path: str, body: bytes, statuses: tuple[int, ...], times: int = 1) -> Result:
    """Sends a request beside a stream, and tells the largest gap of the stream and the time of the answer."""
    await served.good()
    async with Beside(served) as stream:
        await asyncio.sleep(4.0)
        quiet = stream.largest_gap(time.monotonic() - 3.0, time.monotonic())
        gaps, replies = [], []
        for _ in range(times):
            begin = time.monotonic()
            replies.append(await served.ask("POST", path, body, seconds=120))
            await asyncio.sleep(0.5)
            gaps.append(stream.largest_gap(begin, time.monotonic()))
    took = max(reply.seconds for reply in replies)
    told = sorted({str(reply.status) for reply in replies})
    size = len(replies[0].body)
    answer = f"{size / 1e6:.1f} MB" if size > 100_000 else f"{size} bytes"
    figures = (
        f"largest gap of another stream {milliseconds(max(gaps))} (without it {milliseconds(quiet)}); "
        f"{'/'.join(told)} with {answer} after {milliseconds(took)}"
    )
    held = all(reply.status in statuses and reply.whole for reply in replies) and max(gaps) < max(
        _STALLED, 2 * quiet
    )
    return Result(figures, held and await served.good())


def refusal(name: str, fault: str, before: str, path: str, body: dict[str, Any]) -> Trial:
    """Returns a trial of a body that must be refused, beside a stream."""

    async def run() -> Result:
        async with Served() as served:
            # as short as JSON allows: the cap on the body is 4 MiB
            return await beside(served, path, json.dumps(body, separators=(",", ":")).encode(), (400, 413))

    return Trial(name, "Refusals beside a stream", fault, before, run)


REFUSALS: Final = (
    refusal(
        "two-million-stops",
        "`stop` with two million numbers",
        "all streams stood still for 9.7 to 19 s",
        CHAT,
        {"messages": _HELLO, "stop": [1] * 2_000_000},
    ),
    refusal(
        "million-empty-strings",
        "a million empty strings to /detokenize",
        "10 s",
        "/detokenize",
        {"tokens": [""] * 1_000_000},
    ),
    refusal(
        "million-lists",
        "a million lists in an unknown field",
        "2 to 4 s",
        CHAT,
        {"messages": _HELLO, "unknown": [[]] * 1_000_000},
    ),
    refusal(
        "messages-of-numbers",
        "`messages` of two million numbers",
        "as `stop`",
        CHAT,
        {"messages": [1] * 2_000_000},
    ),
    refusal(
        "prompt-of-empty-lists",
        "`prompt` of a million empty lists",
        "as `stop`",
        PLAIN,
        {"prompt": [[]] * 1_000_000},
    ),
)
"""trials of bodies that must be refused cheaply"""

_ANSWERS: Final = "Large answers beside a stream"


@trial(
    "full-telemetry",
    _ANSWERS,
    "an answer with 40 MB of telemetry `full`",
    "another stream stood still for 2.9 s",
)
async def full_telemetry() -> Result:
    body = {
        "messages": _HELLO,
        "n": 7,
        "max_tokens": 900,
        "ignore_eos": True,
        "seed": 1,
        "entropick": {"telemetry": "full"},
    }
    async with Served() as served:
        return await beside(served, CHAT, encoded(body), (200,))


@trial("token-strings", _ANSWERS, "/tokenize with 3 MB of token strings", "2.4 s")
async def token_strings() -> Result:
    body = {"prompt": (_TEXT * 20_000)[:900_000], "return_token_strs": True}
    async with Served() as served:
        return await beside(served, "/tokenize", encoded(body), (200,))


@trial("long-prompts", _ANSWERS, "64 prompts of 16,000 characters", "0.75 s")
async def long_prompts() -> Result:
    body = {"prompt": [(_TEXT * 300)[:16_000]] * 64, "max_tokens": 1}
    async with Served() as served:
        return await beside(served, PLAIN, encoded(body), (200, 400), times=3)


@trial("refused-batch", _ANSWERS, "64 prompts with n 16, refused by a full queue", "up to 0.5 s")
async def refused_batch() -> Result:
    body = {"prompt": ["Hello"] * 64, "n": 16, "max_tokens": 300, "ignore_eos": True}
    async with Served("--max-num-seqs", "4", "--max-queue", "1100") as served:
        filling = asyncio.create_task(served.ask("POST", PLAIN, body, seconds=300))
        try:
            while not (await served.ask("GET", "/load")).json()["server_load"]:
                await asyncio.sleep(0.02)
            return await beside(served, PLAIN, encoded(body), (503,), times=5)
        finally:
            filling.cancel()
            await asyncio.wait([filling])


ANSWERS: Final = (full_telemetry, token_strings, long_prompts, refused_batch)
"""trials of answers that are large to write, or many to prepare"""

_SHARES: Final = "Shares"


async def _behind(crowd: list[tuple[str, dict[str, Any]]]) -> Result:
    """Sends many requests and behind them a short chat, and tells how long that waited."""
    async with Served("--max-queue", "4096") as served:
        await served.good()
        ends: list[float] = []

        async def one(path: str, body: dict[str, Any]) -> int:
            status = (await served.ask("POST", path, body, seconds=300)).status
            ends.append(time.monotonic())
            return status

        tasks = [asyncio.create_task(one(path, body)) for path, body in crowd]
        while (await served.ask("GET", "/load")).json()["server_load"] < len(crowd):
            await asyncio.sleep(0.02)
        begin = time.monotonic()
        reply = await served.ask("POST", CHAT, GOOD, seconds=300)
        sooner = sum(end < time.monotonic() for end in ends)
        # the rest of the crowd has shown what it can
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        figures = (
            f"the chat was answered after {milliseconds(time.monotonic() - begin)}, "
            f"behind {sooner} of {len(crowd)} requests"
        )
        fine = reply.status == 200 and await served.idle(60) and await served.good()
        return Result(figures, fine and sooner < len(crowd) / 2)


@trial("behind-60", _SHARES, "a short chat behind 60 long requests", "26.8 s: first come, first served")
async def behind_60() -> Result:
    return await _behind([(CHAT, {**LONG, "max_tokens": 900, "seed": n}) for n in range(60)])


@trial("behind-batches", _SHARES, "a short chat behind four requests of 64 prompts with n 16", "62 s")
async def behind_batches() -> Result:
    body = {"prompt": ["Hello"] * 64, "n": 16, "max_tokens": 48, "ignore_eos": True}
    return await _behind([(PLAIN, {**body, "seed": n}) for n in range(4)])


LOAD: Final = (*REFUSALS, *ANSWERS, behind_60, behind_batches)
"""the trials of this module"""
