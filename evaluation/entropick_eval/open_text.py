"""Measures open text: repetition, variety, the model's own likelihood, length.

Words are maximal runs of letters and digits (Unicode), case-folded; every other character parts words. An
n-gram is n consecutive words of one reply.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
REPEATED: Final = 4
"""words of the n-grams whose repetition is counted"""
MEASURES: Final = (
    "repeated_4grams",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "mean_surprisal",
    "words",
    "tokens",
)
"""The names of :func:`measures`, in the order of the tables."""


def words(text: str) -> list[str]:
    """Returns the words of a text: runs of letters and digits, an apostrophe between letters included."""
    return [match.casefold().replace("\u2019", "'") for match in _WORD.findall(text)]


def ngrams(sequence: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Returns the n-grams of a sequence, len - n + 1 of them, or none."""
    return [tuple(sequence[at : at + n]) for at in range(len(sequence) - n + 1)]


def repeated_share(sequence: Sequence[str], n: int = REPEATED) -> float:
    """Returns the share of the n-grams that stood in the sequence before: 1 - different / all, 0 of none."""
    found = ngrams(sequence, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(sequences: Sequence[Sequence[str]], n: int) -> float:
    """Returns the different n-grams of all sequences together over all their n-grams, 0 of none.

    Li et al., A Diversity-Promoting Objective Function (2016). It falls with the amount of text: compare arms
    on the same prompts with the same max_tokens alone.
    """
    found = Counter(gram for sequence in sequences for gram in ngrams(sequence, n))
    total = found.total()
    return len(found) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class OpenReply:
    """A reply to an open prompt."""

    text: str
    tokens: int
    mean_surprisal: float | None
    """bits a token, under the model itself"""


def measures(replies: Mapping[str, OpenReply]) -> dict[str, dict[str, float]]:
    """Returns the measures of every reply, by prompt: repetition, variety within it, surprisal, length.

    ``distinct_n`` is of the one reply here; :func:`distinct` gives that of a whole set.
    """
    found = {}
    for item, reply in replies.items():
        sequence = words(reply.text)
        row = {"repeated_4grams": repeated_share(sequence), "words": float(len(sequence))}
        row |= {f"distinct_{n}": distinct([sequence], n) for n in (1, 2, 3)}
        row["tokens"] = float(reply.tokens)
        if reply.mean_surprisal is not None:
            row["mean_surprisal"] = reply.mean_surprisal
        found[item] = row
    return found
