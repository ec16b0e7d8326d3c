"""The price of watching: telemetry ``tokens``, all metrics and a scrape every 5 seconds, against none of it.

Two servers of one model over loopback take turns, round by round, while the other is stopped: one as it is
shipped, one that counts nothing. 16 clients stream completions of a fixed length, each one after the other.
Three rows: ``all`` (telemetry tokens, metrics, a scraper), ``metrics`` (telemetry none, metrics, a scraper)
and ``off`` (telemetry none, no metrics). A turn should last about five seconds or more, so that one scrape
falls into each (``--requests``); how often it was scraped is printed. Ratios are tokens a second against
those of ``off`` in the same round; 1 costs nothing, .95 costs 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import signal
import statistics
import sys
import urllib.request
from pathlib import Path
from typing import Any

from engine import add_common, header, model_folder, random_prompts, spread
from entropick_server import metrics, state
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions
from entropick_server.serve import serve
from entropick_server.settings import Settings
from peers.http_stream import Streamed, complete
from peers.process import ENTROPICK_ENVIRONMENT, Process, environment
from peers.servers import HOST, _free_port

ROWS = {"all": ("on", "tokens"), "metrics": ("on", "none"), "off": ("off", "none")}
"""row -> server, telemetry"""
SCRAPE_SECONDS = 5.0
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


class Nothing:
    """Takes every call and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class SilentMetrics(metrics.Metrics):
    """Metrics that count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.choices = self.http = Nothing()  # type: ignore[assignment]

    def bind(self, *_: Any) -> None:
        pass

    def on_step(self, report: Any) -> None:
        pass

    def on_end(self, *_: Any) -> bool:
        return True

    def on_consensus(self, *_: Any) -> None:
        pass


def run_server(args: argparse.Namespace) -> None:
    """The child: serves until it is ended."""
    if args.serve == "off":
        state.Metrics = SilentMetrics  # type: ignore[misc]
    options = EngineOptions(
        args.model, max_num_seqs=args.clients, threads=args.threads, device="cpu", served_model_name="model"
    )
    settings = Settings(_env_file=None, port=args.port, log_level="warning", max_num_seqs=args.clients)  # type: ignore[call-arg]
    serve(EmbeddedEngine(options), settings)


class Child:
    """A server in a process of its own; stopped except in its turn."""

    def __init__(self, kind: str, model: Path, args: argparse.Namespace) -> None:
        self.port = _free_port()
        command = [sys.executable, __file__, "--serve", kind, "--port", str(self.port)]
        command += ["--model", str(model), "--clients", str(args.clients), "--threads", str(args.threads)]
        log = args.build / "logs" / f"metrics-{kind}.log"
        self.process = Process(command, environment(**ENTROPICK_ENVIRONMENT), log, pipes=False)

    async def wait(self) -> None:
        for _ in range(3000):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{HOST}:{self.port}/health", timeout=2)
                return
            if self.process.popen.poll() is not None:
                break
            await asyncio.sleep(0.2)
        raise RuntimeError(f"the server did not start: {self.process.log}")


async def scrape(port: int, scraped: list[int]) -> None:
    """Reads the page as Prometheus does: every five seconds, the first time after half of that."""
    request = urllib.request.Request(f"http://{HOST}:{port}/metrics", headers=OPENMETRICS)
    await asyncio.sleep(SCRAPE_SECONDS / 2)
    while True:
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=60).read())
        scraped.append(len(page))
        await asyncio.sleep(SCRAPE_SECONDS)


async def turn(
    child: Child, row: str, jobs: list[list[list[int]]], tokens: int, scraped: list[int]
) -> tuple[float, float]:
    """Tokens a second of one row's turn, and its seconds."""

    async def client(number: int, prompts: list[list[int]]) -> list[Streamed]:
        answers = []
        for place, prompt in enumerate(prompts):
            body = {
                "prompt": prompt,
                "max_tokens": tokens,
                "ignore_eos": True,
                "seed": 1000 * number + place,
                "temperature": 1.0,
                "stream": True,
                "stream_options": {"include_usage": True},
                "entropick": {"telemetry": ROWS[row][1]},
            }
            answers.append(await complete(HOST, child.port, body))
        return answers

    scraper = asyncio.create_task(scrape(child.port, scraped)) if ROWS[row][0] == "on" else None
    try:
        lists = await asyncio.gather(*(client(i, job) for i, job in enumerate(jobs)))
    finally:
        if scraper is not None:
            scraper.cancel()
            await asyncio.wait({scraper})
    answers = list(itertools.chain(*lists))
    if any(answer.tokens != tokens for answer in answers):
        raise RuntimeError(f"{row}: an answer is not of {tokens} tokens")
    seconds = max(a.events[-1] for a in answers) - min(a.sent for a in answers)
    return tokens * len(answers) / seconds, seconds


async def compare(args: argparse.Namespace, model: Path) -> list[dict[str, float]]:
    generator = random.Random(args.seed)
    words = len(json.loads((model / "tokenizer.json").read_text())["model"]["vocab"])
    children: dict[str, Child] = {}
    rounds: list[dict[str, float]] = []
    scraped: list[int] = []
    watched = 0.0
    try:
        for kind in ("on", "off"):
            children[kind] = Child(kind, model, args)
            with children[kind].process.turn():
                await children[kind].wait()
        for number in range(args.rounds + 1):
            names = list(ROWS)
            names = names[number % 3 :] + names[: number % 3]
            jobs = [random_prompts(generator, args.requests, 32, words) for _ in range(args.clients)]
            found = {}
            for row in names:
                child = children[ROWS[row][0]]
                with child.process.turn():
                    found[row], seconds = await turn(child, row, jobs, args.tokens, scraped)
                    watched += seconds if ROWS[row][0] == "on" else 0.0
            if number:  # the first round warms all up
                rounds.append(found)
    finally:
        for child in children.values():
            child.process.end()
    if not scraped:
        raise SystemExit("the turns are too short for a scrape: ask for more --requests")
    print(
        f"{len(scraped)} scrapes, one in {watched / len(scraped):.1f} s, the last of "
        f"{scraped[-1] / 1024:.0f} KiB"
    )
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser)
    parser.add_argument("--serve", choices=("on", "off"), help="be a server (the benchmark starts itself so)")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=12, help="of each client in a turn")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    if args.serve:
        run_server(args)
        return
    args.build.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rounds = asyncio.run(compare(args, model_folder(args.model, args.build).absolute()))
    if args.json:
        args.json.write_text(json.dumps(rounds))
    print(
        f"{args.model}: {args.clients} clients, {args.requests} requests of {args.tokens} tokens each, "
        f"{args.rounds} rounds, {args.threads} threads"
    )
    header("row", "tokens/s", "against off", "quartiles", "seen")
    for row in ROWS:
        ratios = [found[row] / found["off"] for found in rounds]
        speed = statistics.median(found[row] for found in rounds)
        print(f"| {row} | {speed:.0f} | {spread(ratios, 3)} |")


if __name__ == "__main__":
    main()
