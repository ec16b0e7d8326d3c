"""Why a grammar is not served, in words for the client that sent it."""

from __future__ import annotations

import re
from typing import Final

_PLACE: Final = re.compile(r"^at \d+\(\d+\): ")
_REASON: Final = re.compile(r"^error: (.+)$", re.MULTILINE)
_NOTHING_FOLLOWS: Final = "NoExtension"
_LONGEST: Final = 200


class GrammarError(ValueError):
    """A grammar that is not served; the message says why, without the name of the field."""


def in_words(message: str) -> str:
    """Returns the line of a library's message that tells a client the fault."""
    if message.startswith(_NOTHING_FOLLOWS):
        return "no text follows it: it refers to itself without end, or contradicts itself"
    reason = _REASON.search(message)
    line = reason[1] if reason else message.partition("\n")[0]
    return _PLACE.sub("", line).strip()[:_LONGEST] or "it cannot be compiled"
