"""Sends random extreme requests at once to a server under pressure, while some clients leave.

The KV cache is small, so that sequences give their blocks up and are computed again.

Every answer must be whole or an error in the documented shape, never a 500; afterwards every block of the KV
cache is free, and the good request gets the text that it had before. --seed: other requests.
Exits with 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from .extremes import Asked, Extremes
from .served import Served
from .wire import Reply, connected, request_bytes

PRESSURE: Final = ("--kv-cache-bytes", str(2 << 20), "--max-num-seqs", "12", "--max-queue", "100000")
"""options of a server whose KV cache is short"""
_REFUSALS: Final = frozenset({400, 404, 413, 429, 503})


@dataclass
class Outcome:
    """The answers by kind, and the faults among them."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def fault_of(reply: Reply, streamed: bool) -> tuple[str, str | None]:
    """Returns the kind of an answer, and what is wrong with it; None: nothing is."""
    if reply.status == 0:
        return "no answer", "no answer came"
    if reply.status != 200:
        known = reply.status in _REFUSALS and reply.error is not None
        return str(reply.status), None if known else f"{reply.status}: {reply.text[:300]}"
    if not reply.whole:
        return "cut", "the answer was cut"
    if not streamed:
        choices = reply.json().get("choices")
        return "200", None if choices else f"no choices: {reply.text[:300]}"
    *lines, last = (line for line in reply.text.split("\n\n") if line.startswith("data: "))
    if last != "data: [DONE]":
        error = json.loads(last[6:]).get("error")
        whole = isinstance(error, dict) and set(error) == {"message", "type", "param", "code"}
        kind = f"stream, error {error['code']}" if whole else "stream"
        return kind, None if whole and error[
            "code"
        ] != "internal_error" else f"the stream ends with {last[:300]}"
    for line in lines:
        json.loads(line[6:])
    return "200, stream", None


async def send(served: Served, asked: Asked, leave_after: float | None, seconds: float, out: Outcome) -> None:
    """Sends a request and notes its answer, or leaves in the middle."""
    path, body = asked
    if leave_after is not None:
        async with connected(served.port) as (reader, writer):
            writer.write(request_bytes("POST", path, body))
            await asyncio.wait([asyncio.create_task(reader.read(1 << 24))], timeout=leave_after / 2)
            await asyncio.sleep(leave_after / 2)
        out.ends["left"] += 1
        return
    reply = await served.ask("POST", path, body, seconds=seconds)
    kind, fault = fault_of(reply, bool(body.get("stream")))
    out.ends[kind] += 1
    if fault is not None:
        out.faults.append(f"{fault}\n    {path} {json.dumps(body)[:1500]}")


async def fuzz(count: int, seed: int, leavers: float, seconds: float) -> tuple[str, list[str]]:
    """Sends ``count`` requests at once; returns the figures in a line, and the faults."""
    out = Outcome()
    async with Served(*PRESSURE, "--log-level", "warning") as served:
        await served.good()
        policy: dict[str, Any] = (await served.ask("GET", "/v1/policy")).json()
        model = (await served.ask("GET", "/v1/models")).json()["data"][0]
        source = Extremes(policy, model["entropick"]["vocab_size"], seed)
        begin = time.monotonic()
        await asyncio.gather(
            *(
                send(
                    served,
                    source.request(),
                    source.rng.uniform(0.05, 20) if source.rng.random() < leavers else None,
                    seconds,
                    out,
                )
                for _ in range(count)
            )
        )
        took = time.monotonic() - begin
        if not await served.idle(60):
            out.faults.append("blocks of the KV cache stay in use")
        if not await served.good():
            out.faults.append("the good request is not served as before")
        preemptions = await served.gauge("num_preemptions_total")
        if "Traceback" in served.log():
            out.faults.append(f"a traceback in the log:\n{served.log()[-3000:]}")
    figures = (
        f"{count} extreme requests at once (seed {seed}) in {took:.0f} s: {preemptions:.0f} preemptions, "
        f"{out.ends['left']} leavers, {len(out.faults)} failures; "
        + ", ".join(f"{kind}: {n}" for kind, n in sorted(out.ends.items()))
    )
    return figures, out.faults


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=705, help="requests at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leavers", type=float, default=0.25, help="share of clients that leave")
    parser.add_argument("--seconds", type=float, default=1800, help="the longest that a request may take")
    args = parser.parse_args()
    figures, faults = asyncio.run(fuzz(args.count, args.seed, args.leavers, args.seconds))
    print(figures)
    for fault in faults[:20]:
        print("fault:", fault)
    sys.exit(int(bool(faults)))


if __name__ == "__main__":
    main()
