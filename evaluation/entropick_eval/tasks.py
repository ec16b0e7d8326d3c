"""Reads tasks: JSON Lines files with an item (a prompt, and mostly its checkable answer) on each line.

docs/evaluation.md describes the fields. An item's digest covers the fields that a reply depends on, so
results stay valid where only the check or the answer was corrected.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from entropick_server.answers import ExtractorError, extractor

from .checkers import Check, CheckError, build_check

Split = Literal["fit", "test"]
SPLITS: Final[tuple[Split, ...]] = ("fit", "test")
FIELDS: Final = (
    "id",
    "family",
    "split",
    "messages",
    "prompt",
    "check",
    "answer",
    "max_tokens",
    "extract",
    "stop",
    "meta",
)
"""The fields of an item; ``meta`` is the author's own and is not read."""
_ROLES: Final = ("system", "developer", "user", "assistant")


class TaskError(ValueError):
    """An error in a file of tasks; the message names the file, the line and the field."""


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt with the way to check a reply to it; an open prompt has no check."""

    id: str
    family: str
    split: Split
    messages: tuple[Mapping[str, Any], ...]
    """a conversation whose last message is the user's"""
    check: Check | None
    max_tokens: int | None
    extract: str | Mapping[str, Any] | None
    """an extractor of answers, in the words of the server's consensus"""
    stop: tuple[str, ...]
    digest: str
    """of the fields that a reply depends on"""

    @property
    def question(self) -> str:
        """Returns the text of the last message."""
        return message_text(self.messages[-1])


def message_text(message: Mapping[str, Any]) -> str:
    """Returns the text of a message, whose content is a string or a list of parts."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)


def canonical(value: Any) -> str:
    """Returns the one JSON text of a value: sorted keys, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def short_digest(value: Any) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def split_of(item_id: str) -> Split:
    """Returns the half that an item without ``split`` belongs to, by the first bit of its id's SHA-256."""
    return "fit" if hashlib.sha256(item_id.encode()).digest()[0] < 128 else "test"


def find_tasks(names: Sequence[str]) -> list[Path]:
    """Returns the files that names stand for: a path, or the name of a file of tasks that is shipped.

    Raises TaskError that lists the shipped files.
    """
    shipped = {path.stem: path for path in sorted((Path(__file__).parent / "data").glob("*.jsonl"))}
    found = []
    for name in names:
        path = Path(name)
        if not path.exists() and name not in shipped:
            listed = f"; shipped tasks: {', '.join(shipped)}" if shipped else ""
            raise TaskError(f"{name}: there is no such file{listed}")
        found.append(path if path.exists() else shipped[name])
    return found


def read_tasks(paths: Sequence[Path]) -> list[Item]:
    """Reads all items of some files, in their order. Raises TaskError, also where an id comes twice."""
    items: list[Item] = []
    places: dict[str, str] = {}
    for path in paths:
        for number, item in _read_file(path):
            place = f"{path}:{number}"
            if item.id in places:
                raise TaskError(f"{place}: id: {item.id!r} is the id of {places[item.id]} too")
            places[item.id] = place
            items.append(item)
    if not items:
        raise TaskError(f"no item in {', '.join(map(str, paths))}")
    return items


def limited(items: Sequence[Item], limit: int | None, seed: int = 0) -> list[Item]:
    """Returns at most ``limit`` random items in their order, each family and split with its share."""
    if limit is None or limit >= len(items):
        return list(items)
    groups: dict[tuple[str, str], list[int]] = {}
    for at, item in enumerate(items):
        groups.setdefault((item.family, item.split), []).append(at)
    ranked: list[tuple[float, int]] = []
    for name in sorted(groups):
        members = groups[name]
        random.Random(f"{seed} {name}").shuffle(members)
        ranked += [((place + 0.5) / len(members), at) for place, at in enumerate(members)]
    return [items[at] for at in sorted(at for _, at in sorted(ranked)[:limit])]


def _read_file(path: Path) -> list[tuple[int, Item]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read: {error}") from error
    found = []
    # not splitlines(): it would also split at characters that JSON allows inside a string
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            raw = json.loads(line)
        except ValueError as error:
            raise TaskError(f"{place}: not a JSON object: {error}") from error
        if not isinstance(raw, dict):
            raise TaskError(f"{place}: not a JSON object")
        try:
            found.append((number, parse_item(raw, path.stem)))
        except CheckError as error:
            raise TaskError(f"{place}: {error}") from error
    return found


def parse_item(raw: Mapping[str, Any], stem: str) -> Item:
    """Returns the item of a JSON object. Raises CheckError that names the field.

    ``stem`` is the family where the item names none, and the beginning of its id where it has none.
    """
    for name in raw:
        if name not in FIELDS:
            raise CheckError(name, f"no such field; known: {', '.join(FIELDS)}")
    messages = _messages(raw)
    max_tokens = raw.get("max_tokens")
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise CheckError("max_tokens", "must be a whole number above 0")
    stop = raw.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise CheckError("stop", "must be a string or a list of strings")
    extract = raw.get("extract")
    if extract is not None:
        try:
            extractor(extract)
        except ExtractorError as error:
            raise CheckError("extract", str(error)) from error
    digest = short_digest([messages, max_tokens, stop, extract])
    item_id = _text(raw, "id") or f"{stem}-{digest[:8]}"
    split = _text(raw, "split") or split_of(item_id)
    if split not in SPLITS:
        raise CheckError("split", f"must be one of {', '.join(SPLITS)}")
    question = message_text(messages[-1])
    check = build_check(raw.get("check"), raw.get("answer"), question, raw)
    return Item(
        id=item_id,
        family=_text(raw, "family") or stem,
        split="fit" if split == "fit" else "test",
        messages=tuple(messages),
        check=check,
        max_tokens=max_tokens,
        extract=extract,
        stop=tuple(stop),
        digest=digest,
    )


def _text(raw: Mapping[str, Any], field: str) -> str | None:
    value = raw.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise CheckError(field, "must be a string that is not empty")
    return value


def _messages(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns an item's conversation; a ``prompt`` is one message of the user."""
    prompt, messages = _text(raw, "prompt"), raw.get("messages")
    if (prompt is None) == (messages is None):
        raise CheckError("prompt", "an item has either a prompt or messages")
    if prompt is not None:
        return [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not messages:
        raise CheckError("messages", "must be a list of messages")
    for number, message in enumerate(messages):
        field = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise CheckError(f"{field}.role", f"must be one of {', '.join(_ROLES)}")
        content = message.get("content")
        parts = isinstance(content, list) and all(isinstance(part, dict) for part in content)
        if not isinstance(content, str) and not parts:
            raise CheckError(f"{field}.content", "must be a string or a list of text parts")
    if messages[-1]["role"] != "user":
        raise CheckError(f"messages[{len(messages) - 1}].role", "the last message must be the user's")
    return messages
