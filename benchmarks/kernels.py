"""The kernels against what they compete with: python benchmarks/kernels.py [--device cuda] [--suite logits]

One markdown table a suite: each provider's median time, its ratio to the suite's yardstick and, where bytes
are the limit, the share of this machine's copy bandwidth that it reaches, measured in the same run. Calls are
interleaved. On a GPU each provider is captured in a CUDA graph that walks through copies of its inputs of
more than 50 MB together, so that no timing is one of the cache. Providers that are not installed or do not
run here are listed with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kernel_cases import SUITES, Case, Suite

ROTATED_BYTES = 64 << 20
COPY_BYTES = 256 << 20
FAILURES = (ImportError, RuntimeError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Timed:
    """A provider that runs: ``once`` makes ``calls`` calls and returns seconds a call."""

    once: Callable[[], float]


def on_cpu(call: Callable[[int], object], copies: int) -> Timed:
    """Wall time of one call, over the copies of the inputs in turn."""
    state = [0]

    def once() -> float:
        state[0] = (state[0] + 1) % copies
        start = time.perf_counter()
        call(state[0])
        return time.perf_counter() - start

    once()
    return Timed(once)


def on_gpu(call: Callable[[int], object], copies: int) -> Timed:
    """Device time of one call: replays of a graph with a call on each copy of the inputs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(copies):
            call(i)  # compiles, and fills the allocator
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(copies):
            call(i)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def once() -> float:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / copies

    once()
    return Timed(once)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a plain copy."""
    source = torch.randint(0, 255, (COPY_BYTES,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    time_it = on_gpu if device.type == "cuda" else on_cpu
    timed = time_it(lambda _: target.copy_(source), 1)
    return 2 * COPY_BYTES / statistics.median(timed.once() for _ in range(10))


def measure(case: Case, device: torch.device, repeats: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of every provider that runs, and why the others do not."""
    copies = max(1, -(-ROTATED_BYTES // max(case.bytes, 1))) if device.type == "cuda" else 1
    inputs = [case.inputs(device) for _ in range(min(copies, 512))]
    ready: dict[str, Timed] = {}
    failed: dict[str, str] = {}
    for name, make in case.providers(device).items():
        try:
            calls = [make(given) for given in inputs]
            time_it = on_gpu if device.type == "cuda" else on_cpu
            ready[name] = time_it(lambda i, calls=calls: calls[i](), len(calls))
        except FAILURES as error:
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(repeats):
        for name, timed in ready.items():
            times[name].append(timed.once())
    return times, failed


def run(suite: Suite, device: torch.device, repeats: int, threads: int | None, bandwidth: float) -> None:
    """Print the table of a suite."""
    print(f"\n{suite.title}\n")
    print(f"| {'threads | ' if threads else ''}case | provider | median | over {suite.yardstick} | of copy |")
    print("|---" * (6 if threads else 5) + "|")
    for case in suite.cases(device):
        times, failed = measure(case, device, repeats)
        if suite.yardstick not in times:
            print(f"{case.name}: no {suite.yardstick} here ({failed.get(suite.yardstick)})")
            continue
        base = statistics.median(times[suite.yardstick])
        for name, seconds in times.items():
            middle = statistics.median(seconds)
            share = f"{case.bytes / middle / bandwidth:.0%}" if case.bytes else ""
            print(
                f"| {f'{threads} | ' if threads else ''}{case.name} | {name} | {middle * 1e6:.1f} us "
                f"| {middle / base:.2f}x | {share} |"
            )
        for name, reason in failed.items():
            print(f"| {f'{threads} | ' if threads else ''}{case.name} | {name} | did not run: {reason} | | |")


def versions(names: Sequence[str]) -> str:
    """What is installed of the packages that are compared."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.import_module(name).__version__}")
        except ImportError:
            found.append(f"{name} absent")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--suite", nargs="+", choices=sorted(SUITES), default=sorted(SUITES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="on the CPU")
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}; {versions(['torch', 'triton', 'numba', 'flashinfer', 'vllm'])}")
    with torch.inference_mode():
        for threads in [None] if device.type == "cuda" else options.threads:
            if threads:
                torch.set_num_threads(threads)
            bandwidth = copy_bandwidth(device)
            print(
                f"\ncopy: {bandwidth / 1e9:.0f} GB/s read and written{f', {threads} threads' * bool(threads)}"
            )
            for key in options.suite:
                run(SUITES[key], device, options.repeats, threads, bandwidth)


if __name__ == "__main__":
    main()
