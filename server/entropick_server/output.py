"""The standard streams of the process: open in any case, and never the end of a server.

A service manager may start a process without them, and a disk or a pipe behind them may be full or gone.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO


def open_streams() -> None:
    """Opens the standard streams that are closed, on the null device.

    Else the next files and sockets of the process would get their numbers.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
    # Python has none for a stream that was closed when it started; they stay open until it ends
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line, on the standard output unless a stream is named; goes on where it cannot be written."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # it stays in the stream's buffer, and is written with the next line for which there is room
        return


def settle() -> bool:
    """Writes the rest of the standard streams' buffers; drops the part that cannot be written.

    Returns false where something was dropped: the interpreter would end with an exit code of its own.
    """
    complete = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            complete = False
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
            stream.flush()
    return complete
