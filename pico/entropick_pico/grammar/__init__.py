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

from entropick_pico.grammar import documents, latin, merging, prose, puzzles, questions, tools
from entropick_pico.grammar.check import faultless, final_answer, right
from entropick_pico.grammar.reply import CLARIFY, Choice, Example, interrupt
from entropick_pico.grammar.splits import SPLITS, Split, belongs, half, held_out

__all__ = [
    "CLARIFY",
    "KINDS",
    "PROBES",
    "SIZED",
    "SPLITS",
    "TOOL_KINDS",
    "WEIGHTS",
    "Choice",
    "Example",
    "Split",
    "belongs",
    "conversation",
    "faultless",
    "final_answer",
    "half",
    "held_out",
    "interrupt",
    "of_size",
    "right",
    "sample",
    "tool_talk",
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
        "repeat": puzzles.repeat,
        "sums": merging.sums,
        "mix": merging.mix,
        "latin": latin.latin,
        "json_fields": documents.json_fields,
        "json_free": documents.json_free,
        "story": prose.story,
        "greeting": prose.greeting,
    }
)
KINDS: Final = tuple(_TASKS)
# Tasks whose texts may come in any order, by the number of their items or open cells.
_SIZED: Final[Mapping[str, Callable[[random.Random, int], Example]]] = MappingProxyType(
    {"sums": merging.sums, "mix": merging.mix, "latin": latin.latin}
)
SIZED: Final = tuple(_SIZED)
# Longer inputs than training has: harder versions of some tasks, drawn only by name.
_LONG: Final[Mapping[str, Callable[[random.Random], Example]]] = MappingProxyType(
    {
        "sort_long": partial(puzzles.sort, length=10),
        "count_long": partial(puzzles.count, length=10),
        "sums_long": partial(merging.sums, size=11),
        "mix_long": partial(merging.mix, size=11),
        "latin_long": partial(latin.latin, count=8),
    }
)
PROBES: Final = tuple(_LONG)
TOOL_KINDS: Final = ("call", "report", "no_tool")
"""The kinds that need the definitions of tools before them: drawn by ``tool_talk`` alone."""
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
        "count": 8.0,
        "repeat": 3.0,
        "sums": 9.0,
        "mix": 7.0,
        "latin": 8.0,
        "json_fields": 4.0,
        "json_free": 2.0,
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


def of_size(rng: random.Random, kind: str, size: int, split: Split) -> Example:
    """Draws one example of ``split`` of a kind in ``SIZED``, with ``size`` items or open cells."""
    while True:
        example = _SIZED[kind](rng, size)
        if belongs(example, split):
            return example


def tool_talk(rng: random.Random, split: Split = "train", kind: str | None = None) -> list[Example]:
    """Draws an exchange with tools of ``split``: a call and the answer from its result, or a refusal.

    ``kind`` is "call" or "no_tool", or None for either.
    """
    while True:
        talk = tools.tool_talk(rng, kind)
        if belongs(talk[0], split):
            return talk


def conversation(
    rng: random.Random,
    split: Split = "train",
    turns: int | None = None,
    weights: Mapping[str, float] = WEIGHTS,
    interruptions: float = 0.0,
    with_tools: float = 0.0,
) -> list[Example]:
    """Draws a conversation of 1 to 4 independent exchanges.

    ``interruptions`` is the share of exchanges into whose reply the clarifying sentence is forced,
    ``with_tools`` the share of conversations in which one exchange has tools.

    An ambiguous question comes first only: after other turns its pronoun could be read as referring to them.
    """
    count = turns or rng.choices((1, 2, 3, 4), (0.8, 0.11, 0.05, 0.04))[0]
    tooled = rng.randrange(count) if rng.random() < with_tools else None
    talk: list[Example] = []
    while count:
        if count - 1 == tooled:
            talk += tool_talk(rng, split)
            count -= 1
            continue
        example = sample(rng, None, split, weights)
        unclear = example.kind in ("ambiguous", "clarified")
        if unclear and (talk or tooled is not None):
            continue
        # An interrupted ambiguous question is a kind of its own, with its own truth.
        may = not unclear and not example.kind.startswith("json")
        talk.append(interrupt(rng, example) if may and rng.random() < interruptions else example)
        count -= 1
    return talk
