"""What genuineness costs a decode step, beside steps of the same requests without it.

G alone (``scores``): one engine, which watches every other step; two neighbouring steps give a ratio. Token
costs (``true``, ``seed``) change the forward too: two engines of one process step in turns, one with and one
without, then they change sides, for one engine may lie better in memory than the other. Printed are the
median of the ratios and the quartiles, by processor time and by the wall; what else the machine does
meanwhile falls out.

    python benchmarks/genuineness.py [--model DIR] [--rows 1 16] [--asked scores true seed] [--rounds 8]
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from entropick_pico import model_path
from entropick_sampler.genuineness.counts import WindowStep
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.forward import ForwardOutput
from entropick_server.engine.embedded.startup import open_core
from entropick_server.engine.embedded.watch import Watch
from entropick_server.engine.tokens import NO_WINDOW
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
    while len(outputs := core.step().outputs) < rows:
        pass
    if errors := [output.error for output in outputs if output.error]:
        raise SystemExit(errors[0])


def step(core: EngineCore) -> tuple[float, float]:
    """Runs a step. Returns its seconds of the processor and of the wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    core.step()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(cores: list[EngineCore], rows: int, asked: Any, rounds: int, length: int) -> None:
    """Prints the ratios of steps with genuineness to steps without, over some rounds."""
    ratios: list[tuple[list[float], list[float]]] = [([], []), ([], [])]
    seconds: list[float] = []
    for round_ in range(rounds):
        for which in (0, 1):
            on, off = cores[which], cores[1 - which]
            for core in cores:
                fill(core, rows, length, asked if core is on else False, round_)
            for number in range(length - 16):
                order = (on, off) if number % 2 else (off, on)
                found = {id(core): step(core) for core in order}
                for clock in (0, 1):
                    ratios[which][clock].append(found[id(on)][clock] / found[id(off)][clock])
                seconds.append(found[id(off)][0])
            for core in cores:
                while not core.idle:
                    core.step()
    for clock, name in enumerate(("processor", "wall")):
        first, second = (statistics.quantiles(of_side[clock], n=4) for of_side in ratios)
        # one engine may lie better in memory than the other: the geometric mean of both ways round
        low, middle, high = (math.sqrt(a * b) for a, b in zip(first, second, strict=True))
        print(
            f"  {rows:3} rows, {asked!s:6}, {name:9}: {middle - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%})"
            f" of {statistics.median(seconds) * 1e3:.3f} ms, {len(seconds)} pairs; each way round "
            f"{first[1] - 1:+.1%}, {second[1] - 1:+.1%}",
            flush=True,
        )


def measure_watch(core: EngineCore, rows: int, rounds: int, length: int) -> None:
    """Prints the ratios of steps that are watched to their neighbours that are not."""
    ratios: tuple[list[float], list[float]] = ([], [])
    seconds: list[float] = []
    sampler = core._sampler
    for round_ in range(rounds):
        fill(core, rows, length, "scores", round_)
        watch, nothing = sampler._watch, Unwatched(rows)
        for number in range((length - 16) // 2):
            found = {}
            for watched in (True, False) if number % 2 else (False, True):
                sampler._watch = watch if watched else nothing
                found[watched] = step(core)
            for clock in (0, 1):
                ratios[clock].append(found[True][clock] / found[False][clock])
            seconds.append(found[False][0])
        sampler._watch = watch
        while not core.idle:
            core.step()
    for of_clock, name in zip(ratios, ("processor", "wall"), strict=True):
        low, middle, high = statistics.quantiles(of_clock, n=4)
        print(
            f"  {rows:3} rows, scores, {name:9}: {middle - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%}) of "
            f"{statistics.median(seconds) * 1e3:.3f} ms, {len(seconds)} pairs",
            flush=True,
        )


class Unwatched(Watch):
    """A watch that sees nothing."""

    def __init__(self, rows: int) -> None:
        super().__init__(None)
        self._rows = rows

    def push(self, output: ForwardOutput, logits: torch.Tensor) -> list[WindowStep]:
        return [NO_WINDOW] * self._rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--asked", nargs="+", default=["scores", "true", "seed"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    options = EngineOptions(
        model=args.model or str(model_path()), device="cpu", threads=args.threads, calibrate=False
    )
    with torch.inference_mode():
        engines = 1 if args.asked == ["scores"] else 2
        cores = [open_core(options, NEVER)[0] for _ in range(engines)]
        for rows in args.rows:
            for asked in args.asked:
                if asked == "scores":
                    measure_watch(cores[0], rows, args.rounds, args.length)
                    continue
                measure(cores, rows, True if asked == "true" else asked, args.rounds, args.length)


if __name__ == "__main__":
    main()
