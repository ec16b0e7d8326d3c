"""Tasks in which any two items may be merged next: sums modulo 100, and colors mixed by a fixed table.

Many texts lead to one answer, since the operation is commutative and associative; which intermediate
results have to be computed depends on the text. What may be taken next is a free choice with a known
distribution: every item that is left is equally likely.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from entropick_pico.grammar import world as w
from entropick_pico.grammar.prompts import ask
from entropick_pico.grammar.reply import Example, Reply

MODULUS: Final = 100
# Items in training and how often: the most are seldom, so that a model gets them right now and then, which is
# where several replies can mend what a single reply gets wrong.
SIZES: Final = MappingProxyType({3: 0.22, 4: 0.24, 5: 0.2, 6: 0.14, 7: 0.1, 8: 0.06, 9: 0.025, 10: 0.015})
MOST: Final = max(SIZES)

_SUM_CORES: Final = (
    "sum {0} modulo 100.",
    "add up {0} modulo 100.",
    "what is the total of {0} modulo 100?",
    "modulo 100, what is the sum of {0}?",
)
_MIX_CORES: Final = (
    "mix {0}.",
    "what do {0} make?",
    "stir {0} together.",
    "which color comes of {0}?",
)


def blend(left: str, right: str) -> str:
    """Returns the color that two colors make: their places in the table add up modulo its length."""
    return w.PALETTE[(w.PALETTE.index(left) + w.PALETTE.index(right)) % len(w.PALETTE)]


def _total(left: str, right: str) -> str:
    """Return the last two digits of a sum."""
    return f"{(int(left) + int(right)) % MODULUS:02d}"


def _shares(items: Sequence[str], before: str = "") -> Mapping[str, float]:
    """Returns the chances of the items, all equally likely; an item that occurs twice has two shares."""
    return MappingProxyType({before + item: n / len(items) for item, n in Counter(items).items()})


def sums(rng: random.Random, size: int | None = None) -> Example:
    """Returns a sum of three to ten two-digit numbers modulo 100, of which each step adds any two."""
    count = size or rng.choices(list(SIZES), list(SIZES.values()))[0]
    items = [f"{rng.randrange(MODULUS):02d}" for _ in range(count)]
    shown = " ".join(items)
    gold = f"{sum(map(int, items)) % MODULUS:02d}"
    reply = add_up(Reply(rng), items).say(" The answer is").sure("sums_answer", " " + gold).say(".")
    user = ask(rng, [core.format(shown) for core in _SUM_CORES])
    return reply.finish(user, "sums" if count <= MOST else "sums_long", gold, key="sums " + shown)


def add_up(reply: Reply, numbers: Sequence[str]) -> Reply:
    """Returns ``reply`` with the steps that add up two-digit ``numbers``, any two at a time."""
    items = list(numbers)
    reply.say("Take")
    while len(items) > 1:
        left = reply.spell("sums_pick", _shares(items, " ")).strip()
        items.remove(left)
        right = reply.say("+").spell("sums_pick", _shares(items))
        items.remove(right)
        result = _total(left, right)
        reply.say("=").sure("sums_result", result)
        items.append(result)
        reply.say(";" if len(items) > 1 else ".")
    return reply


def mix(rng: random.Random, size: int | None = None) -> Example:
    """Returns a mixture of three to ten colors, of which each step blends any two by the fixed table."""
    count = size or rng.choices(list(SIZES), list(SIZES.values()))[0]
    items = [rng.choice(w.COLORS) for _ in range(count)]
    shown = ", ".join(items)
    gold = items[0]
    for item in items[1:]:
        gold = blend(gold, item)
    reply = stir(Reply(rng), items).say(" The answer is").sure("mix_answer", " " + gold).say(".")
    user = ask(rng, [core.format(shown) for core in _MIX_CORES])
    return reply.finish(user, "mix" if count <= MOST else "mix_long", gold, key="mix " + shown)


def stir(reply: Reply, colors: Sequence[str]) -> Reply:
    """Returns ``reply`` with the steps that blend ``colors``, any two at a time."""
    items = list(colors)
    reply.say("Take")
    while len(items) > 1:
        left = reply.choose("mix_pick", _shares(items, " ")).strip()
        items.remove(left)
        right = reply.say(" +").choose("mix_pick", _shares(items, " ")).strip()
        items.remove(right)
        result = blend(left, right)
        reply.say(" =").sure("mix_result", " " + result)
        items.append(result)
        reply.say(";" if len(items) > 1 else ".")
    return reply


def merged(kind: str, items: Sequence[str], text: str) -> bool:
    """True if ``text`` merges all of ``items``, two at a time, without a mistake (``kind`` sums or mix).

    ``text`` is what stands between the opening word and the sentence of the answer.
    """
    left = list(items)
    for step in text.split(";"):
        operands, equals, result = step.partition("=")
        pair = [part.strip() for part in operands.split("+")]
        if not equals or len(pair) != 2 or any(part not in left for part in pair):
            return False
        if pair[0] == pair[1] and left.count(pair[0]) < 2:
            return False
        for part in pair:
            left.remove(part)
        found = _total(*pair) if kind == "sums" else blend(*pair)
        if result.strip() != found:
            return False
        left.append(found)
    return len(left) == 1
