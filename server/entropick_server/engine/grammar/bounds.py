"""The bounds of a grammar before anything compiles it: size, depth, how much it lists, how much it forces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from .errors import GrammarError
from .shortest import shortest

MAX_BYTES: Final = 1 << 17
"""of a schema or a list of choices, UTF-8"""
MAX_PATTERN: Final = 1 << 13
"""characters of a regular expression"""
MAX_DEPTH: Final = 64
"""objects and lists of a schema's JSON inside each other"""
MAX_ENUM: Final = 5_000
"""values in all lists of a schema's alternatives together, and choices"""
MAX_PROPERTIES: Final = 1_000
"""of one object: the time to compile them grows with the square"""
MAX_ALL_PROPERTIES: Final = 5_000
MAX_FORCED: Final = 10_000
"""characters that a grammar may demand at least in one place: what is forced is computed at every token"""
# characters of each counted thing at least: an item and its comma; a name in quotes, colon, value, comma
_SMALLEST: Final = {"minLength": 1, "minItems": 2, "minProperties": 5}


def check_size(text: str, most: int, unit: str) -> None:
    """Raises GrammarError for a text that is too long. ``unit``: bytes or characters."""
    size = len(text.encode()) if unit == "bytes" else len(text)
    if size > most:
        raise GrammarError(f"has {size} {unit}; at most {most} are served")


def read_schema(text: str) -> Any:
    """Parses the JSON text of a schema that is within bounds, and returns it.

    Raises GrammarError where it is no JSON object or boolean, and for the first bound that it breaks.
    """
    check_size(text, MAX_BYTES, "bytes")
    try:
        schema = json.loads(text)
    except RecursionError as error:
        raise GrammarError(f"is nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise GrammarError(f"is not valid JSON: {error}") from error
    if not isinstance(schema, dict | bool):
        raise GrammarError("must be a JSON schema: an object")
    listed = properties = 0
    for name, value in _members(schema):
        if name == "enum" and isinstance(value, list):
            listed += len(value)
        elif name == "properties" and isinstance(value, dict):
            properties += len(value)
            if len(value) > MAX_PROPERTIES:
                raise GrammarError(
                    f"an object has {len(value)} properties; at most {MAX_PROPERTIES} are served"
                )
    if listed > MAX_ENUM:
        raise GrammarError(f"lists {listed} values in enum; at most {MAX_ENUM} are served")
    if properties > MAX_ALL_PROPERTIES:
        raise GrammarError(f"has {properties} properties; at most {MAX_ALL_PROPERTIES} are served")
    return schema


def forced_by(schema: Any) -> tuple[int, str]:
    """Finds the most characters that one keyword of a schema forces, and that keyword; (0, "") for none."""
    found = (0, "")
    for name, value in _members(schema):
        if name in _SMALLEST and isinstance(value, int | float) and value > 0:
            forced = _SMALLEST[name] * min(int(value), 1 << 53)
        elif name == "pattern" and isinstance(value, str):
            check_size(value, MAX_PATTERN, "characters in a pattern")
            forced = shortest(value)
        else:
            continue
        found = max(found, (forced, name))
    return found


def check_forced(forced: int, name: str) -> None:
    """Raises GrammarError where one place forces too many characters."""
    if forced > MAX_FORCED:
        raise GrammarError(f"{name} asks for at least {forced} characters; at most {MAX_FORCED} are served")


def _members(schema: Any) -> Iterator[tuple[str, Any]]:
    """Goes through the members of all objects of a schema. Raises GrammarError for one that is too deep."""
    waiting = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if not isinstance(value, dict | list):
            continue
        if depth > MAX_DEPTH:
            raise GrammarError(f"is nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            yield from value.items()
            value = [*value.values()]
        waiting += [(inner, depth + 1) for inner in value]
