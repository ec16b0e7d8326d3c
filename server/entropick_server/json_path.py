"""A value of the JSON in a text, named by a path: a small part of JSONPath (RFC 9535), with its place.

A path is ``$`` followed by steps: ``.name``, ``["name"]`` or ``['name']`` into an object, ``[0]`` or ``[-1]``
into an array. No wildcards, slices or filters: a path leads to one value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

MAX_PATH: Final = 512
"""characters of a path"""
MAX_TRIES: Final = 64
"""beginnings of JSON that a text may have in vain, so that the search stays linear"""
_STEP: Final = re.compile(
    r"\.(?P<name>[^\W\d][\w-]*)|\[(?P<index>0|-?[1-9]\d{0,8})\]|\[\"(?P<double>[^\"\\]*)\"\]|\['(?P<single>[^'\\]*)'\]"
)
_OPENING: Final = re.compile(r"[{\[]")
_SPACE: Final = re.compile(r"[ \t\n\r]*")
Step = str | int
"""a name in an object, or an index in an array, from its end where negative"""


class PathError(ValueError):
    """A path that is none; the message says why."""


class Found(NamedTuple):
    """A value of JSON at its place in a text: characters ``begin`` to ``end``, the latter excluded."""

    value: Any
    begin: int
    end: int


def _not_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _number(text: str) -> int | float:
    """Returns 2 of "2.0": equal numbers are to be equal texts. Raises ValueError for an infinite one."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("no finite number")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_DECODER: Final = json.JSONDecoder(parse_float=_number, parse_constant=_not_json)


def parse_path(path: str) -> tuple[Step, ...]:
    """Returns the steps of a path. Raises PathError."""
    if len(path) > MAX_PATH:
        raise PathError(f"may have at most {MAX_PATH} characters")
    if not path.startswith("$"):
        raise PathError("must begin with '$'")
    steps: list[Step] = []
    at = 1
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            raise PathError(f'has no step at character {at}; steps are .name, ["name"] and [0]')
        at = step.end()
        kind = step.lastgroup or ""
        steps.append(int(step[kind]) if kind == "index" else step[kind])
    return tuple(steps)


def find(text: str, steps: Sequence[Step]) -> Found | None:
    """Returns the value that the steps lead to in the last JSON object or array of a text that has it.

    Returns None where no JSON has it. JSON stands anywhere in the text, in a code fence for example. Behind
    :data:`MAX_TRIES` opening brackets that open no JSON the search ends.
    """
    found: Found | None = None
    at = tries = 0
    while tries < MAX_TRIES and (opening := _OPENING.search(text, at)) is not None:
        begin = opening.start()
        try:
            _, at = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError):
            at = begin + 1
            tries += 1
            continue
        found = _walk(text, begin, steps) or found
    return found


def _walk(text: str, begin: int, steps: Sequence[Step]) -> Found | None:
    """Follows the steps through valid JSON that begins at a character of the text."""
    for step in steps:
        opening = "{" if isinstance(step, str) else "["
        if text[begin] != opening:
            return None
        inside = _members(text, begin) if isinstance(step, str) else _items(text, begin)
        places = [place for key, place in inside if key == step or isinstance(step, int)]
        if isinstance(step, int):
            if not -len(places) <= step < len(places):
                return None
            begin = places[step]
        elif places:
            begin = places[-1]  # of equal names the last counts, as for every reader of JSON here
        else:
            return None
    value, end = _DECODER.raw_decode(text, begin)
    return Found(value, begin, end)


def _members(text: str, begin: int) -> list[tuple[Step, int]]:
    """Lists an object's names, each with the place of its value."""
    members: list[tuple[Step, int]] = []
    at = _skip(text, begin + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # over the colon
        members.append((name, at))
        at = _behind(text, at)
    return members


def _items(text: str, begin: int) -> list[tuple[Step, int]]:
    """Lists an array's indices, each with the place of its value."""
    items: list[tuple[Step, int]] = []
    at = _skip(text, begin + 1)
    while text[at] != "]":
        items.append((len(items), at))
        at = _behind(text, at)
    return items


def _behind(text: str, begin: int) -> int:
    """Returns the place behind a value and the comma that may follow it."""
    at = _skip(text, _DECODER.raw_decode(text, begin)[1])
    return _skip(text, at + 1) if text[at] == "," else at


def _skip(text: str, at: int) -> int:
    """Returns the place of the first character from ``at`` on that is no white space."""
    space = _SPACE.match(text, at)
    return at if space is None else space.end()
