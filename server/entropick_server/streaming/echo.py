"""A prompt as the text of its completion begins with it: the text, and where each token stands in it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.base import Tokenizer
from ..vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt's text, its token ids, and the characters of the text before each token."""

    text: str
    token_ids: tuple[int, ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(
        cls, text: str | None, token_ids: Sequence[int], vocabulary: Vocabulary, tokenizer: Tokenizer
    ) -> Echo:
        """Lays a prompt's tokens out in its text.

        ``text``: as the client sent it; None: decoded from the tokens, special ones by their names. A special
        token that the text does not spell (the tokenizer added it) takes no room; a text that the tokenizer
        changes before it splits it (case, blanks) gives offsets that are near.
        """
        if text is None:
            text = tokenizer.decode(list(token_ids), skip_special_tokens=False)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        offsets: list[int] = []
        at = 0
        for token_id in token_ids:
            offsets.append(at)
            data = vocabulary.bytes[token_id]
            if data is None:
                name = vocabulary.labels[token_id]
                at += len(name) if name and text.startswith(name, at) else 0
                continue
            part = decoder.decode(data)
            if part.startswith(" ") and not text.startswith(part, at) and text.startswith(part[1:], at):
                part = part[1:]  # a space that the tokenizer put before the text
            at = min(at + len(part), len(text))
        return cls(text, tuple(token_ids), tuple(offsets))
