"""Decode attention with statistics on the CPU against attention without: python benchmarks/attention_cpu.py

Prints a markdown table: median milliseconds of F.scaled_dot_product_attention over contiguous keys (no
statistics, no pages) and the ratios of our implementations over a paged cache with every statistic. Calls are
interleaved in one process. Set OMP_WAIT_POLICY=PASSIVE on a machine that does other work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from entropick_kernels.attention_stats import decode_attention, warmup

PAGE = 16


def contenders(
    rows: int, heads: int, kv_heads: int, width: int, length: int
) -> dict[str, Callable[[], object]]:
    pages = -(-length // PAGE)
    k_pages = torch.randn(rows * pages, kv_heads, PAGE, width)
    v_pages = torch.randn(rows * pages, kv_heads, PAGE, width)
    table = torch.randperm(rows * pages).view(rows, pages).to(torch.int32)
    lengths = torch.full((rows,), length, dtype=torch.int32)
    q = torch.randn(rows, heads, width)
    k, v = torch.randn(rows, kv_heads, length, width), torch.randn(rows, kv_heads, length, width)

    def ours(implementation: str) -> Callable[[], object]:
        return lambda: decode_attention(
            q, k_pages, v_pages, table, lengths, scale=width**-0.5, implementation=implementation
        )

    return {
        "sdpa": lambda: F.scaled_dot_product_attention(q.unsqueeze(2), k, v, enable_gqa=True),
        "numba": ours("numba"),
        "torch": ours("torch"),
    }


def median_ms(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 128, 1024, 4096])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    warmup()
    print("| threads | keys | sdpa, ms | numba with statistics | torch with statistics |")
    print("|---|---|---|---|---|")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for length in options.lengths:
            calls = contenders(options.rows, options.heads, options.kv_heads, options.width, length)
            ms = median_ms(calls, options.repeats)
            base = ms["sdpa"]
            print(
                f"| {threads} | {length} | {base:.3f} | {ms['numba']:.3f} ({ms['numba'] / base:.2f}x) "
                f"| {ms['torch']:.3f} ({ms['torch'] / base:.2f}x) |"
            )


if __name__ == "__main__":
    main()
