"""What a peer's process and its parent say to each other: one JSON object a line, over stdin and stdout.

The parent sends ``load`` once, then any number of ``run``; the peer answers each with one line. Only the
standard library is imported here: peers run in environments of their own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Load:
    """What to load, and the most that will be asked of it."""

    model: str
    """folder in Hugging Face format"""
    gguf: str
    """the same weights as a GGUF file"""
    served: str
    """what ``entropick serve`` would be given for them: the folder, or the file"""
    threads: int
    rows: int
    context: int
    """tokens of a row, prompt and new ones together"""
    chunk: int
    """tokens of all prompts of a run"""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Seconds of the wall clock, and of this process on all CPUs."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Run:
    """One batch, from handing it in to its last token.

    ``begin`` is when every row had its first token; ``after`` counts the tokens that came later. ``ids``:
    [rows][tokens].
    """

    start: Stamp
    begin: Stamp
    end: Stamp
    after: int
    ids: list[list[int]]


class Runner(Protocol):
    """A loaded peer."""

    name: str
    """of the engine, with its version"""

    def run(self, prompts: list[list[int]], tokens: int, greedy: bool) -> Run:
        """Continue every prompt by exactly ``tokens`` tokens, all rows at once."""
        ...


def now() -> Stamp:
    return Stamp(time.perf_counter(), time.process_time())


class Recorder:
    """Follows a batch: ``took`` with the rows that got a token, each time some did."""

    def __init__(self, rows: int) -> None:
        self._waiting = set(range(rows))
        self._after = 0
        self._begin: Stamp | None = None
        self._start = now()

    def took(self, rows: Sequence[int]) -> None:
        if self._begin is not None:
            self._after += len(rows)
        else:
            self._waiting.difference_update(rows)
            if not self._waiting:
                self._begin = now()

    def done(self, ids: list[list[int]]) -> Run:
        end = now()
        if self._begin is None:
            raise RuntimeError(f"rows without a token: {sorted(self._waiting)}")
        return Run(self._start, self._begin, end, self._after, ids)


def serve(load: Callable[[Load], Runner]) -> None:
    """Answer the parent until it closes stdin. What libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(message: dict[str, object]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    runner: Runner | None = None
    for line in sys.stdin:
        message = json.loads(line)
        operation = message.pop("op")
        if operation == "load":
            runner = load(Load(**message))
            reply({"name": runner.name})
        elif runner is None:
            raise RuntimeError(f"{operation} before load")
        else:
            run = runner.run(message["prompts"], message["tokens"], message["greedy"])
            if any(len(row) != message["tokens"] for row in run.ids):
                raise RuntimeError(f"{[len(row) for row in run.ids]} tokens, not {message['tokens']} each")
            reply(asdict(run))
