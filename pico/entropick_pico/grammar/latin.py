"""Latin squares of four rows with some cells open, which are filled in any order.

A puzzle has one solution. Which open cell is filled next is a free choice, every open cell being equally
likely; its digit is certain. Some cells follow from their row and column at once, others only after others:
so the order decides how hard a step is.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from types import MappingProxyType
from typing import Final

from entropick_pico.grammar.prompts import ask
from entropick_pico.grammar.reply import Example, Reply

SIZE: Final = 4
MOST_OPEN: Final = 6  # in training
OPEN: Final = "0"
CELLS: Final = tuple(row + column for row in "abcd" for column in "1234")

_CORES: Final = (
    "fill the square {0}.",
    "complete the square {0}.",
    "solve {0}.",
    "which digits are missing in the square {0}?",
)


def _squares(rows: tuple[tuple[str, ...], ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the Latin squares that begin with ``rows``, each as its 16 digits."""
    if len(rows) == SIZE:
        yield tuple(digit for row in rows for digit in row)
        return
    for row in permutations("1234"):
        if all(digit != above[at] for above in rows for at, digit in enumerate(row)):
            yield from _squares((*rows, row))


SQUARES: Final = tuple(_squares())
# for each cell and digit a bit for every square that has this digit there
_HAVE: Final[Mapping[tuple[int, str], int]] = MappingProxyType(
    {
        (cell, digit): sum(1 << number for number, square in enumerate(SQUARES) if square[cell] == digit)
        for cell in range(SIZE * SIZE)
        for digit in "1234"
    }
)


def solutions(grid: str) -> list[tuple[str, ...]]:
    """Returns the Latin squares that agree with ``grid``: 16 digits by row, 0 for an open cell."""
    fitting = (1 << len(SQUARES)) - 1
    for cell, digit in enumerate(grid):
        if digit != OPEN:
            fitting &= _HAVE[cell, digit]
    return [square for number, square in enumerate(SQUARES) if fitting >> number & 1]


def _puzzle(rng: random.Random, count: int) -> tuple[tuple[str, ...], str]:
    """Draw a square and a grid with ``count`` open cells of which it is the only solution."""
    while True:
        square = rng.choice(SQUARES)
        holes = set(rng.sample(range(SIZE * SIZE), count))
        grid = "".join(OPEN if cell in holes else digit for cell, digit in enumerate(square))
        if len(solutions(grid)) == 1:
            return square, grid


def latin(rng: random.Random, count: int | None = None) -> Example:
    """Returns a square with three to six open cells; the answer is their digits in reading order."""
    size = count or rng.choices((3, 4, 5, 6), (0.3, 0.3, 0.2, 0.2))[0]
    square, grid = _puzzle(rng, size)
    gold = "".join(square[cell] for cell, digit in enumerate(grid) if digit == OPEN)
    reply = fill(Reply(rng), square, grid)
    reply.say(" The answer is").sure("latin_answer", " " + gold[0]).say(gold[1:] + ".")
    shown = " ".join(grid[at : at + SIZE] for at in range(0, SIZE * SIZE, SIZE))
    user = ask(rng, [core.format(shown) for core in _CORES])
    return reply.finish(user, "latin" if size <= MOST_OPEN else "latin_long", gold, key="latin " + grid)


def fill(reply: Reply, square: Sequence[str], grid: str) -> Reply:
    """Returns ``reply`` with the steps that fill the open cells of ``grid`` from ``square``, in any order."""
    left = [cell for cell, digit in enumerate(grid) if digit == OPEN]
    reply.say("Fill")
    while left:
        chances = {" " + CELLS[cell]: 1 / len(left) for cell in left}
        cell = CELLS.index(reply.spell("latin_cell", chances).strip())
        left.remove(cell)
        reply.say("=").sure("latin_digit", square[cell]).say(";" if left else ".")
    return reply


def filled(grid: str, text: str) -> bool:
    """True if ``text`` fills every open cell of ``grid`` once, in any order, with its digit."""
    answer = solutions(grid)[0]
    left = {CELLS[cell] for cell, digit in enumerate(grid) if digit == OPEN}
    for step in text.split(";"):
        name, equals, digit = step.strip().partition("=")
        if not equals or name not in left or digit != answer[CELLS.index(name)]:
            return False
        left.remove(name)
    return not left
