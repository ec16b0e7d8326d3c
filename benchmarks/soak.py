"""Many streaming clients with mixed policies for minutes, some of whom leave: is anything lost, does it grow?

Serves the shipped model in a process of its own on loopback. First every request of a fixed set is answered
alone; then ``--clients`` clients send them again and again, each a stream, and a part of the clients hang up
in the middle. Every stream that was read to its end is checked: its rows are numbered without a gap, there
are as many as usage says, their tokens joined are the text, and the text is the one that the request got
alone. Text may differ where rounding decides (neighbours may change the last bits of logits): such streams
are counted apart. Memory is the server's resident set and the blocks of its KV cache, before and after.

Exits with 1 where a token was lost or mixed, a request failed, or blocks stayed in use.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from _common import unseen_examples

_POLICIES: tuple[dict[str, Any], ...] = (
    {"policy": "fixed"},
    {"preset": "calibrated"},
    {"preset": "seed"},
    {"preset": "calibrated", "branch": {"width": 3, "depth": 6, "budget": 4}},
    {"preset": "seed", "branch": {"width": 2, "depth": 12, "budget": 4, "on": ["adaptive", "explore"]}},
    {"preset": "calibrated", "telemetry": "full"},
)


@dataclass
class Tally:
    """What was seen."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    tokens: int = 0
    differing: int = 0


def requests_of(count: int) -> list[dict[str, Any]]:
    """Requests of every policy over the grammar's tasks, each with a seed of its own."""
    examples = unseen_examples(max(1, count // 8), seed=11)
    random.Random(5).shuffle(examples)
    requests = []
    for i, example in enumerate(examples[:count]):
        ours = {"telemetry": "tokens", **_POLICIES[i % len(_POLICIES)]}
        requests.append(
            {
                "messages": [{"role": "user", "content": example.user}],
                "seed": i,
                "n": 1 + (i % 7 == 3),
                "max_tokens": 24 + 24 * (i % 6),
                "ignore_eos": i % 3 > 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                "entropick": ours,
            }
        )
    return requests


async def stream(
    client: httpx.AsyncClient, body: dict[str, Any], leave_after: int | None, tally: Tally
) -> list[str] | None:
    """The texts of one stream; None where it was left after ``leave_after`` chunks, or is faulty."""
    texts = [""] * body["n"]
    rows: list[list[dict[str, Any]]] = [[] for _ in texts]
    ends: list[str | None] = [None] * len(texts)
    usage, chunks = None, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            await response.aread()
            tally.faults.append(f"HTTP {response.status_code}: {response.text[:200]}")
            return None
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                tally.faults.append(f"in the stream: {chunk['error']}")
                return None
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                i = choice["index"]
                texts[i] += choice["delta"].get("content") or ""
                rows[i] += (choice.get("entropick") or {}).get("tokens") or []
                ends[i] = choice["finish_reason"] or ends[i]
            chunks += 1
            if leave_after is not None and chunks >= leave_after:
                tally.ends["left"] += 1
                return None
    tally.tokens += sum(map(len, rows))
    tally.ends.update(str(end) for end in ends)
    if None in ends or usage is None:
        tally.faults.append("a stream ended without finish_reason or usage")
    elif sum(map(len, rows)) != usage["completion_tokens"]:
        tally.faults.append(f"{[len(r) for r in rows]} rows, usage {usage['completion_tokens']}")
    elif any([row["index"] for row in told] != list(range(len(told))) for told in rows):
        tally.faults.append(f"rows {[[row['index'] for row in told] for told in rows]}")
    # special tokens have rows and no text
    elif texts != ["".join(r["token"] for r in told if not r["token"].startswith("<|")) for told in rows]:
        tally.faults.append(f"the texts are {texts!r}, their rows {[[r['token'] for r in t] for t in rows]}")
    else:
        return texts
    return None


async def client_loop(
    url: str,
    requests: list[dict[str, Any]],
    alone: list[list[str]],
    until: float,
    leaver: bool,
    seed: int,
    tally: Tally,
) -> None:
    """One client: request after request until the time is over."""
    rng = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        while time.monotonic() < until:
            i = rng.randrange(len(requests))
            leave = rng.randint(1, 20) if leaver else None
            texts = await stream(client, requests[i], leave, tally)
            if texts is not None and texts != alone[i]:
                tally.differing += 1
            if len(tally.faults) > 20:
                return


def resident_mib(pid: int) -> float:
    """The resident set of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(match.group(1)) / 1024 if match else float("nan")


async def gauges(url: str) -> dict[str, float]:
    """The server's gauges without labels' values: name -> value."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        block = (await client.get("/metrics")).text
    return {m[1]: float(m[2]) for m in re.finditer(r"^(entropick_[a-z_]+)\{[^}]*\} (\S+)$", block, re.M)}


async def watch(url: str, pid: int, until: float, every: float) -> None:
    """Print memory and load now and then."""
    begin = time.monotonic()
    while time.monotonic() < until:
        g = await gauges(url)
        print(
            f"| {(time.monotonic() - begin) / 60:.1f} | {resident_mib(pid):.0f} | "
            f"{100 * g['entropick_kv_cache_usage_ratio']:.1f} % | "
            f"{g['entropick_num_requests_running']:.0f} | {g['entropick_num_requests_waiting']:.0f} |",
            flush=True,
        )
        await asyncio.sleep(min(every, max(0.0, until - time.monotonic())))


def start_server(port: int, extra: list[str]) -> subprocess.Popen[bytes]:
    """Serve the shipped model; raises RuntimeError where it does not become ready."""
    command = [sys.executable, "-m", "entropick_server.cli", "serve", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning", *extra], env=os.environ)
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                return process
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    process.kill()
    raise RuntimeError("the server did not become ready")


async def soak(args: argparse.Namespace, url: str, pid: int) -> int:
    """The check against a server that runs; the exit code."""
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
    tally = Tally()
    begin, start = resident_mib(pid), await gauges(url)
    print(
        f"{args.clients} clients, every {args.leavers}th leaves, {args.minutes} minutes, "
        f"{len(requests)} requests\n"
    )
    print("| minute | RSS, MiB | KV cache in use | running | waiting |\n|---|---|---|---|---|")
    until = time.monotonic() + 60 * args.minutes
    await asyncio.gather(
        watch(url, pid, until, args.every),
        *(
            client_loop(url, requests, alone, until, i % args.leavers == 0, i, tally)
            for i in range(args.clients)
        ),
    )
    await asyncio.sleep(1)
    finish = await gauges(url)
    usage = "entropick_kv_cache_usage_ratio"
    print(
        f"\nRSS {begin:.0f} MiB at the start, {resident_mib(pid):.0f} MiB at the end; KV cache in use "
        f"{start[usage]:.3f} at the start, {finish[usage]:.3f} at the end"
    )
    print(
        f"{sum(tally.ends.values())} streams ({dict(tally.ends)}), {tally.tokens} tokens in complete ones; "
        f"lost or mixed: {len(tally.faults)}; text other than alone: {tally.differing}"
    )
    for fault in tally.faults[:10]:
        print("fault:", fault)
    return int(bool(tally.faults) or finish[usage] > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--leavers", type=int, default=5, help="every n-th client hangs up in the middle")
    parser.add_argument("--requests", type=int, default=96, help="distinct requests")
    parser.add_argument("--every", type=float, default=60, help="seconds between two lines")
    args, extra = parser.parse_known_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = start_server(port, extra)
    try:
        code = asyncio.run(soak(args, f"http://127.0.0.1:{port}", server.pid))
    finally:
        server.terminate()
        server.wait(40)
    sys.exit(code)


if __name__ == "__main__":
    main()
