"""HTTP serving against other servers on the same weights: C clients stream completions over loopback.

Each client sends its requests one after the other; prompts are random token ids, answers have a fixed length.
All servers are loaded once and take turns, round by round: while one serves the others are stopped. Of each
turn: tokens a second (all requests, prompts included), time to the first event with text, the mean time of a
token behind it, and the time between events of one answer (median and 95th percentile; near 0 where several
arrive in one read). Ratios are those of one round; above 1 entropick is better, whatever the figure.
``entropick`` answers with telemetry ``summary``, ``entropick-tokens`` with a row of signals for every token.
The clients share the processors with the server. An event may carry more than one token where a server waits
for whole characters.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import statistics
import sys
from dataclasses import dataclass

from engine import (
    add_common,
    header,
    numbers,
    random_prompts,
    spread,
    weights_of,
)
from peers.http_stream import Streamed, complete
from peers.process import PeerError
from peers.protocol import Load
from peers.servers import HOST, Programs, Server, request_body

ROWS = ("entropick", "entropick-tokens", "vllm", "llama.cpp")


@dataclass(frozen=True, slots=True)
class Turn:
    """One server's turn; seconds."""

    tokens_per_second: float
    first: list[float]
    """time to the first event, by request"""
    token: list[float]
    """of a token behind the first event, the mean of each answer"""
    gaps: list[float]
    """between events of an answer"""
    events: int
    tokens: int


async def serve_clients(server: Server, row: str, jobs: list[list[list[int]]], tokens: int) -> Turn:
    """``jobs``: the prompts of each client."""
    telemetry = "tokens" if row.endswith("-tokens") else "summary"

    async def client(number: int, prompts: list[list[int]]) -> list[Streamed]:
        answers = []
        for place, prompt in enumerate(prompts):
            seed = 1000 * number + place
            body = request_body(server.key, prompt, tokens, seed, telemetry)
            answers.append(await complete(HOST, server.port, body))
        return answers

    answers = list(itertools.chain(*await asyncio.gather(*(client(i, job) for i, job in enumerate(jobs)))))
    for answer in answers:
        if answer.tokens != tokens or not answer.events:
            raise RuntimeError(f"{row}: {answer.tokens} tokens in {len(answer.events)} events, not {tokens}")
    seconds = max(a.events[-1] for a in answers) - min(a.sent for a in answers)
    return Turn(
        tokens * len(answers) / seconds,
        [a.events[0] - a.sent for a in answers],
        [(a.events[-1] - a.events[0]) / (tokens - 1) for a in answers],
        [late - early for a in answers for early, late in itertools.pairwise(a.events)],
        sum(len(a.events) for a in answers),
        tokens * len(answers),
    )


def figures(turn: Turn) -> dict[str, float]:
    """What is compared, larger is better."""
    gaps = sorted(turn.gaps)
    return {
        "tokens/s": turn.tokens_per_second,
        "first": 1 / statistics.median(turn.first),
        "token": 1 / statistics.median(turn.token),
        "gap": 1 / statistics.median(gaps),
        "gap95": 1 / gaps[int(len(gaps) * 0.95)],
    }


FIGURES = ("tokens/s", "first", "token", "gap", "gap95")


def report(found: dict[tuple[int, int], list[dict[str, Turn]]]) -> None:
    times = ("first event, ms", "a token, ms", "between events, ms", "its 95 %")
    header("prompt", "clients", "server", "tokens/s", *times, "tokens an event")
    middle = statistics.median
    for (length, clients), rounds in found.items():
        for row in rounds[0]:
            of = [figures(turns[row]) for turns in rounds]
            ms = {name: middle(1e3 / each[name] for each in of) for name in FIGURES[1:]}
            events = sum(t[row].tokens for t in rounds) / sum(t[row].events for t in rounds)
            print(
                f"| {length} | {clients} | {row} | {middle(each['tokens/s'] for each in of):.0f} "
                f"| {ms['first']:.1f} | {ms['token']:.2f} | {ms['gap']:.2f} | {ms['gap95']:.2f} "
                f"| {events:.2f} |"
            )
    print("\nentropick against the others: ratios of each round")
    header("prompt", "clients", "entropick with", "against", "figure", "ratio", "quartiles", "seen")
    for (length, clients), rounds in found.items():
        ours = [row for row in rounds[0] if row.startswith("entropick")]
        for own, other in itertools.product(ours, [row for row in rounds[0] if row not in ours]):
            telemetry = "tokens" if own.endswith("-tokens") else "summary"
            for name in FIGURES:
                ratios = [figures(t[own])[name] / figures(t[other])[name] for t in rounds]
                print(f"| {length} | {clients} | {telemetry} | {other} | {name} | {spread(ratios)} |")


async def compare(args: argparse.Namespace, servers: dict[str, Server], vocabulary: int) -> None:
    generator = random.Random(args.seed)
    rows = [row for row in ROWS if row.removesuffix("-tokens") in servers and row in args.servers]
    found: dict[tuple[int, int], list[dict[str, Turn]]] = {}
    for turn in range(args.rounds + 1):
        for length, clients in itertools.product(args.prompts, args.clients):
            count = args.requests if turn else 1
            jobs = [random_prompts(generator, count, length, vocabulary) for _ in range(clients)]
            first = turn % len(rows)
            turns = {}
            for row in rows[first:] + rows[:first]:
                server = servers[row.removesuffix("-tokens")]
                with server.process.turn():
                    turns[row] = await serve_clients(server, row, jobs, args.tokens)
            if turn:  # the first round warms all up
                found.setdefault((length, clients), []).append({row: turns[row] for row in rows})
    if args.json:
        kept = [
            {
                "prompt": length,
                "clients": clients,
                "rounds": [{row: figures(turn) for row, turn in turns.items()} for turns in rounds],
            }
            for (length, clients), rounds in found.items()
        ]
        args.json.write_text(json.dumps(kept))
    report(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser)
    parser.add_argument("--servers", type=lambda s: s.split(","), default=list(ROWS), help=",".join(ROWS))
    parser.add_argument("--clients", type=numbers, default=[1, 4, 16])
    parser.add_argument("--prompts", type=numbers, default=[32], help="tokens of a prompt: 32,512")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=4, help="of each client in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.rounds < 1 or args.requests < 1 or args.tokens < 2:
        parser.error("--rounds and --requests are at least 1, --tokens at least 2")
    if unknown := set(args.servers) - set(ROWS):
        parser.error(f"--servers: unknown: {', '.join(sorted(unknown))}")
    args.build.mkdir(parents=True, exist_ok=True)
    model, gguf, served = weights_of(args)
    words = len(json.loads((model / "tokenizer.json").read_text())["model"]["vocab"])
    asked = Load(
        model=str(model.absolute()),
        gguf=str(gguf.absolute()),
        served=served,
        threads=args.threads,
        rows=max(args.clients),
        context=max(args.prompts) + args.tokens,
        chunk=max(args.clients) * max(args.prompts),
    )
    print(
        f"{args.model}: {args.threads} threads, {args.tokens} new tokens, {args.requests} requests a client, "
        f"{args.rounds} rounds\n"
    )
    # servers that are stopped would outlive a parent that was told to end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    servers: dict[str, Server] = {}
    try:
        llama_server = args.llama_python.absolute().parent.parent / "llama.cpp" / "bin" / "llama-server"
        programs = Programs(args.vllm_python.absolute(), llama_server)
        for key in dict.fromkeys(row.removesuffix("-tokens") for row in args.servers):
            try:
                servers[key] = Server(key, programs, asked, args.build)
            except PeerError as error:
                print(f"- MISSING: {error}")
        asyncio.run(compare(args, servers, words))
    finally:
        for server in servers.values():
            server.process.end()


if __name__ == "__main__":
    main()
