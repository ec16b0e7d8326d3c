"""Writes the labelled replies that ``entropick inspect --sections reply_labels`` judges: the evidence's test
items.

Replies are the stored ones of arm ``greedy`` (evaluation/evidence/results): nothing is generated. Labels are
the ``task`` (the item's family), whether the reply is ``correct``, the form of the ``answer`` that is asked
for, and of open prompts the ``format`` (letter, story, how-to). Items about one thing, and those of one
template, are a group.

    python benchmarks/reply_labels.py --model smollm2 --limit 1200 --out build/replies/smollm2.jsonl
    entropick inspect smollm2 --sections reply_labels --text build/replies/smollm2.jsonl --tokens 1000000
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from entropick_eval.store import Store
from entropick_eval.tasks import Item, limited
from evidence.compute import RESULTS
from evidence.plan import read_plan

OPTIONS = ("kinds", "meanings")
"""families whose questions name the answers to choose from"""


def group_of(item: Item) -> str:
    """Returns what an item is about, or its template; a question of the shipped model is a group of its
    own."""
    parts = item.id.split("/")
    return item.id if parts[0] == "pico" else "/".join(parts[:2])


def labels_of(item: Item, text: str) -> dict[str, Any]:
    """Returns the labels of a reply to an item."""
    if item.check is None:
        parts = item.id.split("/")
        # of an open prompt like open/how-to-35/...
        return {"format": parts[1].rsplit("-", 1)[0]} if parts[0] == "open" else {"task": item.family}
    found: dict[str, Any] = {"task": item.family, "correct": item.check.grade(text)}
    if item.id.startswith("pico/"):
        return found
    kind = item.check.kind
    if item.family in OPTIONS:
        found["answer"] = "option"
    else:
        found["answer"] = {"last_number": "number", "contains": "words", "regex": "letters"}[kind]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("smollm2", "pico"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--limit", type=int, help="questions with an answer, each family with its share (all)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    plan = read_plan()
    arm = plan.models[args.model].arms.requests["greedy"]
    store = Store(RESULTS, args.model)
    store.load([arm])
    runs = [run for run in plan.runs_of(args.model) if run.split == "test" and "greedy" in run.arms.requests]
    items = {item.id: item for run in runs for item in run.items}
    checked = [item for item in items.values() if item.check is not None]
    if args.limit is not None:
        checked = limited(checked, args.limit, args.seed)
    chosen = [*checked, *(item for item in items.values() if item.check is None)]
    counted: Counter[str] = Counter()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8") as file:
        for item in chosen:
            result = store.get(arm, item, 0, None)
            if result is None or not result.text:
                counted["without a stored reply"] += 1
                continue
            reply = {"role": "assistant", "content": result.text}
            line = {
                "messages": [*item.messages, reply],
                "labels": labels_of(item, result.text),
                "group": group_of(item),
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            counted["replies"] += 1
    print(f"{args.out}: " + ", ".join(f"{count} {name}" for name, count in counted.items()))


if __name__ == "__main__":
    main()
