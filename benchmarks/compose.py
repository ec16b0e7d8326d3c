"""The cost of composing a batch, of validating a request, and of a sampling step on the CPU.

A batch is composed whenever a row joins or leaves it, in the thread that steps. Figures are medians over
rounds, in microseconds of the calling thread's own time, with the quickest round beside them; the calls take
turns, round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from entropick_pico import model_path
from entropick_sampler.batch import SampledBatch, warmup
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.compose import RowParams, validate_request
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import PROFILE_FILE, Profile

POLICIES = (PolicyConfig(), PolicyConfig(preset="seed"), PolicyConfig(policy="fixed"))


def cases(profile: Profile, vocabulary: int) -> dict[str, Callable[[], object]]:
    """Returns the calls to measure, by name."""
    found: dict[str, Callable[[], object]] = {
        "validate a request": lambda: validate_request(SamplingParams(), POLICIES[0], profile),
        "make the record of a row": lambda: RowParams.of(profile.params, True, profile),
    }
    for count in (1, 4, 16):
        rows = [(SamplingParams(seed=i), POLICIES[i % 3]) for i in range(count)]
        batch = SampledBatch(rows, profile)
        logits, attention = torch.randn(count, vocabulary) * 4, torch.rand(count, 6)
        columns = StepColumns.of([StepRow(0)] * count)

        def compose(rows: list[tuple[SamplingParams, PolicyConfig]] = rows) -> object:
            return SampledBatch(rows, profile)

        def step(
            batch: SampledBatch = batch,
            logits: torch.Tensor = logits,
            attention: torch.Tensor = attention,
            columns: StepColumns = columns,
        ) -> object:
            return batch.step(logits, attention, None, columns)

        found[f"compose {count} rows"], found[f"step {count} rows"] = compose, step
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", type=int, default=50, help="calls a round")
    parser.add_argument("--vocabulary", type=int, default=1664)
    options = parser.parse_args()
    warmup()
    things = cases(Profile.load(model_path() / PROFILE_FILE), options.vocabulary)
    taken: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(options.rounds):
        for name, call in things.items():
            begin = time.thread_time_ns()
            for _ in range(options.calls):
                call()
            taken[name].append((time.thread_time_ns() - begin) / options.calls / 1e3)
    for name, values in taken.items():
        print(f"{name:26s} {statistics.median(values):9.1f} us   quickest {min(values):9.1f} us")


if __name__ == "__main__":
    main()
