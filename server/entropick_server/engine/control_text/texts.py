"""The texts that a tokenizer reads as control tokens, and the places where a text holds them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

_AT_ONCE: Final = 1 << 16
"""characters that are searched in one call, so that other threads get their turns"""


class Finder:
    """A search for the longest of several texts at every place."""

    def __init__(self, texts: Iterable[str]) -> None:
        known = frozenset(texts)
        self._pattern = re.compile(_trie_pattern(known)) if known else None
        self._longest = max(map(len, known), default=0)
        self._begun = frozenset(text[:n] for text in known for n in range(1, len(text)))

    def starts(self, text: str) -> Iterator[int]:
        """Yields every place of a text where one of the texts begins, also inside another."""
        at = 0
        while (found := self._next(text, at)) is not None:
            yield found.start()
            at = found.start() + 1

    def open_end(self, text: str) -> int | None:
        """Returns the first place of a text from which it ends like the beginning of one of the texts."""
        first = max(0, len(text) - self._longest + 1)
        return next((at for at in range(first, len(text)) if text[at:] in self._begun), None)

    def split(self, text: str) -> list[str]:
        """Splits a text at the texts that were searched, which come at odd places of the list."""
        pieces, at = [], 0
        while (found := self._next(text, at)) is not None:
            pieces += [text[at : found.start()], found[0]]
            at = found.end()
        return [*pieces, text[at:]]

    def _next(self, text: str, at: int) -> re.Match[str] | None:
        if self._pattern is None:
            return None
        while at < len(text):
            found = self._pattern.search(text, at, min(len(text), at + _AT_ONCE + self._longest))
            if found is not None and found.start() < at + _AT_ONCE:
                return found
            at += _AT_ONCE
        return None


class ControlTexts:
    """The texts of a tokenizer's control tokens.

    ``special``: its special tokens. ``marks``: other added tokens that the chat template writes, as
    ``<tool_call>``. ``foreign``: characters that cannot stand in for others.
    """

    def __init__(
        self, special: Iterable[str] = (), marks: Iterable[str] = (), foreign: Iterable[str] = ()
    ) -> None:
        self.special = frozenset(text for text in special if text.strip())
        self.marks = frozenset(text for text in marks if text.strip()) - self.special
        self.foreign = frozenset(foreign)
        self.of_special = Finder(self.special)
        self.of_all = Finder(self.special | self.marks)


def _trie_pattern(texts: frozenset[str]) -> str:
    """Returns a regular expression for the longest of several texts, which takes no step back."""
    root: dict[str, Any] = {}
    for text in texts:
        node = root
        for character in text:
            node = node.setdefault(character, {})
        node[""] = None
    return _branches(root)


def _branches(node: dict[str, Any]) -> str:
    run = ""
    while len(node) == 1 and "" not in node:
        ((character, node),) = node.items()
        run += re.escape(character)
    ways = [re.escape(character) + _branches(below) for character, below in node.items() if character]
    if not ways:
        return run
    return f"{run}(?:{'|'.join(ways)}){'?' if '' in node else ''}"
