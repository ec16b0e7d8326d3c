"""What adjustments cost: a sampling step and a decode step with them against the same without.

python benchmarks/adjustments.py [--rounds N] [--vocabulary V]

Rounds of both arms alternate within one process, so that a busy machine slows both; the table has the median
of the rounds' ratios, with the quartiles. ``step``: the native sampling step of random logits; ``reply``: a
whole reply of the shipped model with the embedded engine, greedy, its end ignored.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from entropick_pico import model_path
from entropick_sampler.adjustments import Masks, words_of
from entropick_sampler.batch import SampledBatch
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.reply_adjustments import ReplyAdjustments, step_adjustments
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.types import EngineOptions, Request

FIXED = PolicyConfig("fixed")
TOKENS = 200


def asked(vocabulary: int) -> dict[str, dict[str, Any]]:
    """The adjustments of a request, by the name of the arm."""
    spread = np.linspace(0, vocabulary - 1, 300).astype(int).tolist()
    return {
        "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
        "bias of 300 tokens": {"logit_bias": tuple((i, 1.0) for i in spread)},
        "mask of half": {"allowed_token_ids": tuple(range(0, vocabulary, 2))},
        "mask of one half in words": {"allowed_token_ids": tuple(range(vocabulary // 2))},
        "16 bad words": {"bad_words": tuple((i, i + 1) for i in spread[:16])},
        "all": {
            "presence_penalty": 0.5,
            "repetition_penalty": 1.1,
            "logit_bias": tuple((i, 1.0) for i in spread),
            "allowed_token_ids": tuple(range(0, vocabulary, 2)),
            "bad_words": tuple((i, i + 1) for i in spread[:16]),
        },
    }


def ratio(without: Callable[[], object], with_them: Callable[[], object], rounds: int) -> str:
    """The median of time with / time without over alternating rounds, with the quartiles."""

    def seconds(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    seconds(without), seconds(with_them)
    found = []
    for i in range(rounds):
        first, second = (without, with_them) if i % 2 else (with_them, without)
        a, b = seconds(first), seconds(second)
        found.append(b / a if i % 2 else a / b)
    low, middle, high = statistics.quantiles(found, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def sampling_steps(vocabulary: int, rows: int, prompt: int, rounds: int) -> dict[str, str]:
    """The ratios of a sampling step; the adjustments are laid out in every step, as an engine does."""
    logits = torch.randn(rows, vocabulary) * 3
    columns = StepColumns.of([StepRow(5)] * rows)
    tokens = np.random.default_rng(0).integers(0, vocabulary, prompt).tolist()

    def arm(fields: dict[str, Any]) -> Callable[[], object]:
        requests = [(SamplingParams(0.8, seed=i, top_k=40, **fields), FIXED) for i in range(rows)]
        batch = SampledBatch(requests, None)
        replies = [ReplyAdjustments.of(sampling, tokens, tokens[:200]) for sampling, _ in requests]

        def run() -> None:
            for _ in range(10):
                batch.step(logits, None, None, columns, adjustments=step_adjustments(replies, vocabulary))

        return run

    without = arm({})
    found = {name: ratio(without, arm(fields), rounds) for name, fields in asked(vocabulary).items()}
    # nothing is adjusted, nothing must be paid
    found["a row beside others that has none"] = ratio(without, arm({}), rounds)
    return found


def masks_alone(vocabulary: int, rows: int, rounds: int) -> str:
    """The ratio of a step whose masks come ready from elsewhere, as those of a grammar do."""
    logits, columns = torch.randn(rows, vocabulary) * 3, StepColumns.of([StepRow(5)] * rows)
    batch = SampledBatch([(SamplingParams(0.8, seed=i, top_k=40), FIXED) for i in range(rows)], None)
    words = np.stack([words_of(range(0, vocabulary, 7), vocabulary)] * rows)
    masks = Masks(np.arange(rows), words)

    def steps(given: Masks | None) -> None:
        for _ in range(10):
            adjustments = step_adjustments([None] * rows, vocabulary, masks=given)
            batch.step(logits, None, None, columns, adjustments=adjustments)

    return ratio(lambda: steps(None), lambda: steps(masks), rounds)


def replies(rows: int, rounds: int) -> dict[str, str]:
    """The ratios of whole replies of the shipped model, several at a time."""
    options = EngineOptions(model=str(model_path()), device="cpu", threads=1)
    core = EngineCore(load_model(options), options, None)
    vocabulary = load_model(options).info.vocab_size
    count = 0

    def arm(fields: dict[str, Any]) -> Callable[[], object]:
        def run() -> None:
            nonlocal count
            for row in range(rows):
                count += 1
                sampling = SamplingParams(0.0, seed=row, max_tokens=TOKENS, ignore_eos=True, **fields)
                prompt = tuple(range(10 + row, 60 + row))
                core.add(Request(f"request-{count}", prompt, sampling, FIXED, time.monotonic()))
            while not core.idle:
                core.step()

        return run

    without = arm({})
    found = {name: ratio(without, arm(fields), rounds) for name, fields in asked(vocabulary).items()}
    found["none against none"] = ratio(without, arm({}), rounds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of a prompt, in the sampling steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, vocabulary, rounds = arguments.rows, arguments.vocabulary, arguments.rounds
    with torch.inference_mode():
        print(f"| {rows} rows | time with / time without |")
        print("|---|---|")
        for name, value in sampling_steps(vocabulary, rows, arguments.prompt, rounds).items():
            print(f"| step, {vocabulary} tokens: {name} | {value} |")
        print(
            f"| step, {vocabulary} tokens: masks that come ready | {masks_alone(vocabulary, rows, rounds)} |"
        )
        for name, value in replies(rows, max(5, rounds // 3)).items():
            print(f"| reply, shipped model: {name} | {value} |")


if __name__ == "__main__":
    main()
