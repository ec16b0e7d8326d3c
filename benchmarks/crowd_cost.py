"""Measures the processor time that a crowd of connections costs a server which nobody asks for anything.

    PYTHONPATH=benchmarks python benchmarks/crowd_cost.py [--seconds 48] [--idle 1000] [--slow 200]

``--idle`` connections on which nothing comes and ``--slow`` whose head arrives a byte a second, all of which
the server closes at its deadline and which come again a second later. Printed: the milliseconds of processor
time a second of the server's process without and with them, and of the process that is the crowd.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

from robustness.crowd import Crowd
from robustness.served import Served

_TICKS = os.sysconf("SC_CLK_TCK")


def processor_time(pid: int) -> float:
    """Returns the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def _used(pids: list[int], seconds: float) -> list[float]:
    """Returns the milliseconds of processor time a second of some processes."""
    before, begin = [processor_time(pid) for pid in pids], time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - begin
    return [1000 * (processor_time(pid) - was) / passed for pid, was in zip(pids, before, strict=True)]


async def _measure(args: argparse.Namespace) -> None:
    async with Served("--log-level", "error") as served:
        server = served.process.pid
        await served.good()
        await asyncio.sleep(2)
        (alone,) = await _used([server], args.seconds / 2)
        async with Crowd(served.port, args.idle, args.slow) as crowd:
            await asyncio.sleep(4)
            crowded, own = await _used([server, crowd.pid], args.seconds)
            held = served.connections()
        print(
            f"the server: {alone:.1f} ms a second alone, {crowded:.1f} ms with {args.idle} idle and "
            f"{args.slow} slow connections ({held} open at the end); the crowd's own: {own:.1f} ms"
        )


def main() -> None:
    """Prints the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # three times as long as the deadline of a head
    parser.add_argument("--seconds", type=float, default=48)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--slow", type=int, default=200)
    asyncio.run(_measure(parser.parse_args()))


if __name__ == "__main__":
    main()
