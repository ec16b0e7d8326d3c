"""Trials of starting: what is wrong is said in a sentence, and soon; what is harmless is survived."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from entropick_pico import model_path
from entropick_sampler.profile import PROFILE_FILE

from .served import READY_SECONDS, environment, free_port, serve_command
from .trial import Result, Trial, milliseconds
from .wire import CHAT, HOST, ask

_GROUP: Final = "Starting"
_NO_PASSWD: Final = (
    "import os, pwd, sys, runpy\n"
    "def nobody(*_): raise KeyError('no such user')\n"
    "pwd.getpwuid = pwd.getpwnam = nobody\n"
    "os.environ.pop('HOME', None)\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_module('entropick_server.cli', run_name='__main__')\n"
)
"""the server as a user sees it who has neither a home nor an entry in the system's list of users"""


async def refused_start(
    arguments: list[str], changes: Mapping[str, str | None] | None = None, seconds: float = 300
) -> tuple[int | None, str, float]:
    """Starts a server that must end by itself; its exit code (None: it did not end), output and seconds."""
    begin = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            serve_command(*arguments), stdout=out, stderr=subprocess.STDOUT, env=environment(changes)
        )
        while process.poll() is None and time.monotonic() - begin < seconds:
            await asyncio.sleep(0.05)
        code = process.poll()
        if code is None:
            process.kill()
            process.wait()
        out.seek(0)
        return code, out.read().decode(errors="replace"), time.monotonic() - begin


def told(code: int | None, said: str, seconds: float) -> str:
    """Returns the exit code, the last line and the seconds in words."""
    lines = [line for line in said.splitlines() if line.strip()]
    ended = "still running" if code is None else f"exit code {code}"
    trace = ", a traceback" if "Traceback" in said else ""
    last = lines[-1] if lines else "nothing"
    last = re.sub(r"/\S*/(tmp\w+|robustness-\w+)", "...", last)
    return f"{ended} after {milliseconds(seconds)}{trace}: {last[:200]}"


def must_refuse(
    name: str,
    fault: str,
    before: str,
    arguments: Callable[[ExitStack, Path], list[str]],
    changes: Mapping[str, str | None] | None = None,
    says: str = "",
    before_loading: bool = True,
) -> Trial:
    """Returns a trial of a start that must be refused in one sentence with ``says`` in it."""

    async def run() -> Result:
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            code, said, seconds = await refused_start(arguments(stack, Path(folder)), changes)
        in_words = code not in (None, 0) and "Traceback" not in said and says in said
        late = before_loading and "Loading weights" in said
        return Result(told(code, said, seconds), in_words and not late)

    return Trial(name, _GROUP, fault, before, run)


def taken_port(stack: ExitStack, _: Path) -> list[str]:
    """Listens on a port until the trial is over, and names it."""
    listener = stack.enter_context(socket.create_server((HOST, 0)))
    return ["--port", str(listener.getsockname()[1])]


def given(*arguments: str) -> Callable[[ExitStack, Path], list[str]]:
    """Returns a function that names these arguments."""
    return lambda _stack, _folder: [*arguments]


def broken(file: str, content: str) -> Callable[[ExitStack, Path], list[str]]:
    """Returns a function that copies the shipped model with one file replaced, and names its folder."""

    def arguments(_: ExitStack, folder: Path) -> list[str]:
        copy = shutil.copytree(model_path(), folder / "model")
        (copy / file).write_text(content)
        return [str(copy), "--port", "0"]

    return arguments


async def serves(
    command: list[str], seconds: float = READY_SECONDS, output: Any = None, **how: Any
) -> tuple[bool, int | None, str]:
    """Starts a server with ``command``, to which its port is given, and asks it a short chat.

    Returns whether it was served, the exit code after SIGTERM (None: it did not end), and its output.
    """
    port = free_port()
    with tempfile.TemporaryFile() as out:
        streams = {"stdout": output or out, "stderr": output or out}
        process = subprocess.Popen([*command, "--port", str(port)], **{**streams, **how})
        end, served = time.monotonic() + seconds, False
        while not served and process.poll() is None and time.monotonic() < end:
            await asyncio.sleep(0.3)
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
            served = (await ask(port, "POST", CHAT, body, seconds=10)).status == 200
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, 30)
        code = process.poll()
        process.kill()
        process.wait()
        out.seek(0)
        return served, code, out.read().decode(errors="replace")


def must_serve(
    name: str, fault: str, before: str, start: Callable[[ExitStack], Awaitable[tuple[bool, int | None, str]]]
) -> Trial:
    """Returns a trial of a start that must succeed; ``start`` returns as ``serves()`` does."""

    async def run() -> Result:
        with ExitStack() as stack:
            served, code, said = await start(stack)
        trace = "a traceback" if "Traceback" in said else "no traceback"
        figures = f"{'served' if served else 'not served'}; SIGTERM: exit code {code}; {trace}"
        return Result(figures, served and code == 0 and "Traceback" not in said)

    return Trial(name, _GROUP, fault, before, run)


async def _full_disk(_: ExitStack) -> tuple[bool, int | None, str]:
    with Path("/dev/full").open("w") as full:
        return await serves(serve_command(), output=full, env=environment())


async def _closed(_: ExitStack) -> tuple[bool, int | None, str]:
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *serve_command()]
    return await serves(shell, env=environment())


async def _homeless(_: ExitStack) -> tuple[bool, int | None, str]:
    command = [sys.executable, "-c", _NO_PASSWD, "entropick", "serve"]
    changes = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME"))
    return await serves(command, env=environment(changes))


async def _no_cache(stack: ExitStack) -> tuple[bool, int | None, str]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    copy = shutil.copytree(model_path(), folder / "model")
    # without its profile it calibrates at the start, and would keep what it measured
    (copy / PROFILE_FILE).unlink()
    changes = {"XDG_CACHE_HOME": "/proc/none", "HOME": "/proc/none"}
    return await serves([*serve_command(), str(copy)], env=environment(changes))


_LATE: Final = "told after the model was loaded"
_TRACE: Final = "a traceback"

STARTING: Final = (
    must_serve("output-on-full-disk", "output on a full disk", "the start crashed", _full_disk),
    must_serve("closed-descriptors", "standard input, output and error closed", "the start crashed", _closed),
    must_serve("no-home", "no HOME and no entry in passwd", "the start crashed", _homeless),
    must_serve("unwritable-cache", "a cache folder that cannot be written", "not shown", _no_cache),
    must_refuse("taken-port", "a taken port", _LATE, taken_port, says="cannot listen"),
    must_refuse("missing-folder", "a model's folder that is not there", _LATE, given("/no/such/folder")),
    must_refuse(
        "broken-config", "a broken config.json", _TRACE, broken("config.json", "{"), says="config.json"
    ),
    must_refuse(
        "empty-config",
        "a config.json that is a list",
        _TRACE,
        broken("config.json", "[]"),
        says="config.json",
    ),
    must_refuse(
        "broken-tokenizer",
        "a broken tokenizer.json",
        _TRACE,
        broken("tokenizer.json", "{}"),
        says="tokenizer",
    ),
    must_refuse(
        "broken-generation-config",
        "a broken generation_config.json",
        _TRACE,
        broken("generation_config.json", "{"),
        says="generation_config.json",
        before_loading=False,
    ),
    must_refuse(
        "unknown-variable",
        "the variable ENTROPICK_PROT=9000",
        "ignored",
        given("--port", "0"),
        {"ENTROPICK_PROT": "9000"},
        says="ENTROPICK_PROT",
    ),
)
"""the trials of this module"""
