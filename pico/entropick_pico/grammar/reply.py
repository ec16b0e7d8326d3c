"""The parts of a sample: examples, labelled choices, and the builder that keeps their offsets right."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

CLARIFY: Final = "Which one do you mean?"


@dataclass(frozen=True)
class Choice:
    """A position in a reply at which the true distribution of the continuation is known.

    ``offset`` counts characters of the assistant text; ``alternatives`` maps each possible continuation to
    its probability, the empty text standing for the end of the turn.
    """

    offset: int
    alternatives: Mapping[str, float]
    kind: str


@dataclass(frozen=True)
class Example:
    """One exchange: a user text, an assistant text, and the known distributions of the latter.

    ``role`` is "tool" where ``user`` is the result of a call. ``tools`` are the definitions that the
    conversation has to begin with.
    """

    user: str
    assistant: str
    kind: str
    gold: str | None = None
    choices: tuple[Choice, ...] = ()
    ambiguous_at: tuple[int, ...] = ()
    forced: tuple[tuple[int, int], ...] = ()
    key: str | None = field(default=None, compare=False)
    role: str = "user"
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """Returns the exchange as chat messages, with a call of a tool as the template writes it."""
        return [{"role": self.role, "content": self.user}, {"role": "assistant", "content": self.assistant}]


def uniform(items: Iterable[str], before: str = " ") -> Mapping[str, float]:
    """Returns equal probabilities over ``items``, each preceded by ``before``."""
    texts = [before + item for item in items]
    return MappingProxyType({text: 1 / len(texts) for text in texts})


def with_extra(base: Mapping[str, float], extra: Mapping[str, float]) -> Mapping[str, float]:
    """Returns ``base`` scaled down to make room for the masses of ``extra``, which are added."""
    rest = 1 - sum(extra.values())
    mixed = {text: rest * p for text, p in base.items()}
    for text, p in extra.items():
        mixed[text] = mixed.get(text, 0.0) + p
    return MappingProxyType(mixed)


class Reply:
    """The builder of an assistant text, which records the labelled choices."""

    def __init__(self, rng: random.Random) -> None:
        """Starts an empty reply whose choices are drawn from ``rng``."""
        self._rng = rng
        self._text = ""
        self._choices: list[Choice] = []
        self._ambiguous: list[int] = []

    def say(self, text: str) -> "Reply":
        """Appends fixed text."""
        self._text += text
        return self

    def choose(self, kind: str, alternatives: Mapping[str, float], ambiguous: bool = False) -> str:
        """Draws a continuation, appends it with a label, and returns it."""
        text = self._rng.choices(list(alternatives), list(alternatives.values()))[0]
        self._choices.append(Choice(len(self._text), alternatives, kind))
        if ambiguous:
            self._ambiguous.append(len(self._text))
        self._text += text
        return text

    def spell(self, kind: str, alternatives: Mapping[str, float]) -> str:
        """Draws a continuation whose last character is a token of its own; labels both of its tokens.

        The label of the last character has the distribution given what comes before it.
        """
        first: dict[str, float] = {}
        for text, p in alternatives.items():
            first[text[:-1]] = first.get(text[:-1], 0.0) + p
        head = self.choose(kind, first)
        last = {text[-1]: p / first[head] for text, p in alternatives.items() if text[:-1] == head}
        return head + self.choose(kind, last)

    def sure(self, kind: str, text: str) -> "Reply":
        """Appends text that is certain given the question, and labels its start as such."""
        self.choose(kind, {text: 1.0})
        return self

    def finish(
        self,
        user: str,
        kind: str,
        gold: str | None = None,
        key: str | None = None,
        role: str = "user",
        tools: tuple[Mapping[str, Any], ...] = (),
    ) -> Example:
        """Returns the example; ``key`` names the task input where inputs are held out from training."""
        labels = tuple(self._choices), tuple(self._ambiguous)
        return Example(user, self._text, kind, gold, *labels, (), key, role, tools)


def interrupt(rng: random.Random, example: Example) -> Example:
    """Returns ``example`` with the clarifying sentence forced into its reply, as a server may do.

    The sentence lands at the start, at a labelled choice or at some space, and the reply goes on as if
    nothing had happened. It is marked as forced: it carries no loss, so every conditional distribution of
    the grammar stays what it was. A choice at the very start loses its label, since a blank now precedes it.
    """
    text = example.assistant
    spaces = [i for i, char in enumerate(text) if char == " "]
    labelled = [choice.offset for choice in example.choices if text[choice.offset : choice.offset + 1] == " "]
    at = rng.choice([0, rng.choice(spaces or [0]), rng.choice(labelled or [0])])
    before = rng.choice(["", " "]) if at else ""
    inserted = before + CLARIFY
    rest = text[at:] if at else " " + text
    shift = len(inserted) + len(rest) - len(text[at:])
    choices = tuple(
        choice if choice.offset < at else replace(choice, offset=choice.offset + shift)
        for choice in example.choices
        if at or choice.offset
    )
    ambiguous = tuple(o if o < at else o + shift for o in example.ambiguous_at if at or o)
    return replace(
        example,
        assistant=text[:at] + inserted + rest,
        choices=choices,
        ambiguous_at=ambiguous,
        forced=((at, at + len(inserted)),),
    )
