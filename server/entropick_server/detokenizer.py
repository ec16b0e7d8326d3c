"""Token bytes to text, one token at a time: never half a character, never the beginning of a stop string.

Knows nothing of engines and requests: token ids go in, text and the number of tokens it completes come out.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Released(NamedTuple):
    """The text that a token lets out, and how many tokens (oldest first) are complete with it."""

    text: str
    tokens: int
    stopped: bool = False
    """a stop string is complete: the text ends before it, every token so far counts as released"""
    beyond: int = 0
    """how many of the newest tokens reach beyond the end of the text that a stop string cut"""


class Detokenizer:
    """The text of one reply as it grows.

    A stop string counts where its last character arrives; of two that end there, the longer. So the result
    depends on the text alone, not on how it was cut into tokens.
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes | None],
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        rest: Callable[[], bytes] = bytes,
        min_tokens: int = 0,
    ) -> None:
        """Begins a text.

        ``include_stop``: a stop string stays at its end; ``rest``: returns the bytes at the end that
        ``token_bytes`` holds back, where it does; ``min_tokens``: tokens within which no stop string counts.
        """
        self.offset = 0
        """characters decoded so far: where the next token's text begins"""
        self._token_bytes = token_bytes
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._rest = rest
        self._early = min_tokens
        """tokens to come within which no stop string counts"""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._out = 0
        """characters that were let out"""
        self._waiting: deque[int] = deque()
        """for each token not yet released: how many characters must be out before it is"""
        self._known = 0
        """characters that are held back and that the reader has already"""

    def begin_behind(self, token_ids: Sequence[int]) -> None:
        """Takes the tokens before the text, which the reader has: nothing of them comes out.

        Their last bytes may begin a character or a stop string that the text goes on with. Raises ValueError
        where a stop string is complete in them.
        """
        for token_id in token_ids:
            if self.push(token_id).stopped:
                raise ValueError("a stop string is complete in the tokens before the text")
        self._waiting.clear()
        self._known = len(self._held)

    def push(self, token_id: int, *, silent: bool = False) -> Released:
        """Takes one token. Returns the text that it lets out.

        A ``silent`` token (a stop token) and a special one have no text."""
        data = None if silent else self._token_bytes(token_id)
        text = self._decoder.decode(data) if data else ""
        # a token that ends inside a character needs that character, which is the next one to come out
        inside = 1 if self._decoder.getstate()[0] else 0
        self._waiting.append(self.offset + len(text) + inside)
        released = self._let_out(text)
        self._early = max(0, self._early - 1)
        return released

    def finish(self) -> Released:
        """Returns the text that was held back; bytes that never became a character come out as U+FFFD."""
        last = self._let_out(self._decoder.decode(self._rest(), final=True))
        if last.stopped:
            return last
        rest, self._held = self._unknown(self._held), ""
        released = len(self._waiting)
        self._waiting.clear()
        return Released(last.text + rest, last.tokens + released)

    def _let_out(self, text: str) -> Released:
        self.offset += len(text)
        out = self._held + text
        if self._stop:
            if text and not self._early and (cut := self._stop_position(out)) is not None:
                released = len(self._waiting)
                beyond = sum(needed > self._out + cut for needed in self._waiting)
                self._waiting.clear()
                return Released(self._unknown(out[:cut]), released, True, beyond)
            keep = self._beginning_of_stop(out)
            out, self._held = out[: len(out) - keep], out[len(out) - keep :]
        self._out += len(out)
        released = 0
        while self._waiting and self._waiting[0] <= self._out:
            self._waiting.popleft()
            released += 1
        return Released(self._unknown(out), released)

    def _unknown(self, text: str) -> str:
        """Cuts off what the reader has already of a text that comes out."""
        cut = min(self._known, len(text))
        self._known -= cut
        return text[cut:]

    def _stop_position(self, text: str) -> int | None:
        """Returns where the text ends because of a stop string; None where it holds none.

        A stop string ends behind what was held back: one that is complete in there came too early to count.
        """
        held = len(self._held)
        ends = [(at + len(s), at) for s in self._stop if (at := text.find(s, max(0, held - len(s) + 1))) >= 0]
        return min(ends)[0 if self._include_stop else 1] if ends else None

    def _beginning_of_stop(self, text: str) -> int:
        """Returns the length of the longest end of ``text`` that some stop string begins with."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
