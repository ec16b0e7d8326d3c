"""Many clients for minutes, some of whom leave, misbehave or only hold a connection: is anything lost?

Serves the shipped model in a process of its own on loopback. First every request of a fixed set is answered
alone; then ``--clients`` clients send them again and again, each a stream, and a part of the clients hang up
in the middle. Every stream that was read to its end is checked: its rows are numbered without a gap, there
are as many as usage says, their tokens joined are the text, and the text is the one that the request got
alone. Text may differ where rounding decides (neighbours may change the last bits of logits): such streams
are counted apart.

Beside them ``--wild`` clients send random extreme requests (tools, schemas, branches, many choices) and leave
now and then, and ``--bad`` clients send bodies that must be refused. ``--streams`` plain streams, read in a
process of their own, tell the time between two tokens: at the start, at the end, and in ``--pairs`` pairs of
phases with and without 1,000 idle connections and 200 whose head arrives a byte a second. Memory is the
server's resident set and the blocks of its KV cache, before and after.

Exits with 1 where a token was lost or mixed, a request failed that should not, or blocks stayed in use.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

import httpx

from checked_streams import Tally, client_loop, requests_of, stream
from robustness.beside import Beside
from robustness.crowd import Crowd
from robustness.extremes import Extremes
from robustness.figures import median_of_ratios, percentile
from robustness.fuzz import Outcome, send
from robustness.served import Served


async def watch(served: Served, until: float, every: float) -> None:
    """Print memory and load now and then."""
    begin = time.monotonic()
    print("| minute | RSS, MiB | KV cache in use | running | waiting |\n|---|---|---|---|---|")
    while time.monotonic() < until:
        usage, running, waiting = [
            await served.gauge(name)
            for name in ("kv_cache_usage_ratio", "num_requests_running", "num_requests_waiting")
        ]
        print(
            f"| {(time.monotonic() - begin) / 60:.1f} | {served.resident_mib():.0f} | {100 * usage:.1f} % | "
            f"{running:.0f} | {waiting:.0f} |",
            flush=True,
        )
        await asyncio.sleep(min(every, max(0.0, until - time.monotonic())))


async def wild_loop(served: Served, source: Extremes, until: float, outcome: Outcome) -> None:
    """One client with random extreme requests, who leaves every fourth."""
    while time.monotonic() < until:
        leave = source.rng.uniform(0.05, 3.0) if source.rng.random() < 0.25 else None
        await send(served, source.request(), leave, 300, outcome)


async def bad_loop(served: Served, source: Extremes, until: float, outcome: Outcome) -> None:
    """One client whose bodies must be refused, one after another."""
    while time.monotonic() < until:
        path, body = source.bad()
        reply = await served.ask("POST", path, body, seconds=120)
        outcome.ends[str(reply.status)] += 1
        if reply.error is None or reply.status not in (400, 404):
            outcome.faults.append(f"a bad body got {reply.status}: {reply.text[:200]} for {body!r:.300}")
        await asyncio.sleep(source.rng.uniform(0.0, 0.5))


async def phases(served: Served, streams: Beside, args: argparse.Namespace, until: float) -> None:
    """The time between two tokens at the start, with and without a crowd of connections, and at the end."""

    def told(name: str, values: list[float]) -> None:
        p50, p99 = (1000 * percentile(values, share) for share in (0.5, 0.99))
        figures = f"p50 {p50:.0f} ms, p99 {p99:.0f} ms ({len(values)} tokens)"
        print(f"between two tokens, {name}: {figures}", flush=True)

    length = args.phase
    begin = time.monotonic()
    await asyncio.sleep(length)
    told("at the start", streams.latencies(begin, time.monotonic()))
    pairs = []
    for pair in range(args.pairs):
        p99 = {}
        # in turns: what changes during the run is on both sides alike
        for crowded in (pair % 2 == 0, pair % 2 == 1):
            async with Crowd(served.port, 1000 * crowded, 200 * crowded):
                await asyncio.sleep(3.0)  # they have come, or the last ones have gone
                begin = time.monotonic()
                await asyncio.sleep(length)
                p99[crowded] = percentile(streams.latencies(begin, time.monotonic()), 0.99)
        pairs.append((p99[True], p99[False]))
        with_it, without = (f"{1000 * p99[crowded]:.0f} ms" for crowded in (True, False))
        print(f"pair {pair + 1}: p99 with the crowd {with_it}, without {without}", flush=True)
    if pairs:
        middle, least, most, sure = median_of_ratios(pairs)
        print(
            f"p99 with 1,000 idle and 200 slow connections / without: median {middle:.2f} of {len(pairs)} "
            f"pairs, {least:.2f} to {most:.2f} ({100 * sure:.0f} % interval)"
        )
    await asyncio.sleep(max(0.0, until - length - time.monotonic()))
    begin = time.monotonic()
    await asyncio.sleep(length)
    told("at the end", streams.latencies(begin, time.monotonic()))


async def soak(args: argparse.Namespace, served: Served) -> int:
    """The check against a server that runs; the exit code."""
    url = f"http://127.0.0.1:{served.port}"
    requests = requests_of(args.requests)
    tally = Tally()
    alone: list[list[str]] = []
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        for body in requests:
            texts = await stream(client, body, None, tally)
            if texts is None:
                print(tally.faults)
                return 1
            alone.append(texts)
    await served.good()
    policy: dict[str, Any] = (await served.ask("GET", "/v1/policy")).json()
    model = (await served.ask("GET", "/v1/models")).json()["data"][0]["entropick"]
    tally, wild, bad = Tally(), Outcome(), Outcome()
    begin = served.resident_mib()
    print(
        f"{args.clients} clients, every {args.leavers}th leaves, {args.wild} with extreme requests, "
        f"{args.bad} with bad bodies, {args.streams} plain streams; {args.minutes:g} minutes, "
        f"{len(requests)} requests\n"
    )
    async with Beside(served, args.streams) as streams:
        until = time.monotonic() + 60 * args.minutes
        await asyncio.gather(
            watch(served, until, args.every),
            phases(served, streams, args, until),
            *(
                client_loop(url, requests, alone, until, i % args.leavers == 0, i, tally)
                for i in range(args.clients)
            ),
            *(
                wild_loop(served, Extremes(policy, model["vocab_size"], i), until, wild)
                for i in range(args.wild)
            ),
            *(
                bad_loop(served, Extremes(policy, model["vocab_size"], 1000 + i), until, bad)
                for i in range(args.bad)
            ),
        )
    free, good = await served.idle(60), await served.good()
    faults = [*tally.faults, *wild.faults, *bad.faults]
    print(
        f"\nRSS {begin:.0f} MiB at the start, {served.resident_mib():.0f} MiB at the end; "
        f"{'every block of the KV cache is free' if free else 'blocks of the KV cache stay in use'}; "
        f"the first request {'gets the text that it had' if good else 'gets ANOTHER text'}\n"
        f"{sum(tally.ends.values())} streams ({dict(tally.ends)}), {tally.tokens} tokens in complete ones; "
        f"lost or mixed: {len(tally.faults)}; text other than alone: {tally.differing}\n"
        f"extreme requests: {told_of(wild)}\nbad bodies: {told_of(bad)}"
    )
    for fault in faults[:10]:
        print("fault:", fault)
    return int(bool(faults) or not (free and good))


def told_of(outcome: Outcome) -> str:
    """The answers by kind, and the number of those that should not have come."""
    kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(outcome.ends.items()))
    return f"{sum(outcome.ends.values())} ({kinds}); not as they should be: {len(outcome.faults)}"


async def run(args: argparse.Namespace, extra: list[str]) -> int:
    """The soak around a server of its own; the exit code."""
    # room in the queue for every choice of every client: a 503 would be right there, and hide one that is not
    async with Served("--log-level", "warning", "--max-queue", "100000", *extra) as served:
        return await soak(args, served)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--leavers", type=int, default=5, help="every n-th client hangs up in the middle")
    parser.add_argument("--wild", type=int, default=6, help="clients with random extreme requests")
    parser.add_argument("--bad", type=int, default=2, help="clients with bodies that must be refused")
    parser.add_argument("--streams", type=int, default=4, help="plain streams that tell the time of a token")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of phases with and without the crowd")
    parser.add_argument("--phase", type=float, default=18, help="seconds of a phase")
    parser.add_argument("--requests", type=int, default=96, help="distinct requests")
    parser.add_argument("--every", type=float, default=60, help="seconds between two lines")
    args, extra = parser.parse_known_args()
    sys.exit(asyncio.run(run(args, extra)))


if __name__ == "__main__":
    main()
