"""The adjustments of a reply: its request's fields, and its tokens as far as masks and penalties read them.

A reply keeps one of these where its request asks for any adjustment; :func:`step_adjustments` lays those of a
batch's rows out for a step. Knows no tensors and no engine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import numpy as np

from entropick_kernels.adjust.arrays import WORD_BITS, Floats, Integers, Words

from .adjustments import NO_PENALTY, Adjustments, Masks, entries_of, words_of
from .params import SamplingParams

_NO_IDS: Final = np.zeros(0, dtype=np.int64)
_NO_VALUES: Final = np.zeros(0)
_FIRST_SIZE: Final = 64
MAX_BIAS: Final = 100
"""The size that no bias exceeds, as at OpenAI."""
PENALTY_LIMIT: Final = 2
"""The size that no presence or frequency penalty exceeds, as at OpenAI."""
REPETITION_LIMIT: Final = 100
"""The largest repetition penalty; the least lies above 0."""


class _Asked:
    """The adjustments that a request asks for, as arrays and tables that never change."""

    __slots__ = (
        "allowed",
        "bias_ids",
        "bias_values",
        "ends",
        "factors",
        "longest",
        "min_tokens",
        "phrases",
        "stops",
    )

    def __init__(self, sampling: SamplingParams) -> None:
        bias = dict(sampling.logit_bias)
        self.bias_ids: Integers = np.array([*bias], dtype=np.int64)
        self.bias_values: Floats = np.array([*bias.values()], dtype=np.float64)
        allowed = sampling.allowed_token_ids
        self.allowed: Words | None = (
            None if allowed is None else words_of(allowed, max(allowed, default=0) + 1)
        )
        self.min_tokens, self.stops = sampling.min_tokens, frozenset(sampling.stop_token_ids)
        self.factors = penalties(sampling)
        self.phrases: dict[int | None, list[tuple[tuple[int, ...], int]]] = {}
        """bad words by the last token of their beginning: the beginning and the banned token; None: of one"""
        for word in sampling.bad_words:
            beginning = word[:-1]
            self.phrases.setdefault(beginning[-1] if beginning else None, []).append((beginning, word[-1]))
        self.ends = frozenset(word[-1] for word in sampling.bad_words)
        self.longest = max((len(word) - 1 for word in sampling.bad_words), default=0)


def penalties(sampling: SamplingParams) -> tuple[float, float, float]:
    """Returns the presence, frequency and repetition penalty of a request."""
    return sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty


def adjusts(sampling: SamplingParams) -> bool:
    """Tells whether a request asks for any adjustment."""
    return (
        penalties(sampling) != NO_PENALTY
        or bool(sampling.logit_bias or sampling.bad_words or sampling.min_tokens)
        or sampling.allowed_token_ids is not None
    )


def check_adjustments(sampling: SamplingParams, vocabulary: int) -> None:
    """Raises ValueError that names the field for adjustments that no reply can have.

    ``vocabulary``: the number of token ids.
    """
    for name in ("presence_penalty", "frequency_penalty"):
        if not -PENALTY_LIMIT <= getattr(sampling, name) <= PENALTY_LIMIT:
            raise ValueError(f"{name}: must be between {-PENALTY_LIMIT} and {PENALTY_LIMIT}")
    if not 0 < sampling.repetition_penalty <= REPETITION_LIMIT:
        raise ValueError(f"repetition_penalty: must be greater than 0, at most {REPETITION_LIMIT}")
    bias, allowed = dict(sampling.logit_bias), sampling.allowed_token_ids
    if not all(-MAX_BIAS <= value <= MAX_BIAS for value in bias.values()):
        raise ValueError(f"logit_bias: values must be between {-MAX_BIAS} and {MAX_BIAS}")
    named = (
        ("logit_bias", (*bias,)),
        ("allowed_token_ids", allowed or ()),
        ("bad_words", tuple(i for word in sampling.bad_words for i in word)),
    )
    for name, ids in named:
        if ids and not (min(ids) >= 0 and max(ids) < vocabulary):
            raise ValueError(f"{name}: token ids must be between 0 and {vocabulary - 1}")
    if not all(sampling.bad_words):
        raise ValueError("bad_words: a word must have a token")
    if not 0 <= sampling.min_tokens <= sampling.max_tokens:
        raise ValueError(
            f"min_tokens: must be between 0 and the most tokens of the reply, {sampling.max_tokens}"
        )
    if allowed is None:
        return
    usable = set(allowed) - {word[0] for word in sampling.bad_words if len(word) == 1}
    if not usable:
        raise ValueError("allowed_token_ids: no token is left that bad_words does not exclude")
    if sampling.min_tokens and usable <= set(sampling.stop_token_ids):
        raise ValueError("min_tokens: every token of allowed_token_ids would end the reply")


class ReplyAdjustments:
    """The adjustments of one reply, which grows token by token."""

    __slots__ = ("_asked", "_counts", "_ids", "_places", "_size", "_tail", "length")

    def __init__(self, sampling: SamplingParams, prompt: Iterable[int], output: Iterable[int]) -> None:
        """Begins with the tokens of the prompt and the tokens that the reply has already."""
        self._asked = _Asked(sampling)
        self._ids: Integers = np.zeros(_FIRST_SIZE, dtype=np.int64)
        self._counts: Floats = np.zeros(_FIRST_SIZE)
        self._size = 0
        self._places: dict[int, int] = {}
        self._tail: list[int] = []
        self.length = 0
        """tokens of the reply so far"""
        if self._asked.factors[2] != NO_PENALTY[2]:
            for token_id in dict.fromkeys(prompt):
                self._place(token_id)
        for token_id in output:
            self.take(token_id)

    @classmethod
    def of(
        cls, sampling: SamplingParams, prompt: Iterable[int], output: Iterable[int] = ()
    ) -> ReplyAdjustments | None:
        """Returns the adjustments of a reply, None where its request asks for none."""
        return cls(sampling, prompt, output) if adjusts(sampling) else None

    def take(self, token_id: int) -> None:
        """Appends a token of the reply."""
        self.length += 1
        if self._asked.factors != NO_PENALTY:
            place = self._place(token_id)  # first: it may bring larger arrays
            self._counts[place] += 1
        if self._asked.longest:
            self._tail.append(token_id)
            del self._tail[: -self._asked.longest]

    def copy(self) -> ReplyAdjustments:
        """Copies the adjustments, for a branch that continues the reply."""
        copied: ReplyAdjustments = ReplyAdjustments.__new__(ReplyAdjustments)
        copied._asked, copied._size, copied.length = self._asked, self._size, self.length
        copied._ids, copied._counts = self._ids.copy(), self._counts.copy()
        copied._places, copied._tail = self._places.copy(), self._tail.copy()
        return copied

    def may_say(self, token_ids: Sequence[int]) -> bool:
        """Tells whether no token of a text could be excluded where the reply goes on with it."""
        asked = self._asked
        early = asked.stops if self.length < asked.min_tokens else frozenset()
        excluded = asked.ends | early
        return not any(i in excluded or not _allows(asked.allowed, i) for i in token_ids)

    def banned(self) -> set[int]:
        """Returns the tokens that cannot come next.

        Those that would end the reply before ``min_tokens``, and the last token of each bad word whose
        beginning are the newest tokens.
        """
        asked, tail = self._asked, self._tail
        found = set(asked.stops) if self.length < asked.min_tokens else set()
        for last in (None, tail[-1] if tail else None):
            for beginning, end in asked.phrases.get(last, ()):
                if len(beginning) <= len(tail) and tuple(tail[len(tail) - len(beginning) :]) == beginning:
                    found.add(end)
            if not tail:
                break
        return found

    def words(self, vocabulary: int, mask: Words | None = None) -> Words | None:
        """Returns the mask of the next token, int32 [W], None where every token is allowed.

        ``mask``: a further mask. Bans yield where they would leave no token.
        """
        size = -(-vocabulary // WORD_BITS)
        allowed = _both(self._asked.allowed, mask, size)
        banned = self.banned()
        if not banned:
            return allowed
        words = np.full(size, -1, dtype=np.int32) if allowed is None else allowed.copy()
        ids = np.fromiter(banned, dtype=np.int64)
        bits = np.left_shift(np.uint32(1), (ids % WORD_BITS).astype(np.uint32)).astype(np.uint32)
        np.bitwise_and.at(words.view(np.uint32), ids // WORD_BITS, ~bits)
        return words if Masks(_NO_IDS, words[None]).allowed(vocabulary)[0] else allowed

    @property
    def bias(self) -> tuple[Integers, Floats]:
        """Returns the tokens with a bias, and the biases."""
        return self._asked.bias_ids, self._asked.bias_values

    @property
    def seen(self) -> tuple[Integers, Floats]:
        """Returns the tokens that are penalised, and how often each stands in the reply."""
        return self._ids[: self._size], self._counts[: self._size]

    @property
    def factors(self) -> tuple[float, float, float]:
        """Returns the presence, frequency and repetition penalty."""
        return self._asked.factors

    def _place(self, token_id: int) -> int:
        place = self._places.get(token_id)
        if place is None:
            place = self._places[token_id] = self._size
            if place == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[place] = token_id
            self._size += 1
        return place


def step_adjustments(
    rows: Sequence[ReplyAdjustments | None],
    vocabulary: int,
    given: Collection[int] = (),
    masks: Masks | None = None,
) -> Adjustments | None:
    """Lays out the adjustments of a batch for a step, None where no row has any.

    ``rows``: of each row's reply; ``given``: numbers of the rows whose next token is given, not drawn: they
    are measured without masks; ``masks``: masks of some rows beside those that their requests ask for.
    """
    if masks is None and all(row is None for row in rows):
        return None
    words: dict[int, Words] = {}
    if masks is not None:
        words = {
            row: of_row
            for row, of_row in zip(masks.rows.tolist(), masks.words, strict=True)
            if row not in given
        }
    for i, row in enumerate(rows):
        if row is not None and i not in given and (of_row := row.words(vocabulary, words.get(i))) is not None:
            words[i] = of_row
    size = -(-vocabulary // WORD_BITS)
    together = None
    if words:
        together = Masks(
            np.array([*words], dtype=np.int64), np.stack([_sized(w, size) for w in words.values()])
        )
    biases = [(_NO_IDS, _NO_VALUES) if row is None else row.bias for row in rows]
    seen = [(_NO_IDS, _NO_VALUES) if row is None else row.seen for row in rows]
    penalised = entries_of([ids for ids, _ in seen], [counts for _, counts in seen])
    factors = None
    if penalised is not None:
        factors = np.array([NO_PENALTY if row is None else row.factors for row in rows])
    added = entries_of([ids for ids, _ in biases], [values for _, values in biases])
    return Adjustments(together, added, penalised, factors)


def _allows(words: Words | None, token_id: int) -> bool:
    word, bit = divmod(token_id, WORD_BITS)
    return words is None or (word < len(words) and bool(int(words[word]) >> bit & 1))


def _both(first: Words | None, second: Words | None, size: int) -> Words | None:
    """Returns the mask of the tokens that both masks allow, int32 [size]; None allows every token."""
    sized = [_sized(words, size) for words in (first, second) if words is not None]
    if len(sized) == 2:
        return np.bitwise_and(*sized)
    return sized[0] if sized else None


def _sized(words: Words, size: int) -> Words:
    """Returns a mask as int32 [size]; tokens behind its last word stay excluded."""
    if len(words) >= size:
        return words[:size]
    return np.concatenate((words, np.zeros(size - len(words), dtype=np.int32)))
