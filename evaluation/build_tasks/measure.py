"""Asks a served model for greedy replies to a sample of every family and prints how many are right.

``python -m build_tasks.measure --url http://127.0.0.1:8000 --n 60 --out replies.jsonl`` takes 60 items of a
family, fit and test. It shows whether a family leaves room for a gain (near 0 or 100 % it measures nothing),
how long the replies are, and what share of them the extractor reads: ``agree`` is the share of replies whose
extracted answer is right where the check says right, and wrong where it says wrong.
"""

import argparse
import json
import sys
import urllib.request
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from entropick_eval.checkers import build_check
from entropick_server.answers import comparable, extractor

from .items import shuffled

DATA = Path(__file__).resolve().parents[1] / "entropick_eval" / "data"


def ask(url: str, model: str, item: dict[str, Any]) -> dict[str, Any]:
    """Returns an item with its greedy reply, its length in tokens and why it ended."""
    body = {
        "model": model,
        "messages": item["messages"],
        "max_tokens": item["max_tokens"],
        "temperature": 0,
        "entropick": {"policy": "fixed", "telemetry": "none"},
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        reply = json.load(response)
    choice = reply["choices"][0]
    return item | {
        "reply": choice["message"]["content"],
        "tokens": reply["usage"]["completion_tokens"],
        "finish": choice["finish_reason"],
    }


def judged(item: dict[str, Any]) -> dict[str, Any]:
    """Returns an item and its reply with the verdict of the check and the extracted answer."""
    check = build_check(item["check"], item["answer"], item["messages"][-1]["content"], item)
    if check is None:
        raise ValueError(f"{item['id']}: no check")
    found = extractor(item["extract"])(item["reply"])
    extracted = None if found is None else found.answer
    answers = item["answer"] if isinstance(item["answer"], list) else [item["answer"]]
    # a longer name is right as well: "mexican peso" for "peso"
    means = extracted is not None and any(
        f" {comparable(str(answer))} " in f" {extracted} " for answer in answers
    )
    return item | {"right": check.grade(item["reply"]), "extracted": extracted, "means": means}


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--n", type=int, default=60, help="items of a family; 0 for all")
    parser.add_argument("--families", help="some of them, with commas")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--out", type=Path, help="file for items and replies, read again where it is there")
    arguments = parser.parse_args()
    items: list[dict[str, Any]] = []
    for path in sorted(arguments.data.glob("*.jsonl")):
        if path.stem != "open" and (not arguments.families or path.stem in arguments.families.split(",")):
            found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            items.extend(shuffled(found, lambda item: item["id"], "measure")[: arguments.n or None])
    have: dict[str, dict[str, Any]] = {}
    if arguments.out and arguments.out.exists():
        for line in arguments.out.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            have[line_key(record)] = record
    missing = [item for item in items if line_key(item) not in have]
    with urllib.request.urlopen(f"{arguments.url}/v1/models", timeout=60) as response:
        model = json.load(response)["data"][0]["id"]
    with ThreadPoolExecutor(arguments.at_once) as pool:
        for record in pool.map(lambda item: ask(arguments.url, model, item), missing):
            have[line_key(record)] = record
    kept = ("reply", "tokens", "finish")
    results = [judged(item | {name: have[line_key(item)][name] for name in kept}) for item in items]
    if arguments.out:
        arguments.out.write_text(
            "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in have.values())
        )
    show(results)
    return 0


def line_key(item: dict[str, Any]) -> str:
    """Returns the part of an item that a reply depends on."""
    return f"{item['max_tokens']} {item['messages'][-1]['content']}"


def show(results: list[dict[str, Any]]) -> None:
    """Prints a row for each family, and below it a row for each of its forms where it has few of them."""
    print(f"{'family':28}{'n':>5}{'right':>8}{'tokens':>8}{'cut':>6}{'extracted':>11}{'agree':>7}")
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        groups[result["family"]].append(result)
        groups[f"{result['family']}/{result['id'].split('/')[2].split('-')[0]}"].append(result)
    forms = defaultdict(set)
    for name in groups:
        forms[name.split("/")[0]].add(name)
    for name, rows in sorted(groups.items()):
        if "/" in name and not 2 < len(forms[name.split("/")[0]]) < 7:
            continue

        def share(values: list[bool]) -> str:
            return f"{100 * sum(values) / len(values):.0f}"

        print(
            f"{name:28}{len(rows):5}{share([row['right'] for row in rows]):>8}"
            f"{sum(row['tokens'] for row in rows) / len(rows):8.0f}"
            f"{share([row['finish'] == 'length' for row in rows]):>6}"
            f"{share([row['extracted'] is not None for row in rows]):>11}"
            f"{share([row['right'] == row['means'] for row in rows]):>7}"
        )


if __name__ == "__main__":
    sys.exit(main())
