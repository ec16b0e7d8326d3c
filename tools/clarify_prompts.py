"""Makes the labelled prompts that CLARIFY is fitted and tested on from a file of templates.

    python tools/clarify_prompts.py server/entropick_server/profiles/smollm2

Reads templates.txt there and writes fit.jsonl and unseen.jsonl beside it, a prompt a line; from
templates-2.txt, which was written later, fit-2.jsonl and fresh.jsonl. The hash of a template's name decides
whether it is fitted on (one half of each file is); the two templates of a pair stay together.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PER_TEMPLATE = 5
TRIES = 400
KINDS = {"alike": "look-alike", "text": "other"}
"""the kinds of prompts whose templates have another name"""
WITH_SYSTEM = (1, 3)
"""the numbers of the prompts of a template that have a system message"""


class Round(NamedTuple):
    """A file of templates and the names of its halves; ``mark`` is part of the names of unnamed templates."""

    file: str
    mark: str
    fitted: str
    held_out: str


ROUNDS = (
    Round("templates.txt", "", "fit", "unseen"),
    Round("templates-2.txt", "2-", "fit-2", "fresh"),
)


class Template(NamedTuple):
    """A pattern of prompts; ``group``: the pair or the line that it belongs to."""

    group: str
    kind: str
    pattern: str


def read_templates(text: str, mark: str = "") -> tuple[list[Template], list[str]]:
    """Returns the templates and the system messages of a file's text; raises ValueError for a bad line.

    ``mark``: what the names of the templates without a name of their own have before their number.
    """
    templates: list[Template] = []
    systems: list[str] = []
    section, count = "", 0
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            section, count = line[1:-1], 0
            continue
        count += 1
        if section.startswith("pair "):
            kind = {"? ": "ambiguous", "= ": "alike"}.get(line[:2])
            if kind is None:
                raise ValueError(f"a line of a pair begins with '? ' or '= ': {line}")
            templates.append(Template(section.removeprefix("pair "), kind, line[2:]))
        elif section in ("other", "text"):
            templates.append(Template(f"{section}-{mark}{count:03d}", section, line))
        elif section == "system":
            systems.append(line)
        else:
            raise ValueError(f"no section holds this line: {line}")
    return templates, systems


def alternatives(text: str) -> list[str]:
    """Returns the parts of a text between the bars that lie in no braces."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if character == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def expand(pattern: str, rng: random.Random) -> str:
    """Returns one of the texts that a pattern stands for."""
    start = pattern.find("{")
    if start < 0:
        return pattern
    depth, end = 0, start
    for end in range(start, len(pattern)):
        depth += (pattern[end] == "{") - (pattern[end] == "}")
        if not depth:
            break
    chosen = rng.choice(alternatives(pattern[start + 1 : end]))
    return pattern[:start] + expand(chosen, rng) + expand(pattern[end + 1 :], rng)


def first_half(groups: Iterable[str]) -> set[str]:
    """Returns the half of the names whose hashes come first."""
    order = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    return set(order[: (len(order) + 1) // 2])


def prompts(
    templates: list[Template], systems: list[str], names: Round, known: set[str]
) -> Iterator[dict[str, Any]]:
    """Yields the rows of both halves of a round: id, kind, template, split, and messages or a plain prompt.

    ``known``: the texts that there are already, which are passed over; the new ones are added.
    """
    pairs = first_half(t.group for t in templates if t.kind in ("ambiguous", "alike"))
    fitted = pairs.union(*(first_half(t.group for t in templates if t.kind == k) for k in ("other", "text")))
    for template in templates:
        rng = random.Random(f"{template.group}/{template.kind}")
        texts: list[str] = []
        for _ in range(TRIES):
            text = expand(template.pattern, rng)
            if text not in known:
                known.add(text)
                texts.append(text)
            if len(texts) == PER_TEMPLATE:
                break
        name = f"{template.group}/{template.kind}"
        for number, text in enumerate(texts):
            kind = KINDS.get(template.kind, template.kind)
            split = names.fitted if template.group in fitted else names.held_out
            row = {"id": f"{name}/{number}", "kind": kind, "template": name, "split": split}
            text = text.replace("\\n", "\n")
            if template.kind == "text":
                yield {**row, "prompt": text}
                continue
            said = [
                {"role": ("user", "assistant")[i % 2], "content": turn}
                for i, turn in enumerate(text.split(" // "))
            ]
            system = [{"role": "system", "content": rng.choice(systems)}] if number in WITH_SYSTEM else []
            yield {**row, "messages": system + said}


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows that the templates of a folder make, by the name of their file without its ending."""
    known: set[str] = set()
    files: dict[str, list[dict[str, Any]]] = {}
    for names in ROUNDS:
        text = (folder / names.file).read_text(encoding="utf-8")
        for row in prompts(*read_templates(text, names.mark), names, known):
            files.setdefault(row["split"], []).append(row)
    return files


def main() -> None:
    """Writes the files of the folder that the command line names."""
    folder = Path(sys.argv[1])
    for split, rows in rows_of(folder).items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{split}: {len(rows)} prompts")


if __name__ == "__main__":
    main()
