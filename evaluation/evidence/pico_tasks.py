"""Writes the questions to the shipped model: ``python -m evidence.pico_tasks [--check]``.

Prompts of its grammar that training never sees: the half "check" is the test half, "calibration" the fit
half. Families whose answer many valid texts lead to have more items, since votes can gain there; each of them
is of one size, as ``sums_8`` of eight numbers: the model is sure of few and lost beyond the most.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from entropick_eval.tasks import Split
from entropick_pico import grammar

FILE: Final = Path(__file__).parent / "pico.jsonl"
_HALVES: Final[tuple[tuple[Split, grammar.Split], ...]] = (("fit", "calibration"), ("test", "check"))
MANY_TEXTS: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {"sums": (8, 9, 10), "mix": (9, 10), "latin": (5, 6, 7)}
)
"""the sizes of the families with many texts, by the kind of the grammar"""
ONE_TEXT: Final = (
    "capital",
    "flag",
    "answerable",
    "lookup",
    "sort",
    "add_steps",
    "parity_steps",
    "count",
    "sort_long",
)
_NUMBERS: Final = ("sums", "add_steps", "count")
"""kinds whose answer is a number"""
_SIZES: Final = {"fit": (80, 30), "test": (200, 60)}
"""items of a family with many texts, and of another"""
_OPEN: Final = "story"
LAST: Final = r"(?:.* is |.*: |^)([^.:]+?)\.?\s*$"
"""the end of the last sentence, behind the words that introduce an answer"""


def items() -> Iterator[dict[str, Any]]:
    """Yields the items, no prompt twice."""
    for split, half in _HALVES:
        rng = random.Random(f"evidence {split}")
        many, few = _SIZES[split]
        for kind, sizes in MANY_TEXTS.items():
            for size in sizes:
                draw = partial(grammar.of_size, rng, kind, size, half)
                yield from _family(f"{kind}_{size}", kind, split, draw, many)
        for kind in (*ONE_TEXT, _OPEN):
            yield from _family(kind, kind, split, partial(grammar.sample, rng, kind, half), few)


def _family(
    name: str, kind: str, split: Split, draw: Callable[[], grammar.Example], count: int
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for _ in range(50 * count):  # some kinds have few prompts: they end early
        example = draw()
        if len(seen) == count:
            return
        if example.user in seen:
            continue
        seen.add(example.user)
        item = {
            "id": f"pico/{name}/{split}/{len(seen)}",
            "family": name,
            "split": split,
            "prompt": example.user,
            "max_tokens": 160,
        }
        yield item | ({} if kind == _OPEN else checked(kind, example.gold))


def checked(kind: str, gold: str | None) -> dict[str, Any]:
    """Returns the fields of an item by which replies are checked, and answers taken for votes."""
    if kind in _NUMBERS:
        return {"answer": gold, "check": {"type": "last_number"}}
    return {"answer": gold, "check": {"type": "regex", "pattern": LAST}, "extract": {"regex": LAST}}


def text() -> str:
    """Returns the content of the file."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items())


def main() -> int:
    """Writes the file, or compares it; returns 1 where it would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if parser.parse_args().check:
        same = FILE.read_text(encoding="utf-8") == text()
        print(f"{FILE.name}: {'as it would be written' if same else 'would change'}")
        return 0 if same else 1
    FILE.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
