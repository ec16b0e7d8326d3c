"""Logits statistics on the CPU against argmax alone: python benchmarks/logits_cpu.py

Prints a markdown table of median milliseconds and ratios, calls interleaved in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from entropick_kernels.logits_stats import logits_stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["1x32000", "16x32000", "16x151936"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    print("| threads | logits | argmax, ms | logits_stats, ms | ratio |")
    print("|---|---|---|---|---|")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for shape in options.shapes:
            rows, vocabulary = map(int, shape.split("x"))
            x = torch.randn(rows, vocabulary)
            calls = {"argmax": lambda x=x: x.argmax(-1), "stats": lambda x=x: logits_stats(x)}
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(options.repeats):
                for name, call in calls.items():
                    start = time.perf_counter()
                    call()
                    times[name].append((time.perf_counter() - start) * 1e3)
            argmax, stats = (statistics.median(times[name][2:]) for name in ("argmax", "stats"))
            print(
                f"| {threads} | [{rows}, {vocabulary}] | {argmax:.3f} | {stats:.3f} | {stats / argmax:.2f}x |"
            )


if __name__ == "__main__":
    main()
