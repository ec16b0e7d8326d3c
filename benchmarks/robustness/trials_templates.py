"""Trials of chat templates, which run in a sandbox with limits of time and memory."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from typing import Final

from .served import Served
from .trial import Result, milliseconds, trial
from .wire import CHAT

_GROUP: Final = "Chat templates"
_MOST: Final = 4096.0
"""MiB beyond which the trial ends the server, for the sake of the machine"""
_PLAIN: Final = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
_LOOPING: Final = (
    "{% if messages[-1].content == 'now' %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}" + _PLAIN
)
_HUGE: Final = (
    "{% if messages[-1].content == 'now' %}{% set x = namespace(s='0123456789abcdef') %}"
    "{% for _ in range(29) %}{% set x.s = x.s ~ x.s %}{% endfor %}{{ x.s }}{% endif %}" + _PLAIN
)
_NOW: Final = {"messages": [{"role": "user", "content": "now"}], "max_tokens": 4}


async def _with_template(text: str) -> Result:
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as file:
        file.write(text)
        file.flush()
        async with Served("--chat-template", file.name) as served:
            await served.good()
            before = most = served.resident_mib(family=True)
            begin = time.monotonic()
            asked = asyncio.create_task(served.ask("POST", CHAT, _NOW, seconds=30))
            slowest = 0.0
            while not asked.done() and most - before < _MOST:
                health = await served.ask("GET", "/health", seconds=10)
                slowest = max(slowest, health.seconds if health.status == 200 else float("inf"))
                most = max(most, served.resident_mib(family=True))
                await asyncio.sleep(0.05)
            if most - before >= _MOST:
                served.kill()
                asked.cancel()
                await asyncio.wait([asked])
                return Result(f"more than {_MOST / 1024:.0f} GiB: the trial ended the server", False)
            reply = asked.result()
            took = time.monotonic() - begin
            fine = await served.good()
            served.signal(signal.SIGTERM)
            code = await served.ended(15)
        figures = (
            f"{reply.status or 'no answer'} after {milliseconds(took)}; "
            f"/health within {milliseconds(slowest)}; {most - before:.0f} MiB more at most; SIGTERM: "
            + ("still running after 15 s" if code is None else f"exit code {code}")
        )
        refused = reply.error is not None and slowest < 5 and most - before < _MOST
        return Result(figures, refused and fine and code == 0)


@trial("looping-template", _GROUP, "a template that loops", "/health and SIGTERM were answered no more")
async def looping() -> Result:
    return await _with_template(_LOOPING)


@trial("huge-template", _GROUP, "a template that makes a text of 8 GB", "13 GB of memory")
async def huge() -> Result:
    return await _with_template(_HUGE)


TEMPLATES: Final = (looping, huge)
"""the trials of this module"""
