"""Items of the task files: their format, their split and the order in which they are written.

Nothing here draws random numbers: every choice is a SHA-256 digest of a text, so that a rebuild writes the
same bytes with any version of Python.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

Split = Literal["fit", "test"]
Check = dict[str, Any]
Extract = str | dict[str, str]
T = TypeVar("T")

LAST_NUMBER: Check = {"type": "last_number"}
CONTAINS: Check = {"type": "contains"}


@dataclass(frozen=True, slots=True)
class Item:
    """A question with a checkable answer.

    ``key`` names the item's content (a country, a pair of operands, a template): all items of one key are in
    the same half. ``form`` tells the items of one key apart.
    """

    family: str
    key: str
    form: str
    prompt: str
    answer: str | int | list[str]
    check: Check
    extract: Extract
    max_tokens: int = 64

    def line(self, split: Split) -> str:
        """Returns the item as a line of JSON, with its id made of family, key and form."""
        record = {
            "id": f"{self.family}/{slug(self.key)}/{self.form}",
            "family": self.family,
            "split": split,
            "messages": [{"role": "user", "content": self.prompt}],
            "check": self.check,
            "answer": self.answer,
            "max_tokens": self.max_tokens,
            "extract": self.extract,
        }
        return json.dumps(record, ensure_ascii=False)


def first_named(family: str, key: str, form: str, prompt: str, answer: str, options: Sequence[str]) -> Item:
    """Returns a question with options, of which the reply chooses the option that it names first."""
    pattern = rf"(?is)^.*?\b({'|'.join(map(re.escape, options))})s?\b"
    check: Check = {"type": "regex", "pattern": pattern}
    return Item(family, key, form, prompt, answer, check, {"regex": pattern}, 48)


def listed(text: str) -> frozenset[str]:
    """Returns the texts between the bars of a list: "Hong Kong|Puerto Rico"."""
    return frozenset(
        part for line in text.splitlines() for part in line.removeprefix("    ").split("|") if part
    )


def slug(text: str) -> str:
    """Returns the text in lower case without accents, with a hyphen for everything but letters and digits."""
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def digest(text: str) -> int:
    """Returns a number below 2**64 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def pick(key: str, options: Sequence[T]) -> T:
    """Returns an element of the sequence that depends on the key alone."""
    return options[digest(key) % len(options)]


def between(key: str, low: int, high: int) -> int:
    """Returns a whole number from low to high, both included, that depends on the key alone."""
    return low + digest(key) % (high - low + 1)


def shuffled(items: Iterable[T], text: Callable[[T], str], salt: str = "") -> list[T]:
    """Returns the items in an order that depends on their texts and the salt alone."""
    return sorted(items, key=lambda item: (digest(f"{salt}/{text(item)}"), text(item)))


def halves(items: Iterable[Item], test_share: float = 0.54) -> dict[Split, list[Item]]:
    """Returns the items as two halves that share no key.

    Keys are dealt in the order of their digests until the test half has its share of the items.
    """
    by_key: dict[str, list[Item]] = {}
    for item in items:
        by_key.setdefault(item.key, []).append(item)
    wanted = test_share * sum(map(len, by_key.values()))
    result: dict[Split, list[Item]] = {"fit": [], "test": []}
    for key in shuffled(by_key, str, "half"):
        split: Split = "test" if len(result["test"]) + len(by_key[key]) / 2 <= wanted else "fit"
        result[split].extend(by_key[key])
    return result


def write(path: Path, halves_of_family: dict[Split, list[Item]]) -> None:
    """Writes a family's file, the fit half first, each half in the order of digests.

    Raises ValueError where two items have the same id or the same prompt.
    """
    lines: list[str] = []
    seen: set[str] = set()
    for split, items in halves_of_family.items():
        for item in shuffled(items, lambda item: f"{item.key}/{item.form}", "order"):
            line = item.line(split)
            for name in (json.loads(line)["id"], item.prompt):
                if name in seen:
                    raise ValueError(f"{path.name}: twice: {name!r}")
                seen.add(name)
            lines.append(line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
