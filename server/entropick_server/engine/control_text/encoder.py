"""The encoder of texts in which some control texts are tokens and others are text."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, Final

from .texts import ControlTexts, Finder

_LETTERS: Final = range(0xA000, 0xA48D)
"""syllables of Yi, which no normaliser changes"""
_UNGUESSED: Final = 10
"""letters that no client can guess: some 100 bits"""


class MixedEncoder:
    """An encoder that takes control tokens by secret names, so that no text can name them.

    It is a copy of a fast tokenizer in which each control token is called otherwise; all else is as it was,
    so that the same text around the same tokens has the same ids. The copy is made at the first use, which
    takes some tenths of a second for a large vocabulary: most servers never need it.
    """

    def __init__(self, backend: Any, controls: ControlTexts) -> None:
        """Prepares the secret names. ``backend``: a ``tokenizers.Tokenizer``."""
        self._backend = backend
        texts = sorted(controls.special | controls.marks)
        self._names = dict(zip(texts, _secret_names(len(texts)), strict=True))
        self._making = Lock()

    def encode(self, pieces: Sequence[str], *, add_special_tokens: bool) -> list[int]:
        """Encodes a text in pieces: control texts at odd places are tokens, all others text."""
        with self._making:
            copy, ids = self._renamed
        text = "".join(self._names[piece] if at % 2 else piece for at, piece in enumerate(pieces))
        # a batch is encoded without holding the interpreter, a single text is not
        encoded = copy.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return [ids.get(i, i) for i in encoded[0].ids]

    @cached_property
    def _renamed(self) -> tuple[Any, dict[int, int]]:
        """Makes the copy, with those of its ids that are others in the original: theirs -> the original's.

        A control token stands in the file as a string of its own, mostly twice: as an added token and as a
        word of the vocabulary, which the model would make of the text again.
        """
        quoted = {json.dumps(text, ensure_ascii=False): f'"{name}"' for text, name in self._names.items()}
        parts = Finder(quoted).split(self._backend.to_str())
        copy = type(self._backend).from_str("".join(quoted[p] if at % 2 else p for at, p in enumerate(parts)))
        copy.no_truncation()
        copy.no_padding()
        token_id = self._backend.token_to_id
        pairs = ((copy.token_to_id(name), token_id(text)) for text, name in self._names.items())
        return copy, {theirs: original for theirs, original in pairs if theirs != original}


def _secret_names(number: int) -> Iterator[str]:
    """Yields different names of one length."""
    unguessed = "".join(chr(secrets.choice(_LETTERS)) for _ in range(_UNGUESSED))
    base = len(_LETTERS)
    for at in range(number):
        yield unguessed + chr(_LETTERS[at // base % base]) + chr(_LETTERS[at % base])
