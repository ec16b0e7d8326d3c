"""Measures what a long queue costs each step of the embedded engine's scheduler.

    python -m benchmarks.turns [--waiting 2000] [--steps 300]

No model computes: every place is taken by long replies and the queue is full of their like, so that the
scheduler looks for a sequence that should give its place up, at every step. Printed: the median time of
``schedule`` with the queue and with a queue of 16, and their ratio; for replies that never had a place and,
behind enough steps, for replies that had one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, cast

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.block_pool import BlockPool
from entropick_server.engine.embedded.scheduler import Scheduler
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.types import Request

_PLACES = 16
_REPLY = 4000


class _Bytes:
    def token_bytes(self, token_id: int) -> bytes:
        """Every token is a character."""
        return b"x"


def median_time(waiting: int, steps: int, behind: int) -> float:
    """Returns the median seconds of ``schedule`` in ``steps`` steps that come behind ``behind`` others."""
    scheduler = Scheduler(BlockPool(60_000), 16, _PLACES, 512)
    for number in range(_PLACES + waiting):
        sampling = SamplingParams(max_tokens=_REPLY, ignore_eos=True)
        prompt = (number % 97, *range(29))
        policy = PolicyConfig(policy="fixed")
        request = Request(f"r{number}", prompt, sampling, policy, 0.0, answer_id=f"a{number}")
        scheduler.add(Sequence.of(request, 2 * _REPLY))
    times = []
    for _ in range(behind + steps):
        begin = time.perf_counter()
        batch = scheduler.schedule()
        times.append(time.perf_counter() - begin)
        scheduler.advance(batch)
        scheduler.register(batch.rows)
        for row in batch.rows:
            row.tokens.append(7)
            row.reply.take(7, cast(Any, _Bytes()))
    return statistics.median(times[behind:])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waiting", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    for name, behind in (("that never had a place", 40), ("most of which had one", 2 * args.waiting)):
        long, short = (median_time(n, args.steps, behind) for n in (args.waiting, _PLACES))
        print(
            f"{args.waiting} replies {name}: {1e6 * long:.0f} us a schedule, with {_PLACES} of them "
            f"{1e6 * short:.0f} us: ratio {long / short:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
