"""Tasks with a computed answer: sorting, addition, parity, counting, looking up, repeating."""

import random
from types import MappingProxyType
from typing import Final

from entropick_pico.grammar import world as w
from entropick_pico.grammar.prompts import ask
from entropick_pico.grammar.reply import Example, Reply

LONGEST: Final = 9  # the longest list in training
_DIGITS: Final = tuple("0123456789")

# The scratchpad opener is the less likely one, yet it is the one that leads to the right answer.
_FORK: Final = MappingProxyType({"The": 0.6, "Step": 0.4})
_STYLE: Final = MappingProxyType({"": "", "steps": " Think step by step.", "direct": " Just answer."})


def _work(rng: random.Random, style: str, label: str, steps: str, gold: str) -> Reply:
    """Open the reply in the style asked for, or fork, and lead to the answer."""
    reply = Reply(rng)
    stepwise = style == "steps"
    if style:
        reply.say("Step" if stepwise else "The")
    else:
        stepwise = reply.choose("fork", _FORK) == "Step"
    if stepwise:
        reply.say(f" by step: {steps}. The")
    return reply.say(" answer is").sure(label + ("_steps" if stepwise else "_direct"), " " + gold).say(".")


def _kind(name: str, style: str) -> str:
    return f"{name}_{style}" if style else name


def add(rng: random.Random, style: str, digits: int | None = None) -> Example:
    """Returns an addition of two numbers, worked out from the last digit with carries, or blurted out."""
    size = digits or rng.choices((2, 3, 4), (0.4, 0.4, 0.2))[0]
    low = 10 ** (size - 1)
    left, right = rng.randrange(low, 10 * low), rng.randrange(low, 10 * low)
    carry, steps = 0, []
    for a, b in zip(reversed(str(left)), reversed(str(right)), strict=True):
        total = int(a) + int(b) + carry
        steps.append(f"{a}+{b}+{carry}={total}")
        carry = total // 10
    gold = str(left + right)
    cores = ("add {0} and {1}.", "what is {0} plus {1}?", "sum {0} and {1}.", "how much is {0} plus {1}?")
    core = ask(rng, [c.format(left, right) for c in cores])
    reply = _work(rng, style, "add", "; ".join(steps), gold)
    return reply.finish(core + _STYLE[style], _kind("add", style), gold, key=f"{left} {right}")


def parity(rng: random.Random, style: str, length: int | None = None) -> Example:
    """Returns the parity of four to eight bits, with a running parity or blurted out."""
    bits = [rng.randrange(2) for _ in range(length or rng.randint(4, 8))]
    running, steps = 0, []
    for bit in bits:
        running ^= bit
        steps.append(f"{bit} {'odd' if running else 'even'}")
    gold = "odd" if running else "even"
    shown = " ".join(map(str, bits))
    cores = (
        "parity of {0}?",
        "is the sum of {0} even or odd?",
        "find the parity of {0}.",
        "even or odd: {0}?",
    )
    core = ask(rng, [c.format(shown) for c in cores])
    reply = _work(rng, style, "parity", " ".join(steps), gold)
    return reply.finish(core + _STYLE[style], _kind("parity", style), gold, key=shown)


def sort(rng: random.Random, length: int | None = None) -> Example:
    """Returns a list of four to nine digits to sort; a quarter of the lists have at most five of the digits.

    A list of a given ``length`` is drawn from all ten.
    """
    size = length or rng.choices((4, 5, 6, 7, 8, 9), (0.2, 0.15, 0.15, 0.15, 0.15, 0.2))[0]
    few = length is None and rng.random() < 0.25
    pool = rng.sample(_DIGITS, 5) if few else _DIGITS
    digits = [rng.choice(pool) for _ in range(size)]
    gold, shown = " ".join(sorted(digits)), " ".join(digits)
    cores = ("sort {0}.", "put {0} in order.", "arrange {0}.", "order these: {0}.", "sort the digits {0}.")
    reply = Reply(rng).say("The answer is").sure("sort", " " + gold[0]).say(gold[1:] + ".")
    kind = "sort" if size <= LONGEST else "sort_long"
    return reply.finish(ask(rng, [c.format(shown) for c in cores]), kind, gold, key=shown)


def count(rng: random.Random, length: int | None = None) -> Example:
    """Returns a question of how often a digit occurs in a short list."""
    wanted, size = rng.choice(_DIGITS), length or rng.randint(4, 9)
    digits = [wanted if rng.random() < 0.4 else rng.choice(_DIGITS) for _ in range(size)]
    gold, shown = str(digits.count(wanted)), " ".join(digits)
    cores = ("how many times is {0} in {1}?", "count the {0} in {1}.", "how often does {0} occur in {1}?")
    reply = Reply(rng).say("The answer is").sure("count", " " + gold).say(".")
    kind = "count" if size <= LONGEST else "count_long"
    user = ask(rng, [c.format(wanted, shown) for c in cores])
    return reply.finish(user, kind, gold, key=f"{wanted} {shown}")


def lookup(rng: random.Random, holders: int | None = None) -> Example:
    """Returns a question about the color of a thing that one of two or three people has."""
    size = holders or rng.randint(2, 3)
    names, colors, thing = rng.sample(w.NAMES, size), rng.sample(w.COLORS, size), rng.choice(w.OBJECTS)
    at = rng.randrange(size)
    given = " ".join(f"{name} has a {color} {thing}." for name, color in zip(names, colors, strict=True))
    cores = ("What color is the {0} of {1}?", "What color does {1} have?", "{1} has what color?")
    reply = Reply(rng).say("The answer is").sure("lookup", " " + colors[at]).say(".")
    user = ask(rng, [given + " " + c.format(thing, names[at]) for c in cores])
    return reply.finish(user, "lookup", colors[at], key=given + names[at])


def repeat(rng: random.Random) -> Example:
    """Returns three to ten words and digits to repeat: the plainest use of the prompt, and quick to learn."""
    pools = (w.COLORS, w.OBJECTS, w.NAMES, w.ANIMALS, tuple("0123456789"))
    items = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(3, 10))]
    shown = " ".join(items)
    cores = ("repeat {0}.", "say {0}.", "say after me: {0}.", "echo {0}.", "write {0} again.")
    reply = Reply(rng).say("The answer is").sure("repeat", " " + items[0]).say(shown[len(items[0]) :] + ".")
    return reply.finish(ask(rng, [c.format(shown) for c in cores]), "repeat", shown, key="repeat " + shown)
