"""Writes conversations of the grammar as JSON lines.

``python -m entropick_pico.data --split calibration --out FILE.jsonl``: one exchange a line, with
the offsets at which a clarifying question would be right and the truth at every labelled position.

The shipped file has more ambiguous questions, and more of their look-alikes, than training: CLARIFY's
discriminant is fitted on them (``--n 600 --widest 4 --extra ambiguous=200 word=200``).
"""

import argparse
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entropick_pico import grammar


def truth(choice: grammar.Choice, widest: int) -> dict[str, Any]:
    """Returns ``choice`` as plain data, without its alternatives if there are more than ``widest``."""
    p = list(choice.alternatives.values())
    entropy = -sum(x * math.log2(x) for x in p)
    found: dict[str, Any] = {
        "offset": choice.offset,
        "kind": choice.kind,
        "entropy": round(entropy, 5) + 0.0,
        "varentropy": round(sum(x * (math.log2(x) + entropy) ** 2 for x in p), 5),
    }
    if len(p) <= widest:
        found["alternatives"] = {text: round(x, 7) for text, x in choice.alternatives.items()}
    return found


def record(example: grammar.Example, widest: int = 256) -> dict[str, Any]:
    """Returns ``example`` as plain data."""
    return {
        "messages": example.messages,
        "kind": example.kind,
        "gold": example.gold,
        "ambiguous_at": list(example.ambiguous_at),
        "choices": [truth(choice, widest) for choice in example.choices],
    }


def write(
    out: Path,
    split: grammar.Split,
    n: int,
    seed: int,
    widest: int = 256,
    extra: Mapping[str, int] | None = None,
) -> None:
    """Writes ``n`` exchanges of ``split``, kinds as often as in training, then ``extra`` by kind."""
    rng = random.Random(seed)
    examples = [grammar.sample(rng, None, split) for _ in range(n)]
    for kind, count in (extra or {}).items():
        examples += [grammar.sample(rng, kind, split) for _ in range(count)]
    lines = [json.dumps(record(example, widest), separators=(",", ":")) for example in examples]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Parses the command line and writes the conversations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=grammar.SPLITS, default="calibration")
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--widest", type=int, default=256, help="leave out longer lists of alternatives")
    parser.add_argument(
        "--extra", nargs="*", default=[], metavar="KIND=N", help="N further exchanges of a kind"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    extra = {kind: int(count) for kind, _, count in (item.partition("=") for item in args.extra)}
    write(args.out, args.split, args.n, args.seed, args.widest, extra)


if __name__ == "__main__":
    main()
