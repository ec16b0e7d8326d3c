"""What genuineness costs a decode step: the same requests with it and without, in two engines of one process.

Both engines step in turns, and each pair of steps gives a ratio, of which the median and the quartiles are
printed; so what else the machine does meanwhile falls out. ``--asked``: the value of a request's
``genuineness`` on the one side; the other side has false. Times are processor time of the process, and of
the wall.

    python benchmarks/genuineness.py [--model DIR] [--rows 1 16] [--asked scores true seed] [--rounds 8]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from entropick_pico import model_path
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.startup import open_core
from entropick_server.engine.types import EngineOptions, Request

FIRST_WORD = 260
"""ids below are special tokens and single bytes of the shipped tokenizer"""
PROMPT = 64
NEVER = Path("/nonexistent")


def fill(core: EngineCore, rows: int, length: int, asked: Any, seed: int) -> None:
    """Adds the requests of a round and runs their prompts."""
    rng = random.Random(seed)
    for row in range(rows):
        prompt = tuple(rng.randrange(FIRST_WORD, core.info.vocab_size) for _ in range(PROMPT))
        sampling = SamplingParams(0.7, seed=row, max_tokens=length, ignore_eos=True)
        request = Request(f"r{row}", prompt, sampling, PolicyConfig(genuineness=asked), time.monotonic())
        core.add(request)
    while len(core.step().outputs) < rows:
        pass


def step(core: EngineCore) -> tuple[float, float]:
    """Runs a step. Returns its seconds of the processor and of the wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    core.step()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(cores: list[EngineCore], rows: int, asked: Any, rounds: int, length: int) -> None:
    """Prints the ratios of steps with genuineness to steps without, over some rounds."""
    ratios: list[list[float]] = [[], []]
    seconds: list[list[float]] = [[], []]
    for round_ in range(rounds):
        order = cores if round_ % 2 else cores[::-1]
        for core in order:
            fill(core, rows, length, asked if core is cores[0] else False, round_)
        for _ in range(length - 16):
            found = {id(core): step(core) for core in order}
            on, off = found[id(cores[0])], found[id(cores[1])]
            for clock in (0, 1):
                ratios[clock].append(on[clock] / off[clock])
            seconds[0].append(off[0])
            seconds[1].append(on[0])
        for core in cores:
            while not core.idle:
                core.step()
    for name, of_clock in zip(("processor", "wall"), ratios, strict=True):
        low, middle, high = statistics.quantiles(of_clock, n=4)
        print(
            f"  {rows:3} rows, {asked!s:6}, {name:9}: {middle - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%})"
            f" of {statistics.median(seconds[0]) * 1e3:.3f} ms, {len(of_clock)} pairs;"
            f" the medians' {statistics.median(seconds[1]) / statistics.median(seconds[0]) - 1:+.1%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--asked", nargs="+", default=["scores", "true", "seed"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    options = EngineOptions(
        model=args.model or str(model_path()), device="cpu", threads=args.threads, calibrate=False
    )
    with torch.inference_mode():
        cores = [open_core(options, NEVER)[0] for _ in range(2)]
        for rows in args.rows:
            for asked in args.asked:
                measure(cores, rows, True if asked == "true" else asked, args.rounds, args.length)


if __name__ == "__main__":
    main()
