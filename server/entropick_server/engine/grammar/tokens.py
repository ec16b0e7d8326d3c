"""A model's tokens as llguidance reads them: their bytes, and how a text is cut into them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llguidance import LLTokenizer, TokenizerWrapper

from ..base import Tokenizer

_SPECIAL_MARK: Final = "<|token {}|>"
_MARK: Final = re.compile(r"<\S+>|\[\S+\]")


class _Vocabulary:
    """The vocabulary in the form that llguidance's wrapper asks for; the names of its fields are given."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int, eos: Sequence[int]) -> None:
        self.eos_token_id = eos[0]
        self.tokens: list[bytes] = []
        self.special_token_ids: list[int] = []
        self.special: dict[str, int] = {}
        self._tokenizer = tokenizer
        self._ids: dict[bytes, int] = {}
        marks = _marks_of_calls(tokenizer)
        for token_id in range(size):
            data = tokenizer.token_bytes(token_id)
            if data is None or token_id in marks:
                name = tokenizer.decode([token_id], skip_special_tokens=False)
                self.special_token_ids.append(token_id)
                self.special.setdefault(name, token_id)
                self.tokens.append((name or _SPECIAL_MARK.format(token_id)).encode())
            else:
                self.tokens.append(data)
                self._ids.setdefault(data, token_id)
        self._marks = frozenset(self.special_token_ids)
        self.longest = max(map(len, self._ids), default=1) or 1

    def __call__(self, text: bytes | str) -> list[int]:
        """Cuts a text into the tokens that the model's tokenizer makes of it behind other tokens."""
        data = text if isinstance(text, bytes) else text.encode()
        ids = self._tokenizer.encode(data.decode(), add_special_tokens=False)
        whole = b"".join(self._tokenizer.token_bytes(i) or b"" for i in ids) == data
        if whole and self._marks.isdisjoint(ids):
            return ids
        # this tokenizer puts a space before a text, or takes a part of it for a special token or a mark
        return self._greedy(data)

    def _greedy(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            length = next((n for n in range(self.longest, 0, -1) if data[at : at + n] in self._ids), 0)
            if not length:
                break
            ids.append(self._ids[data[at : at + length]])
            at += length
        return ids


def _marks_of_calls(tokenizer: Tokenizer) -> frozenset[int]:
    """Returns the tokens that mark a call in the model's replies, such as "<tool_call>" and "</tool_call>".

    Many models have them as ordinary tokens; inside of a JSON string, one would end the call for its reader.
    """
    form = tokenizer.reply_format.call_form
    if form is None:
        return frozenset()
    texts = (form.begin, form.middle, form.end, form.between or "")
    ids = {i for text in texts for i in tokenizer.encode(text, add_special_tokens=False)}
    return frozenset(i for i in ids if _MARK.fullmatch(tokenizer.decode([i], skip_special_tokens=False)))


@dataclass(frozen=True, slots=True)
class GrammarTokens:
    """The tokens of a model: ``tokenizer`` is llguidance's; ``longest``: bytes of the longest token.

    ``special``: the special tokens by their names.
    """

    tokenizer: LLTokenizer
    longest: int
    special: Mapping[str, int]

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int, eos: Sequence[int]) -> GrammarTokens:
        """Reads the tokens of a model.

        ``vocab_size``: columns of the logits; columns without a token are never allowed. ``eos``: tokens that
        may end a reply. Raises ValueError for none.
        """
        if not eos:
            raise ValueError("a model without an end of sequence cannot end a reply that follows a grammar")
        vocabulary = _Vocabulary(tokenizer, vocab_size, eos)
        made = LLTokenizer(TokenizerWrapper(vocabulary), eos_token=list(eos))
        return cls(made, vocabulary.longest, vocabulary.special)
