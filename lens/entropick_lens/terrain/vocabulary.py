"""Finds the tokens that a section names: digits, whole words, special tokens.

Ids say nothing: 48 to 57 are digits in a table of bytes, and anything else in other vocabularies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


class Tokens(Protocol):
    """A tokenizer as these functions see it."""

    @property
    def size(self) -> int:
        """Returns the number of token ids."""
        ...

    def token_bytes(self, token_id: int, /) -> bytes | None:
        """Returns the bytes of a token, None for a special token."""
        ...

    def vocabulary_token(self, token_id: int, /) -> str:
        """Returns a token as the vocabulary writes it, "" for an id without meaning."""
        ...


@dataclass(frozen=True, slots=True)
class NamedTokens:
    """The tokens of a vocabulary that have a meaning of their own."""

    digits: tuple[int, ...]
    """The ids of the digits 0 to 9, all with or all without a space before them; empty without
    all ten."""
    words: Mapping[str, int]
    """The ids of words of letters with a space before them, or without where no other is, in lower case."""
    capitalised: Mapping[str, int]
    """The ids of words that begin with a capital letter, otherwise the same."""
    special: Mapping[str, int]

    def find(self, word: str) -> int | None:
        """Returns the id of a word, as it is written; None where it is no single token."""
        return self.words.get(word, self.capitalised.get(word))


def named_tokens(tokenizer: Tokens, rows: int) -> NamedTokens:
    """Finds the named tokens among the ids below ``rows``, the number of rows of the embedding."""
    spaced: dict[str, int] = {}
    bare: dict[str, int] = {}
    special: dict[str, int] = {}
    for token_id in range(min(tokenizer.size, rows)):
        data = tokenizer.token_bytes(token_id)
        if data is None:
            name = tokenizer.vocabulary_token(token_id)
            if name:
                special[name] = token_id
            continue
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        if text.startswith(" "):
            spaced.setdefault(text[1:], token_id)
        else:
            bare.setdefault(text, token_id)
    digits: tuple[int, ...] = ()
    for table in (bare, spaced):
        if not digits and all(str(n) in table for n in range(10)):
            digits = tuple(table[str(n)] for n in range(10))
    words = {**dict(_words(bare)), **dict(_words(spaced))}
    return NamedTokens(
        digits=digits,
        words={word: at for word, at in words.items() if word.islower()},
        capitalised={word: at for word, at in words.items() if word[0].isupper() and word[1:].islower()},
        special=special,
    )


def _words(table: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for text, token_id in table.items():
        if len(text) > 1 and text.isascii() and text.isalpha():
            yield text, token_id
