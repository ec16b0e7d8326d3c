"""Whether the tests of the Triton kernels would notice: python tests/kernels/triton/mutants.py

Breaks one term at a time in a copy of the kernels, runs that kernel's tests in the interpreter and prints the
first that fails. Exit code 1 where a mutant survives or its text is no longer in the source.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
LOGITS, ATTENTION, LAUNCHES, SAMPLE, ANY = (
    "logits_stats/triton_impl.py",
    "attention_stats/triton_kernels.py",
    "attention_stats/triton_impl.py",
    "sample/triton_impl.py",
    "sample/any_row/triton_impl.py",
)
MEASURE = "measure_attention"
PER_MUTANT = 600.0


@dataclass(frozen=True, slots=True)
class Mutant:
    what: str
    module: str
    old: str
    new: str
    only: str | None = None
    """the module of tests where it is not the package's namesake"""

    @property
    def tests(self) -> str:
        return f"tests/kernels/triton/test_{self.only or self.module.partition('/')[0]}.py"


MUTANTS = (
    Mutant("second moments of chunks not rescaled", LOGITS, "tl.sum(seconds * scale + ", "tl.sum(seconds + "),
    Mutant("means of chunks not shifted", LOGITS, "    means += shift\n", ""),
    Mutant("max and sum swapped", LOGITS, "total = tl.sum(z, axis=0)", "total = tl.max(z, axis=0)"),
    Mutant(
        "last partial chunk skipped",
        LOGITS,
        "valid = chunk < chunks\n",
        "valid = chunk < tl.maximum(chunks - 1, 1)\n",
    ),
    Mutant(
        "T not rescaled in a split",
        ATTENTION,
        "fade * (t + shift[:, None] * mass) + p * y",
        "fade * t + p * y",
    ),
    Mutant(
        "T not rescaled between splits",
        ATTENTION,
        "tl.sum(fade_part * (t_part + shift_part * mass_part), 0)",
        "tl.sum(fade_part * t_part, 0)",
    ),
    Mutant(
        "max and sum swapped",
        ATTENTION,
        "mass = fade * mass + tl.sum(fade_part * mass_part, 0)",
        "mass = fade * mass + tl.max(fade_part * mass_part, 0)",
    ),
    Mutant(
        "last partial tile skipped",
        ATTENTION,
        "stop = tl.minimum(end, begin + SPLIT)",
        "stop = tl.minimum(end // TILE * TILE, begin + SPLIT)",
    ),
    Mutant(
        "last partial split skipped",
        ATTENTION,
        "count = tl.cdiv(end, SPLIT) - start // SPLIT",
        "count = end // SPLIT - start // SPLIT",
    ),
    Mutant(
        "last partial tile left out of the agreement",
        ATTENTION,
        "stop = tl.cdiv(end - first, TILE)",
        "stop = (end - first) // TILE",
    ),
    Mutant(
        "sliding window ignored", ATTENTION, "return tl.maximum(end - window, 0), end", "return end * 0, end"
    ),
    Mutant(
        "the newest key taken for the previous one",
        ATTENTION,
        "second = valid & (position == end - 2)",
        "second = valid & (position == end - 1)",
    ),
    Mutant(
        "the previous key's weight not shifted by the largest score",
        ATTENTION,
        "second = tl.exp2((score - m) * _LOG2_E) / mass",
        "second = tl.exp2(score * _LOG2_E) / mass",
    ),
    Mutant(
        "a previous key beyond the window",
        ATTENTION,
        'tl.where(n > 1, second, float("nan"))',
        "second",
    ),
    Mutant(
        "the mean over one worker's heads",
        ATTENTION,
        "mean = mean / ALL_HEADS",
        "mean = mean / HEADS",
        MEASURE,
    ),
    Mutant(
        "the sum of one worker's heads", LAUNCHES, "attended = added(attended, shards)\n", "pass\n", MEASURE
    ),
    Mutant(
        "heads beyond the first block left out of the sum",
        ATTENTION,
        "        attended += tl.sum(more, 0)\n",
        "        attended += 0.0 * tl.sum(more, 0)\n",
        MEASURE,
    ),
    Mutant(
        "every tile's sum in the first one's place",
        ATTENTION,
        "tl.store(attended + b * (splits * SPLIT) + tile * TILE + ",
        "tl.store(attended + b * (splits * SPLIT) + ",
        MEASURE,
    ),
    Mutant(
        "the keys' strides taken for those of a plain cache",
        LAUNCHES,
        "*k_blocks.stride()[:3], *values",
        "*k_blocks.contiguous().stride()[:3], *values",
        MEASURE,
    ),
    Mutant(
        "last partial block skipped",
        SAMPLE,
        "inside = (entry < count)[:, None] & (tokens < vocabulary)",
        "inside = (entry < count)[:, None] & (tokens < vocabulary // BLOCK * BLOCK)",
    ),
    Mutant(
        "max and sum swapped",
        SAMPLE,
        'top = tl.max(tl.where(x == x, x, float("inf")), axis=1)',
        'top = tl.sum(tl.where(x == x, x, float("inf")), axis=1)',
    ),
    Mutant(
        "top-p of the whole, not of what top-k left",
        SAMPLE,
        "target = (top_p - TOLERANCE) * tl.sum(weight, axis=0)",
        "target = (top_p - TOLERANCE) * tl.sum(weight, axis=0) * 1.1",
    ),
    Mutant(
        "equals at the cut: the last instead of the first",
        SAMPLE,
        "(entry[:, None] < entry[None, :])",
        "(entry[:, None] > entry[None, :])",
    ),
    Mutant(
        "equals at the cut: one too many", ANY, "(equal & (rank <= room))", "(equal & (rank <= room + 1))"
    ),
    Mutant(
        "last partial walk skipped",
        ANY,
        "inside = token < vocabulary\n            x = tl.load(x_at + token, mask=inside",
        "inside = token < vocabulary // BLOCK * BLOCK\n            x = tl.load(x_at + token, mask=inside",
    ),
)


def first_failure(mutant: Mutant, copy: Path) -> str | None:
    """The first test that fails on a mutant; None where it survives. ValueError where it cannot be made."""
    source = ROOT / "kernels" / "entropick_kernels" / mutant.module
    text = source.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.what}: its text stands {text.count(mutant.old)} times in {mutant.module}")
    broken = copy / "entropick_kernels" / mutant.module
    broken.write_text(text.replace(mutant.old, mutant.new))
    environment = os.environ | {"PYTHONPATH": str(copy), "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.tests],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PER_MUTANT,
        )
    finally:
        broken.write_text(text)
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) \S*::(\S+)", done.stdout, re.MULTILINE)
    return found.group(1) if found else f"exit code {done.returncode}"


def main() -> int:
    bad = 0
    print("| kernel | broken | first test that fails |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "kernels", copy, dirs_exist_ok=True)
        for mutant in MUTANTS:
            try:
                failure = first_failure(mutant, copy)
            except ValueError as error:
                failure, bad = str(error), bad + 1
            bad += failure is None
            print(f"| {mutant.module} | {mutant.what} | {failure or 'NONE: it survives'} |", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
