"""Makes the labelled prompts that CLARIFY is fitted and tested on from a file of templates.

    python tools/clarify_prompts.py server/entropick_server/profiles/smollm2

Reads templates.txt there and writes fit.jsonl and unseen.jsonl beside it, a prompt a line. The hash of
a template's name decides whether it is fitted on (one half is); the two templates of a pair stay together.
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


class Template(NamedTuple):
    """A pattern of prompts; ``group``: the pair or the line that it belongs to."""

    group: str
    kind: str
    pattern: str


def read_templates(text: str) -> tuple[list[Template], list[str]]:
    """Returns the templates and the system messages of a file's text; raises ValueError for a bad line."""
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
            templates.append(Template(f"{section}-{count:03d}", section, line))
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


def prompts(templates: list[Template], systems: list[str]) -> Iterator[dict[str, Any]]:
    """Yields the rows of both files: id, kind, template, split, and messages or a plain prompt."""
    pairs = first_half(t.group for t in templates if t.kind in ("ambiguous", "alike"))
    fitted = pairs.union(*(first_half(t.group for t in templates if t.kind == k) for k in ("other", "text")))
    known: set[str] = set()
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
            split = "fit" if template.group in fitted else "unseen"
            row = {"id": f"{name}/{number}", "kind": kind, "template": name, "split": split}
            if template.kind == "text":
                yield {**row, "prompt": text.replace("\\n", "\n")}
                continue
            said = [
                {"role": ("user", "assistant")[i % 2], "content": turn}
                for i, turn in enumerate(text.split(" // "))
            ]
            system = [{"role": "system", "content": rng.choice(systems)}] if number in WITH_SYSTEM else []
            yield {**row, "messages": system + said}


def main() -> None:
    """Writes both files of the folder that the command line names."""
    folder = Path(sys.argv[1])
    rows = list(prompts(*read_templates((folder / "templates.txt").read_text(encoding="utf-8"))))
    for split in ("fit", "unseen"):
        chosen = [json.dumps(row, ensure_ascii=False) for row in rows if row["split"] == split]
        (folder / f"{split}.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
        print(f"{split}: {len(chosen)} prompts")


if __name__ == "__main__":
    main()
