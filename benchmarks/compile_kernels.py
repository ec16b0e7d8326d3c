"""What the compiler makes of the Triton kernels, without a GPU: python benchmarks/compile_kernels.py

Calls the wrappers with tensors that have shapes and no memory, records what they would launch, compiles that
for each target and prints a markdown table: registers and spills a thread, shared memory, and the widths of
the loads from global memory in bits. ``--json FILE`` writes the same as a list of rows.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from entropick_kernels._triton import triton_impl
from entropick_kernels.adjust import Entries, Masks
from entropick_kernels.attention_stats import HeadShards, PositionCosts
from entropick_kernels.attention_stats._inputs import PagedQueries

TARGETS = (80, 90)
POINTERS = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.uint8: "*u8", torch.bool: "*i1",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch as the just-in-time compiler would specialise it."""

    case: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    divisible: tuple[int, ...]
    options: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """A compiled kernel; ``stack`` and ``local`` in bytes a thread, ``loads``: bits -> instructions."""

    case: str
    kernel: str
    target: str
    warps: int
    registers: int
    stack: int
    local: int
    shared: int
    loads: dict[str, int]


def specialise(case: str, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Launch:
    """Types, constants and divisibility by 16, by the rules of Triton's launcher."""
    names = [p.name for p in kernel.params]
    values = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
    signature, constants, divisible = {}, {}, []
    for i, parameter in enumerate(kernel.params):
        value = values.get(parameter.name, parameter.default)
        fixed = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1 and not fixed):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            # an allocation begins at a multiple of 256 bytes; a view's offset is in storage_offset
            if value.storage_offset() * value.element_size() % 16 == 0:
                divisible.append(i)
        elif isinstance(value, bool):
            signature[parameter.name] = "i1"
        elif isinstance(value, int):
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not fixed:
                divisible.append(i)
        else:
            signature[parameter.name] = "fp32"
    options = {name: kwargs[name] for name in OPTIONS if name in kwargs}
    return Launch(case, kernel, signature, constants, tuple(divisible), options)


@contextmanager
def recorded(case: str, launches: list[Launch]) -> Iterator[None]:
    """Kernels that are launched in here are written down instead."""
    run = JITFunction.run

    def note(self: Any, *args: Any, **kwargs: Any) -> None:
        launches.append(specialise(case, self, args, kwargs))

    JITFunction.run = note
    try:
        yield
    finally:
        JITFunction.run = run


def logits_case(vocabulary: int, dtype: torch.dtype) -> Callable[[], object]:
    module = triton_impl("entropick_kernels.logits_stats")
    logits = torch.empty(64, vocabulary, dtype=dtype, device="meta")
    return lambda: module.logits_stats_triton(logits)


def adjust_case(vocabulary: int, dtype: torch.dtype) -> Callable[[], object]:
    """Wrappers that copy arrays of the host: here they stay tensors without memory."""
    module = triton_impl("entropick_kernels.adjust")
    rows, entries = 64, 1000

    def call() -> object:
        logits = torch.empty(rows, vocabulary, dtype=dtype, device="meta")
        words = np.zeros((rows, -(-vocabulary // 32)), np.int32)
        module.mask_triton(logits, Masks(np.arange(rows), words))
        starts = np.linspace(0, entries, rows + 1).astype(np.int64)
        some = Entries(starts, np.zeros(entries, np.int64), np.zeros(entries))
        module.add_triton(logits, some)
        before = module.penalise_triton(logits, some, np.zeros((rows, 3)))
        return module.restore_triton(logits, some, before)

    return call


def attention_case(
    heads: int, kv_heads: int, width: int, dtype: torch.dtype, want: str, **options: Any
) -> Callable[[], object]:
    module = triton_impl("entropick_kernels.attention_stats")
    rows, block, columns = 32, 16, 256
    q = torch.empty(rows, heads, width, dtype=dtype, device="meta")
    blocks = torch.empty(rows * columns, kv_heads, block, width, dtype=dtype, device="meta")
    table = torch.empty(rows, columns, dtype=torch.int32, device="meta")
    lengths = torch.empty(rows, dtype=torch.int32, device="meta")
    inputs = PagedQueries(q, blocks, blocks, table, lengths, width**-0.5, **options)
    return lambda: module.decode_attention_triton(inputs, want=want)


def measure_case(
    heads: int,
    kv_heads: int,
    width: int,
    dtype: torch.dtype,
    workers: int,
    costs: bool = False,
    **options: Any,
) -> Callable[[], object]:
    """The keys as vLLM holds them: slots of all heads, keys before values; ``costs``: token costs too."""
    module = triton_impl("entropick_kernels.attention_stats")
    rows, block, columns = 32, 16, 256
    q = torch.empty(rows, heads, width, dtype=dtype, device="meta")
    slots = torch.empty(rows * columns, block, kv_heads, 2 * width, dtype=dtype, device="meta")
    table = torch.empty(rows, columns, dtype=torch.int32, device="meta")
    lengths = torch.empty(rows, dtype=torch.int32, device="meta")
    shards = HeadShards(workers * heads, lambda of_worker: of_worker) if workers > 1 else None
    keys = slots.transpose(1, 2)[..., :width]
    inputs = PagedQueries(q, keys, None, table, lengths, width**-0.5, **options)
    bits = torch.empty(rows, block * columns, device="meta")
    paid = PositionCosts(bits, torch.empty(rows, heads, 4, device="meta")) if costs else None
    return lambda: module.measure_attention_triton(inputs, shards, paid)


def draw_case(vocabulary: int, dtype: torch.dtype, max_top_k: int | None) -> Callable[[], object]:
    module = triton_impl("entropick_kernels.sample")
    rows, draws = 64, 12

    def call() -> object:
        logits = torch.empty(rows, vocabulary, dtype=dtype, device="meta")
        per_row = torch.empty(rows, device="meta")
        top_k = torch.empty(rows, dtype=torch.int64, device="meta")
        words = torch.empty(rows, 1, dtype=torch.int64, device="meta")
        uniforms = module.philox_uniform_triton(
            words,
            words,
            torch.empty(1, draws, dtype=torch.int64, device="meta"),
            torch.empty((), dtype=torch.int64, device="meta"),
        )
        return module.draw_triton(logits, per_row, top_k, per_row, per_row, uniforms, max_top_k=max_top_k)

    return call


def cases() -> dict[str, Callable[[], object]]:
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    return {
        "logits 128256 bf16": logits_case(128256, bf16),
        "logits 151936 fp32": logits_case(151936, fp32),
        "adjustments 151936 fp32": adjust_case(151936, fp32),
        "attention 32/8x128 bf16, plain": attention_case(32, 8, 128, bf16, "none"),
        "attention 32/8x128 bf16, heads": attention_case(32, 8, 128, bf16, "heads"),
        "attention 32/8x128 bf16, all": attention_case(32, 8, 128, bf16, "all"),
        "attention 28/4x128 fp16, all, window": attention_case(28, 4, 128, fp16, "all", window=1024),
        "attention 16/8x256 bf16, all, softcap": attention_case(16, 8, 256, bf16, "all", softcap=50.0),
        "attention 12/12x64 fp32, all": attention_case(12, 12, 64, fp32, "all"),
        "keys alone 32/8x128 bf16": measure_case(32, 8, 128, bf16, 1),
        "keys alone 32/8x128 bf16, costs": measure_case(32, 8, 128, bf16, 1, costs=True),
        "keys alone 16/4x128 bf16, 2 workers": measure_case(16, 4, 128, bf16, 2),
        "keys alone 80/8x128 fp16, 2 workers, window": measure_case(80, 8, 128, fp16, 2, window=1024),
        "keys alone 16/8x256 bf16, softcap": measure_case(16, 8, 256, bf16, 1, softcap=50.0),
        "draw 151936 bf16, top-k": draw_case(151936, bf16, 32),
        "draw 128256 fp32, general": draw_case(128256, fp32, None),
    }


def launches() -> list[Launch]:
    """What the wrappers would launch, each specialisation once."""
    found: list[Launch] = []
    for name, call in cases().items():
        with recorded(name, found):
            call()
    distinct: dict[str, Launch] = {}
    for launch in found:
        key = repr((launch.kernel.__name__, launch.signature, launch.constants, launch.options))
        distinct.setdefault(key + repr(launch.divisible), launch)
    return list(distinct.values())


def compiled(launch: Launch, capability: int) -> Row:
    """Compile for compute capability 8.0 (80) or 9.0 (90) and read what came out."""
    source = ASTSource(
        fn=launch.kernel,
        signature=dict(launch.signature),
        constexprs=dict(launch.constants),
        attrs={(i,): [["tt.divisibility", 16]] for i in launch.divisible},
    )
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(launch.options))
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run(
                [tools / "cuobjdump", flag, file.name], capture_output=True, text=True, check=True
            ).stdout
            for flag in ("-res-usage", "-sass")
        )
    figure = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    loads: dict[str, int] = {}
    # LDG loads into registers, LDGSTS into shared memory; without a width in its name a load is of 32 bits
    for modifiers in re.findall(r"\b(?:LDGSTS|LDG)\b((?:\.\w+)*)", code):
        width = re.search(r"\.(?:U|S)?(8|16|64|128)\b", modifiers)
        bits = width.group(1) if width else "32"
        loads[bits] = loads.get(bits, 0) + 1
    return Row(
        launch.case,
        launch.kernel.__name__,
        f"sm_{capability}",
        kernel.metadata.num_warps,
        figure["REG"],
        figure["STACK"],
        figure["LOCAL"],
        kernel.metadata.shared,
        dict(sorted(loads.items(), key=lambda item: -int(item[0]))),
    )


def table(rows: list[Row]) -> str:
    """The rows as a markdown table."""
    lines = [
        "| kernel | of | target | warps | registers | spilled bytes | shared | loads |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        loads = ", ".join(f"{count} x {bits}" for bits, count in r.loads.items())
        lines.append(
            f"| {r.kernel} | {r.case} | {r.target} | {r.warps} | {r.registers} | {r.stack + r.local} "
            f"| {r.shared} | {loads} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file, too")
    arguments = parser.parse_args()
    jobs = [(launch, target) for launch in launches() for target in TARGETS]
    with ThreadPoolExecutor(2) as pool:  # the assembler is a process of its own
        rows = list(pool.map(lambda job: compiled(*job), jobs))
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in rows]))


if __name__ == "__main__":
    main()
