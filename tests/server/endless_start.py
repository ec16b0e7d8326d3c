"""Run as a script: ``entropick serve``, but with a start that never ends.

``endless_start.py load|calibrate [options of serve]``: the model's files are read for ever, or it is
calibrated for ever.
"""

import sys
import time
from pathlib import Path

from entropick_server.calibration import run
from entropick_server.cli import main
from entropick_server.engine import identity


def _read_for_ever(_: Path) -> str:
    print("reading", flush=True)
    while True:
        time.sleep(60)


def _tell(done: int, total: int) -> None:
    print("calibrating", done, total, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "load":
        identity._read = _read_for_ever
    else:
        run.ENOUGH_TOKENS = run.MAX_ROUNDS = 10**9  # type: ignore[misc]
        run._progress = _tell
    sys.exit(main(["serve", *sys.argv[2:]]))
