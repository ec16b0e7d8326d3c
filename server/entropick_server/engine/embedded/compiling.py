"""Native code that is compiled beside a server, so that a new machine need not wait for it.

Compiling holds the interpreter for most of a minute. A process of its own does it, at low priority; until it
has ended, torch's operations serve, several times slower, and what only native code does is absent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import torch

from entropick_kernels import native_code
from entropick_sampler import compile_native

from ..types import EngineOptions

COMMAND: Final = [sys.executable, "-m", compile_native.__name__]
_NICE: Final = 10
_log = logging.getLogger(__name__)


class Compilation:
    """A process that compiles, and the hold on the native loops of this process meanwhile."""

    def __init__(self) -> None:
        """Starts the process. Raises OSError where none can be started."""
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
        native_code.hold()
        _log.info(
            "native code is compiled for this machine beside the server, once; until then it answers slower "
            "and without genuineness"
        )

    def when_done(self, tell: Callable[[], None]) -> None:
        """Calls ``tell`` from a thread of its own once the code lies on disk; never where that fails."""
        threading.Thread(target=self._wait, args=(tell,), name="entropick-compile", daemon=True).start()

    def _wait(self, tell: Callable[[], None]) -> None:
        code = self._process.wait()
        if code == 0:
            _log.info("native code was compiled in %.0f s", time.monotonic() - self._began)
            tell()
        elif code > 0:
            _log.warning(
                "native code could not be compiled (exit code %d), so torch's operations go on serving; "
                "`%s` says why",
                code,
                " ".join(COMMAND),
            )

    def stop(self) -> None:
        """Ends the process if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()


def begin(options: EngineOptions) -> Compilation | None:
    """Begins to compile where that is wanted and needed; returns None where the code is loaded as ever."""
    plain = options.kernels == options.decoder == options.weights == "auto" and options.measure
    on_cpu = options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available())
    if not options.compile_beside or options.batch_invariant or not plain or not on_cpu:
        return None
    if not compile_native.missing():
        return None
    try:
        return Compilation()
    except OSError as error:
        _log.warning("native code is compiled now, which takes up to a minute: no process for it (%s)", error)
        return None
