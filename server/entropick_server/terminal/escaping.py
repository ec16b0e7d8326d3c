"""Text of a model made safe for a terminal, which obeys some characters instead of showing them."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_KEPT: Final = frozenset("\n\t\u200c\u200d")
"""a line's end, a tab, and the two joiners that scripts and emoji need"""
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that a terminal obeys or that change the order of what is shown"""
_PLAIN: Final = re.compile(r"[ -~\n\t]*")


def printable(text: str) -> str:
    """Returns the text with every character that a terminal would obey replaced by a visible name.

    ESC becomes ␛, a carriage return ␍; other controls, marks of text direction and lone surrogates become
    escapes such as ``\\u202e``. Line ends and tabs stay.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str, longest: int = 300) -> str:
    """Returns the text as one safe line, cut where it is longer than ``longest`` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
