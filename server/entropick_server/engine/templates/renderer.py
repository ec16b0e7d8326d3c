"""The renderer of chat templates: the server's side of the process that runs them.

The process is started at the first rendering and ends with the renderer, or with the server however that
ends. A rendering that breaks a limit costs the process, and the next one starts another.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final

from .worker import LENGTH_BYTES

MEMORY_BYTES: Final = 1 << 30
"""of address space that the process may have, of which it needs some 60 MB by itself"""
_START_SECONDS: Final = 60.0
_LEAST_CHARACTERS: Final = 1 << 24
_GROWTH: Final = 4
"""a text may have so many characters for each byte that the conversation has, and the least ones"""
_CLOSED: Final = "the process that renders chat templates was ended"
_SCRIPT: Final = Path(__file__).with_name("worker.py")
_INHERITED: Final = frozenset(
    {
        *("PATH", "HOME", "LD_LIBRARY_PATH", "TZ", "TZDIR", "LANG", "LC_ALL", "LC_CTYPE", "LC_TIME"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE"),
    }
)
"""variables that the process gets: what Python needs to find jinja2, and the time's zone and language"""


class TemplateLimitError(ValueError):
    """A rendering that took too long, needed too much memory, or made a text that is too long."""


class TemplateProcessError(Exception):
    """A failure to start the process that renders, or its end; the next rendering may succeed."""


class _Gone(Exception):
    """The end of the process in the middle of an answer."""


class TemplateRenderer:
    """A renderer of chat templates in a process of their own. Safe to use in several threads, in turn."""

    def __init__(self, seconds: float, memory: int = MEMORY_BYTES) -> None:
        """Sets the limits. ``seconds``: of a rendering; ``memory``: bytes of the process's address space."""
        self._seconds = seconds
        self._memory = memory
        self._turn = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[Any, TemplateRenderer] | None = None
        self._numbers: dict[str, int] = {}
        """the templates that the process has"""
        self._closed = False

    @property
    def process_id(self) -> int | None:
        """Returns the id of the process; None where there is none."""
        return None if self._process is None else self._process.pid

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        continue_final_message: bool = False,
        variables: Mapping[str, Any],
    ) -> str:
        """Renders a conversation by the text of a template, as transformers does.

        ``variables``: what the template gets beside the messages. Raises ValueError where the template
        refuses or fails, TemplateLimitError beyond a limit, and TemplateProcessError without a process.
        """
        asked = json.dumps(
            {
                "messages": messages,
                "variables": variables,
                "continue_final_message": continue_final_message,
            }
        )
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self._start()
            number = self._numbers.get(template, len(self._numbers))
            head = {
                "number": number,
                "source": None if template in self._numbers else template,
                "most_characters": _LEAST_CHARACTERS + _GROWTH * len(asked),
            }
            text = self._answer(f"{json.dumps(head)[:-1]},{asked[1:]}".encode())
            self._numbers[template] = number
        return text

    def close(self) -> None:
        """Ends the process; a rendering that runs fails, and no other begins."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        # whoever waits for an answer now learns that there is none
        with self._turn:
            self._stop()

    def _start(self) -> None:
        """Starts the process and waits until it can render."""
        self._stop()
        if self._closed:
            raise TemplateProcessError(_CLOSED)
        command = [sys.executable, "-P", str(_SCRIPT), str(self._seconds), str(self._memory)]
        try:
            # a session of its own: Ctrl-C in a terminal is for the server, which then ends it
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # keys and tokens are not for code that came with a model, sandboxed or not
                env={name: value for name, value in os.environ.items() if name in _INHERITED},
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise TemplateProcessError(
                f"the process that renders chat templates cannot be started: {error}"
            ) from error
        self._process, self._numbers = process, {}
        self._end = weakref.finalize(self, _ended, process)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        try:
            _exchanged(process, b"", _START_SECONDS)
        except (_Gone, TimeoutError) as error:
            self._stop()
            raise TemplateProcessError("the process that renders chat templates does not start") from error

    def _stop(self) -> None:
        end, self._end, self._process = self._end, None, None
        if end is not None:
            end()

    def _answer(self, request: bytes) -> str:
        """Returns the text that the process makes, which ends where it breaks a limit."""
        process = self._process
        if process is None:
            raise TemplateProcessError(_CLOSED)
        memory = f"{self._memory >> 20} MiB of memory"
        try:
            sent = len(request).to_bytes(LENGTH_BYTES) + request
            answer: dict[str, str] = json.loads(_exchanged(process, sent, self._seconds))
        except TimeoutError:
            problem = f"takes longer than {self._seconds:g} seconds (chat_template_seconds)"
        except _Gone as error:
            if self._closed:
                raise TemplateProcessError(_CLOSED) from error
            problem = f"ended its process, which may have {memory}"
        else:
            match answer.get("failure"):
                case None:
                    return answer["text"]
                case "memory":
                    problem = f"needs more than {memory}"
                case "size":
                    problem = f"makes more than {answer['message']} characters of text"
                case "refused":
                    raise ValueError(f"the model's chat template refuses these messages: {answer['message']}")
                case _:
                    raise ValueError(f"the chat template fails on these messages: {answer['message']}")
        self._stop()
        raise TemplateLimitError(f"the chat template {problem}, on these messages")


def _ended(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and takes note of it, so that it leaves no zombie."""
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()


def _exchanged(process: subprocess.Popen[bytes], sent: bytes, seconds: float) -> bytes:
    """Sends bytes and returns the body of the frame that comes back. Raises TimeoutError and _Gone."""
    if process.stdin is None or process.stdout is None:
        raise _Gone
    sink, source = process.stdin.fileno(), process.stdout.fileno()
    left, received = memoryview(sent), bytearray()
    poll = select.poll()
    poll.register(source, select.POLLIN)
    if left:
        poll.register(sink, select.POLLOUT)
    deadline = time.monotonic() + seconds
    while (remaining := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(remaining * 1000):
            try:
                if descriptor == sink:
                    left = left[os.write(sink, left) :]
                    if not left:
                        poll.unregister(sink)
                elif chunk := os.read(source, 1 << 20):
                    received += chunk
                else:
                    raise _Gone
            except BlockingIOError:
                continue
            except OSError as error:
                raise _Gone from error
        if len(received) >= LENGTH_BYTES:
            size = int.from_bytes(received[:LENGTH_BYTES])
            if len(received) >= LENGTH_BYTES + size:
                return bytes(received[LENGTH_BYTES:])
    raise TimeoutError
