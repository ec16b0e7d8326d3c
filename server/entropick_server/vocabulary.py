"""The tokens of a model one by one: the bytes and the label of each are looked up once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .engine.base import Tokenizer

Value = TypeVar("Value")


class _Table(dict[int, Value]):
    """A dictionary of token ids that makes a missing value and keeps it: a hit costs no Python call."""

    def __init__(self, make: Callable[[int], Value]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, token_id: int) -> Value:
        value = self[token_id] = self._make(token_id)
        return value


class Vocabulary:
    """The tokens of a model, by their ids. Safe to read in several threads."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        """Prepares empty tables; the ids are 0 to ``size`` - 1."""
        self._tokenizer = tokenizer
        self._size = size
        self._longest = 0
        self.bytes: dict[int, bytes | None] = _Table(tokenizer.token_bytes)
        """token id -> its exact bytes; None for a special token"""
        self.visible: dict[int, bytes | None] = _Table(self._named)
        """token id -> its exact bytes; of a special token those of its name"""
        self.labels: dict[int, str] = _Table(self._label)
        """token id -> its text, a special token's name, or OpenAI's form for part of a character"""

    @property
    def longest(self) -> int:
        """Returns the bytes of the longest token, a special token's name included.

        The first look-up walks over the whole vocabulary, which takes some tenths of a second.
        """
        if not self._longest:
            read = self._tokenizer.token_bytes
            sizes = (
                len(self._label(i).encode()) if (data := read(i)) is None else len(data)
                for i in range(self._size)
            )
            self._longest = max(sizes, default=1) or 1
        return self._longest

    def text(self, token_ids: tuple[int, ...]) -> str:
        """Returns the text of tokens that may begin in the middle of a reply, which a decoder might trim."""
        return b"".join(self.bytes[i] or b"" for i in token_ids).decode("utf-8", "replace")

    def _named(self, token_id: int) -> bytes:
        data = self._tokenizer.token_bytes(token_id)
        return self._label(token_id).encode() if data is None else data

    def _label(self, token_id: int) -> str:
        data = self._tokenizer.token_bytes(token_id)
        if data is None:
            return self._tokenizer.decode([token_id], skip_special_tokens=False)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
