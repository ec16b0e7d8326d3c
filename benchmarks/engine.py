"""Speed of the embedded engine, all signals on, against other engines on the same weights.

Every engine is a process of its own (peers/), in its own environment where it needs one; all are loaded once
and take turns, round by round, on the same random prompts: while one runs the others are stopped. Ratios are
those of one round, of which the median, the quartiles and the extremes are printed. ``decode``: tokens a
second from the moment that every row has its first token. ``end to end``: from handing the batch in to its
last token. ``of CPU time``: the same ratio of the processes' CPU seconds a token, for machines that do other
things meanwhile.

The peers decode greedily and measure nothing; entropick runs the whole policy, measures every signal at every
token and delivers each token to an asyncio reader. ``--peers entropick,off`` compares it with itself, nothing
measured. ``--check``: do all engines say the same, greedily?
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from entropick_pico import model_path
from entropick_server.engine.embedded.cpu_threads import default_threads
from entropick_server.engine.source import read_source
from entropick_server.engine.types import EngineOptions
from peers.process import SPECS, Environments, Peer, PeerError
from peers.protocol import Load, Run, Stamp

FIRST_WORD = 260
"""ids below are special tokens and single bytes of the shipped tokenizer"""
Measure = Callable[[Run, str], float]


def decode(run: Run, clock: str) -> float:
    """Tokens a second of a clock (wall, cpu) after the first tokens."""
    return run.after / _seconds(run.begin, run.end, clock)


def end_to_end(run: Run, clock: str) -> float:
    """Tokens a second of a clock, prompts included."""
    return sum(map(len, run.ids)) / _seconds(run.start, run.end, clock)


def _seconds(start: Stamp, end: Stamp, clock: str) -> float:
    return float(getattr(end, clock) - getattr(start, clock))


def model_folder(name: str, build: Path) -> Path:
    """``pico``, ``125m`` (made when it is missing), or a folder."""
    if name == "pico":
        return model_path()
    if name == "125m":
        from peers.random_llama import make

        return make(model_path(), build / "llama-125m")
    return Path(name)


def weights_of(args: argparse.Namespace) -> tuple[Path, Path, str]:
    """The model as a folder, as a GGUF file, and as ``entropick serve`` is given it.

    Of a model that is a GGUF file llama.cpp and entropick read that file, the others the folder that it is
    converted into.
    """
    if args.model == "smollm2" or args.model.endswith(".gguf"):
        source = read_source(EngineOptions(model=args.model))
        if source.gguf is None:
            raise SystemExit(f"{args.model} is not of a GGUF file")
        return source.folder, source.gguf, args.model
    folder = model_folder(args.model, args.build)
    return folder, gguf_file(folder, args.build, environments(args)), str(folder.absolute())


def gguf_file(model: Path, build: Path, environments: Environments) -> Path:
    """The model as GGUF, written by llama.cpp's environment when it is missing or older than the model."""
    target = build / ("pico.gguf" if model == model_path() else f"{model.name}.gguf")
    fresh = target.is_file() and target.stat().st_mtime >= (model / "model.safetensors").stat().st_mtime
    if not fresh and environments.llama.is_file():
        script = Path(__file__).parent / "peers" / "write_gguf.py"
        subprocess.run([environments.llama, script, model, target], check=True, stdout=sys.stderr)
    return target


def start(args: argparse.Namespace, asked: Load, peers: list[Peer]) -> None:
    """Add the peers that can run here; name those that cannot."""
    for key in args.peers.split(","):
        try:
            peers.append(Peer(key, environments(args), asked, args.build))
            print(f"- {key}: {peers[-1].name}")
        except PeerError as error:
            print(f"- MISSING: {error}")


def environments(args: argparse.Namespace) -> Environments:
    return Environments(args.vllm_python.absolute(), args.llama_python.absolute())


def random_prompts(generator: random.Random, rows: int, length: int, vocabulary: int) -> list[list[int]]:
    return [[generator.randrange(FIRST_WORD, vocabulary) for _ in range(length)] for _ in range(rows)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, quartiles and extremes, as three columns."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f} | |"
    low, middle, high = (f"{x:.{digits}f}" for x in statistics.quantiles(values, n=4, method="inclusive"))
    return f"{middle} | {low} to {high} | {min(values):.{digits}f} to {max(values):.{digits}f}"


def header(*columns: str) -> None:
    print("\n| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")


def table(title: str, measure: Measure, found: dict[tuple[int, int], list[dict[str, Run]]]) -> None:
    print(f"\n{title}")
    spreads = ("quartiles", "seen")
    header(
        "prompt",
        "batch",
        "peer",
        "its tokens/s",
        "entropick, tokens/s",
        "ratio",
        *spreads,
        "of CPU time",
        *spreads,
    )
    for (length, rows), rounds in found.items():
        ours = [measure(runs["entropick"], "wall") for runs in rounds]
        for key in [key for key in rounds[0] if key != "entropick"]:
            theirs = [measure(runs[key], "wall") for runs in rounds]
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            cpu = [measure(runs["entropick"], "cpu") / measure(runs[key], "cpu") for runs in rounds]
            print(
                f"| {length} | {rows} | {key} | {statistics.median(theirs):.0f} "
                f"| {statistics.median(ours):.0f} | {spread(ratios)} | {spread(cpu)} |"
            )


def costs(found: dict[tuple[int, int], list[dict[str, Run]]]) -> None:
    """What the signals cost: seconds of a decoded token with them, over those without."""
    print("\nSignals on over off, seconds of a decoded token")
    header("prompt", "batch", "clock", "on / off", "quartiles", "seen")
    for (length, rows), rounds in found.items():
        for clock in ("cpu", "wall"):
            ratios = [decode(runs["off"], clock) / decode(runs["entropick"], clock) for runs in rounds]
            print(f"| {length} | {rows} | {clock} | {spread(ratios, 3)} |")


def compare(args: argparse.Namespace, peers: list[Peer], vocabulary: int) -> None:
    generator = random.Random(args.seed)
    found: dict[tuple[int, int], list[dict[str, Run]]] = {}
    cases = list(itertools.product(args.prompts, args.batches))
    for turn in range(args.rounds + 1):
        for length, rows in cases:
            prompts = random_prompts(generator, rows, length, vocabulary)
            first = turn % len(peers)
            tokens = args.tokens if turn else min(args.tokens, 8)
            runs = {p.key: p.run(prompts, tokens) for p in peers[first:] + peers[:first]}
            if turn:  # the first round warms all up
                found.setdefault((length, rows), []).append({p.key: runs[p.key] for p in peers})
    if args.json:
        kept = [
            {
                "prompt": length,
                "rows": rows,
                "rounds": [{key: stamps(run) for key, run in runs.items()} for runs in rounds],
            }
            for (length, rows), rounds in found.items()
        ]
        args.json.write_text(json.dumps(kept))
    if "off" in {peer.key for peer in peers}:
        costs(found)
    table("Decode", decode, found)
    table("End to end", end_to_end, found)


def stamps(run: Run) -> dict[str, object]:
    return {**asdict(run), "ids": [len(row) for row in run.ids]}


def check(args: argparse.Namespace, peers: list[Peer], vocabulary: int) -> None:
    """Greedy tokens of every engine against the first peer that is not entropick."""
    generator = random.Random(args.seed)
    reference = next(p for p in peers if p.key != "entropick")
    header("prompt", "batch", "engine", f"rows with {reference.key}'s tokens", "first difference at")
    for length, rows in itertools.product(args.prompts, args.batches):
        prompts = random_prompts(generator, rows, length, vocabulary)
        truth = reference.run(prompts, args.tokens, greedy=True).ids
        for peer in peers:
            if peer is reference:
                continue
            said = peer.run(prompts, args.tokens, greedy=True).ids
            same = sum(a == b for a, b in zip(truth, said, strict=True))
            where = [
                next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
                for a, b in zip(truth, said, strict=True)
                if a != b
            ]
            print(f"| {length} | {rows} | {peer.key} | {same} of {rows} | {where or ''} |")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of both speed benchmarks."""
    parser.add_argument(
        "--model", default="pico", help="pico (default), 125m, smollm2, a GGUF file, or a folder of a Llama"
    )
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--build", type=Path, default=Path("build/bench"), help="folder for models and logs")
    parser.add_argument("--vllm-python", type=Path, default=Path(".venv-vllm/bin/python"))
    parser.add_argument("--llama-python", type=Path, default=Path(".venv-llama/bin/python"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for every single measurement")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser)
    known = [key for key in SPECS if key not in ("off", "vllm-eager")]
    parser.add_argument("--peers", default=",".join(known), help=f"of {', '.join(SPECS)}")
    parser.add_argument("--batches", type=numbers, default=[1, 4, 16])
    parser.add_argument("--prompts", type=numbers, default=[32], help="tokens of a prompt: 32,512")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="compare greedy tokens instead of speed")
    args = parser.parse_args()
    if args.rounds < 1 or args.tokens < 9:
        parser.error("--rounds is at least 1, --tokens at least 9")
    if unknown := set(args.peers.split(",")) - set(SPECS):
        parser.error(f"--peers: unknown: {', '.join(sorted(unknown))}")
    if "entropick" not in args.peers.split(","):
        parser.error("--peers: entropick is what the others are compared with")
    args.build.mkdir(parents=True, exist_ok=True)
    model, gguf, served = weights_of(args)
    config = json.loads((model / "config.json").read_text())
    words = len(json.loads((model / "tokenizer.json").read_text())["model"]["vocab"])
    most = max(args.batches)
    asked = Load(
        model=str(model.absolute()),
        gguf=str(gguf.absolute()),
        served=served,
        threads=args.threads,
        rows=most,
        context=max(args.prompts) + args.tokens,
        chunk=most * max(args.prompts),
    )
    if asked.context > config["max_position_embeddings"]:
        parser.error(f"--prompts, --tokens: the model's context is {config['max_position_embeddings']}")
    print(f"{args.model}: {args.threads} threads, {args.tokens} new tokens, {args.rounds} rounds\n")
    # peers that are stopped would outlive a parent that was told to end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    peers: list[Peer] = []
    try:
        start(args, asked, peers)
        if len(peers) < 2 or peers[0].key != "entropick":
            raise SystemExit("nothing to compare")
        (check if args.check else compare)(args, peers, words)
    finally:
        for peer in peers:
            peer.process.end()


if __name__ == "__main__":
    main()
