"""A command in a pseudo-terminal, and servers on real sockets for it to talk to."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from unittest import mock

from entropick_server.terminal.command import run

CHAT = (sys.executable, "-m", "entropick_server.cli", "chat")
WITHIN = 120.0


def environment(**given: str) -> dict[str, str]:
    """The environment of a terminal with many colours, and nothing else that decides about them."""
    decide = {
        "NO_COLOR",
        "FORCE_COLOR",
        "COLORTERM",
        "COLORFGBG",
        "TERM",
        "TTY_COMPATIBLE",
        "TTY_INTERACTIVE",
    }
    kept = {name: value for name, value in os.environ.items() if name not in decide}
    kept = {name: value for name, value in kept.items() if not name.startswith("ENTROPICK_")}
    return {**kept, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8", **given}


class Terminal:
    """A command that believes to be in a terminal of 100 columns."""

    def __init__(self, *arguments: str, **given: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.process = subprocess.Popen(
            [*CHAT, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**given),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C shall reach it
        )
        os.close(slave)
        self.text = ""
        self._seen = 0

    def until(self, wanted: str) -> str:
        """Reads until a text comes behind all that was waited for before; returns what came up to there."""
        end = time.monotonic() + WITHIN
        while (at := self.text.find(wanted, self._seen)) < 0:
            if time.monotonic() > end or not self._read():
                raise AssertionError(f"{wanted!r} did not come:\n{self.text[self._seen :]!r}")
        begin, self._seen = self._seen, at + len(wanted)
        return self.text[begin : self._seen]

    def _read(self) -> bool:
        """Reads what there is within a second; False at the end."""
        if not select.select([self._master], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the command has ended
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def type(self, text: str) -> None:
        """Types a text; Ctrl-C is \\x03, Ctrl-D \\x04."""
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Waits for the end; returns the exit code."""
        end = time.monotonic() + WITHIN
        while time.monotonic() < end and self._read():
            pass
        return self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._master)


@contextlib.contextmanager
def terminal(*arguments: str, **given: str) -> Iterator[Terminal]:
    """A command in a terminal, which ends with the block."""
    opened = Terminal(*arguments, **given)
    try:
        yield opened
    finally:
        opened.close()


def piped(text: str, *arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    """The command in this process, reading a text from a pipe and writing into pipes."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    words = io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8")
    with (
        mock.patch.dict(os.environ, environment(**given), clear=True),
        mock.patch.multiple(sys, stdin=words, stdout=out, stderr=errors),
    ):
        code = run(arguments)
    told = [stream.buffer.getvalue().decode() for stream in (out, errors)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(arguments, code, *told)
