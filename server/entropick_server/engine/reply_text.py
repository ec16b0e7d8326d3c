"""The text of a reply where a token's text depends on its neighbours, as it grows.

Knows nothing of tokenizers: token ids go into a function that decodes them as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

_HELD: Final = 4
"""newest tokens that may change the text before them: decoders tidy " n't" and " ." away, drop repeated
tokens, and join the bytes of a character"""
CONTEXT: Final = 16
"""tokens of the prompt that are decoded with a reply"""


class ReplyText:
    """The text of one reply. All of it, joined, is the text that decoding the whole adds to the prompt's."""

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int]) -> None:
        """Begins a reply behind the tokens of a prompt."""
        self._decode = decode
        self._ids = list(prompt[-CONTEXT:])
        text = decode(self._ids)
        self._newest = deque([text], _HELD + 1)
        """the text after each of the newest tokens"""
        self._out = len(text)
        """characters that came out, or are the prompt's"""

    def push(self, token_id: int) -> bytes:
        """Takes a token. Returns the text that later tokens will not change any more."""
        self._ids.append(token_id)
        self._newest.append(self._decode(self._ids))
        if len(self._newest) <= _HELD:
            return b""
        return self._let_out(_common_beginning(self._newest))

    def finish(self) -> bytes:
        """Returns the rest of the text."""
        return self._let_out(self._newest[-1])

    def _let_out(self, text: str) -> bytes:
        rest = text[self._out :]
        self._out = max(self._out, len(text))
        return rest.encode()


def _common_beginning(texts: Sequence[str]) -> str:
    """Returns the longest text that all of some texts begin with."""
    first, last = min(texts), max(texts)  # all others lie between them
    for at, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return first[:at]
    return first
