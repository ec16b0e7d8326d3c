"""A seeded chat grammar whose conditional distributions are known exactly at labelled positions.

Tasks with a large input space (sorting, addition, parity, counting, looking up, answerable questions) keep
one input in eight from training. Facts and random choices have none to keep: they must be learned. Prompts
are divided into "calibration" and "check" halves by another hash, so a check can use wordings that a
calibration never saw.
"""

import random
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from entropick_pico.grammar import prose, puzzles, questions
from entropick_pico.grammar.reply import CLARIFY, Choice, Example, interrupt
from entropick_pico.grammar.splits import SPLITS, Split, belongs, half, held_out

__all__ = [
    "CLARIFY",
    "KINDS",
    "PROBES",
    "SPLITS",
    "WEIGHTS",
    "Choice",
    "Example",
    "Split",
    "conversation",
    "final_answer",
    "half",
    "held_out",
    "interrupt",
    "sample",
]

_TASKS: Final[Mapping[str, Callable[[random.Random], Example]]] = MappingProxyType(
    {
        "capital": questions.capital,
        "flag": questions.flag,
        **{kind: partial(questions.random_choice, kind=kind) for kind in questions.RANDOM_KINDS},
        "word": questions.word,
        "pick": questions.pick,
        "home": questions.home,
        "visit": questions.visit,
        "ambiguous": questions.ambiguous,
        "clarified": questions.clarified,
        "answerable": questions.answerable,
        "lookup": puzzles.lookup,
        "sort": puzzles.sort,
        "add": partial(puzzles.add, style=""),
        "add_steps": partial(puzzles.add, style="steps"),
        "add_direct": partial(puzzles.add, style="direct"),
        "parity": partial(puzzles.parity, style=""),
        "parity_steps": partial(puzzles.parity, style="steps"),
        "parity_direct": partial(puzzles.parity, style="direct"),
        "count": puzzles.count,
        "story": prose.story,
        "greeting": prose.greeting,
    }
)
KINDS: Final = tuple(_TASKS)
# Longer inputs than training has: harder versions of two tasks, drawn only by name.
_LONG: Final[Mapping[str, Callable[[random.Random], Example]]] = MappingProxyType(
    {"sort_long": partial(puzzles.sort, length=10), "count_long": partial(puzzles.count, length=10)}
)
PROBES: Final = tuple(_LONG)
WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "capital": 7.0,
        "flag": 5.0,
        "coin": 1.0,
        "season": 1.0,
        "die": 1.5,
        "color": 2.0,
        "name": 2.0,
        "town": 3.0,
        "word": 4.0,
        "pick": 3.0,
        "home": 6.0,
        "visit": 3.0,
        "ambiguous": 9.0,
        "clarified": 2.0,
        "answerable": 7.0,
        "lookup": 7.0,
        "sort": 9.0,
        "add": 4.0,
        "add_steps": 9.0,
        "add_direct": 3.0,
        "parity": 3.0,
        "parity_steps": 4.0,
        "parity_direct": 2.0,
        "count": 4.0,
        "story": 4.0,
        "greeting": 2.0,
    }
)
SYSTEM_TEXTS: Final = (
    "You are a helpful assistant.",
    "You are a tiny model.",
    "Answer in short sentences.",
    "Be brief.",
)


def sample(
    rng: random.Random,
    kind: str | None = None,
    split: Split = "train",
    weights: Mapping[str, float] = WEIGHTS,
) -> Example:
    """Draws one example of ``kind`` (any of KINDS by ``weights`` if None) that belongs to ``split``.

    The kinds in ``PROBES`` come only when they are named; training never sees them.
    """
    if kind is None:
        kind = rng.choices(list(weights), list(weights.values()))[0]
    task = _TASKS.get(kind) or _LONG.get(kind)
    if task is None:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS + PROBES)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    while True:
        example = task(rng)
        if belongs(example, split):
            return example


def conversation(
    rng: random.Random,
    split: Split = "train",
    turns: int | None = None,
    weights: Mapping[str, float] = WEIGHTS,
    interruptions: float = 0.0,
) -> list[Example]:
    """Draws a conversation of 1 to 4 independent exchanges.

    ``interruptions`` is the share of exchanges into whose reply the clarifying sentence is forced.

    An ambiguous question comes first only: after other turns its pronoun could be read as referring to them.
    """
    count = turns or rng.choices((1, 2, 3, 4), (0.8, 0.11, 0.05, 0.04))[0]
    talk: list[Example] = []
    while len(talk) < count:
        example = sample(rng, None, split, weights)
        unclear = example.kind in ("ambiguous", "clarified")
        if talk and unclear:
            continue
        # An interrupted ambiguous question is a kind of its own, with its own truth.
        talk.append(interrupt(rng, example) if not unclear and rng.random() < interruptions else example)
    return talk


def final_answer(reply: str) -> str:
    """Returns the answer a reply ends with: its last sentence without the words that introduce it."""
    sentences = [part for part in reply.strip().rstrip(".").split(". ") if part]
    last = sentences[-1] if sentences else ""
    return last.rsplit(" is ", 1)[-1].strip()
