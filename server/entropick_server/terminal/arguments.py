"""The arguments of the terminal's commands: names that must be known, and fields with values."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Sequence
from typing import Any, Final

from .escaping import one_line
from .remote import ChatError

_LISTS: Final = frozenset({"on"})
"""fields of a branch whose value is a list"""


class CommandError(ChatError):
    """An error in a command."""


def choose(what: str, given: str, known: Sequence[str]) -> str:
    """Returns the given name. Raises CommandError with the nearest known name where it is none."""
    if given in known:
        return given
    near = difflib.get_close_matches(given[:64], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}."
    raise CommandError(f"There is no {what} {one_line(given, 64)}; {hint}")


def fields(what: str, text: str, known: Sequence[str]) -> dict[str, Any]:
    """Parses ``name=value`` pairs, or a JSON object, whose names must be known."""
    if text.startswith("{"):
        try:
            told = json.loads(text)
        except ValueError as error:
            raise CommandError(f"{what}: no JSON object: {error}") from error
    else:
        told = dict(_pair(what, word) for word in _split(what, text))
    for name in told:
        choose(f"{what} field", name, known)
    return dict(told)


def _split(what: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise CommandError(f"{what}: {error}") from error


def _pair(what: str, word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals:
        raise CommandError(f"{what}: {one_line(word, 64)} is no name=value")
    if name in _LISTS:
        return name, value.split(",")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value.replace("\\n", "\n")
