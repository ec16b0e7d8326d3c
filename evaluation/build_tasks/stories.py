"""Word problems of a single step and of two steps. A template belongs to one half, with all its numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .items import LAST_NUMBER, Item, between, pick

NAMES = (
    "Anna", "Ben", "Carla", "Daniel", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jack", "Kate", "Liam", "Maria",
    "Noah", "Olivia", "Peter", "Rosa", "Sam", "Tina", "Victor", "Wendy", "Yusuf", "Zoe", "Lucy", "Tom", "Nina",
)  # fmt: skip
THINGS = (
    "apples", "marbles", "stickers", "pencils", "books", "coins", "shells", "cards", "balloons", "cookies",
    "oranges", "buttons", "stamps", "toy cars", "beads", "crayons", "peaches", "postcards",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Template:
    """A word problem with places for numbers, names and things.

    ``ranges`` gives each number's smallest and largest value; ``answer`` is an expression in the numbers, of
    the kinds that ``evaluate`` knows.
    """

    text: str
    ranges: Mapping[str, tuple[int, int]]
    answer: str


def evaluate(expression: str, numbers: Mapping[str, int]) -> int:
    """Computes an expression of names and numbers with + - *, without parentheses, from left to right.

    Raises ValueError for another operator.
    """
    words = expression.split()
    values = [numbers[word] if word in numbers else int(word) for word in words[::2]]
    result = values[0]
    for operator, value in zip(words[1::2], values[1:], strict=True):
        if operator == "+":
            result += value
        elif operator == "-":
            result -= value
        elif operator == "*":
            result *= value
        else:
            raise ValueError(f"operator {operator!r} in {expression!r}")
    return result


_AB = {"a": (4, 30), "b": (2, 15)}
_LESS = {"a": (13, 30), "b": (2, 12)}
_TIMES = {"a": (2, 6), "b": (2, 12)}

ONE_STEP = (
    Template("{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?", _AB, "a + b"),
    Template("There are {a} {things} in a box. {name} takes out {b} of them. How many are left in the box?", _LESS, "a - b"),
    Template("{name} has {a} bags with {b} {things} in each bag. How many {things} is that in total?", _TIMES, "a * b"),
    Template("A bus has {a} passengers. At the next stop {b} more people get on and nobody gets off. How many passengers are on the bus?", _AB, "a + b"),
    Template("{name} read {a} pages on Saturday and {b} pages on Sunday. How many pages did {name} read over the weekend?", _AB, "a + b"),
    Template("A ticket costs {b} dollars. How much do {a} tickets cost?", _TIMES, "a * b"),
    Template("{name} had {a} dollars and spent {b} dollars on lunch. How many dollars does {name} have left?", _LESS, "a - b"),
    Template("{name} picked {a} {things} and {other} picked {b}. How many {things} did they pick together?", _AB, "a + b"),
    Template("A rope is {a} meters long. {name} cuts off {b} meters. How long is the rope now, in meters?", _LESS, "a - b"),
    Template("A farmer plants {a} rows of trees with {b} trees in every row. How many trees does the farmer plant?", _TIMES, "a * b"),
    Template("{name} is {a} years old. How old will {name} be in {b} years?", {"a": (6, 45), "b": (3, 20)}, "a + b"),
    Template("A class has {a} students. {b} of them are absent today. How many students are present?", _LESS, "a - b"),
    Template("{name} runs {b} kilometers every day. How many kilometers does {name} run in {a} days?", _TIMES, "a * b"),
    Template("{name} collected {a} {things} last month and {b} this month. How many is that altogether?", _AB, "a + b"),
    Template("{name} baked {a} cookies and gave {b} of them to the neighbors. How many cookies does {name} still have?", _LESS, "a - b"),
    Template("Each box holds {b} eggs. How many eggs are in {a} boxes?", _TIMES, "a * b"),
    Template("A library has {a} books about animals and {b} books about planets. How many books is that in all?", _AB, "a + b"),
    Template("{name} wants to buy a game for {a} dollars and has saved {b} dollars so far. How many more dollars does {name} need?", _LESS, "a - b"),
    Template("{name} drives {a} miles to work and then {b} miles to the gym. How many miles does {name} drive?", _AB, "a + b"),
    Template("{name} has {a} {things}. {other} has {b} fewer. How many {things} does {other} have?", _LESS, "a - b"),
    Template("A spider has 8 legs. How many legs do {a} spiders have?", {"a": (2, 12), "b": (8, 8)}, "a * b"),
    Template("This morning it was {b} degrees. Since then it has become {a} degrees warmer. What is the temperature now?", {"a": (2, 15), "b": (5, 24)}, "a + b"),
    Template("{name} earns {b} dollars an hour and works {a} hours. How much does {name} earn?", {"a": (2, 8), "b": (8, 20)}, "a * b"),
    Template("A parking lot has {a} cars in it. Then {b} cars leave. How many cars remain?", _LESS, "a - b"),
)  # fmt: skip

_THREE = {"a": (5, 20), "b": (3, 12), "c": (2, 12)}
_ON_OFF = {"a": (18, 40), "b": (3, 14), "c": (2, 12)}
_PLUS_OFF = {"a": (8, 25), "b": (4, 14), "c": (2, 10)}
_BAGS = {"a": (2, 6), "b": (2, 8), "c": (2, 10)}
_BAGS_OFF = {"a": (3, 6), "b": (4, 9), "c": (2, 10)}

TWO_STEPS = (
    Template("{name} has {a} {things}, gets {b} more from a friend and then loses {c}. How many {things} does {name} have?", _PLUS_OFF, "a + b - c"),
    Template("{name} has {a} boxes with {b} {things} each, and {c} single {things}. How many {things} are there altogether?", _BAGS, "a * b + c"),
    Template("{name} buys {a} notebooks for {b} dollars each and a pen for {c} dollars. What is the total in dollars?", _BAGS, "a * b + c"),
    Template("There are {a} people on a train. At one station {b} get off and {c} get on. How many people are on the train now?", _ON_OFF, "a - b + c"),
    Template("{name} picked {a} {things} in the morning and {b} in the afternoon, then gave away {c}. How many are left?", _PLUS_OFF, "a + b - c"),
    Template("{name} bakes {a} trays of {b} cookies. The children eat {c} of them. How many cookies are left?", _BAGS_OFF, "a * b - c"),
    Template("A shop had {a} bicycles. It sold {b} on Monday and {c} on Tuesday. How many bicycles does it still have?", {"a": (30, 50), "b": (3, 12), "c": (2, 12)}, "a - b - c"),
    Template("{name} scored {a} points in the first game, {b} in the second and {c} in the third. How many points is that in total?", _THREE, "a + b + c"),
    Template("{name} saves {b} dollars a week for {a} weeks and gets {c} dollars from an aunt. How many dollars does {name} have?", _BAGS, "a * b + c"),
    Template("A baker made {a} rolls, sold {b} before noon and {c} after noon. How many rolls are left?", {"a": (30, 50), "b": (5, 14), "c": (3, 12)}, "a - b - c"),
    Template("{name} has {a} {things}. {other} has {b} more than {name}. How many {things} do they have together?", {"a": (3, 15), "b": (2, 10), "c": (0, 0)}, "a + a + b"),
    Template("A garden has {a} rows of {b} tulips. {c} of the tulips are red and the others are yellow. How many are yellow?", _BAGS_OFF, "a * b - c"),
    Template("{name} walked {a} kilometers on Monday, {b} on Tuesday and {c} on Wednesday. How far did {name} walk in all?", _THREE, "a + b + c"),
    Template("{name} had {a} dollars, paid {b} dollars for a book and then found {c} dollars. How much money does {name} have?", _ON_OFF, "a - b + c"),
    Template("A farm has {a} pens with {b} sheep in each. Then {c} more sheep arrive. How many sheep are on the farm?", _BAGS, "a * b + c"),
    Template("{name} had {a} {things}, gave {b} to {other} and {c} to a cousin. How many {things} does {name} have now?", {"a": (28, 48), "b": (3, 12), "c": (2, 12)}, "a - b - c"),
    Template("A restaurant has {a} tables with {b} chairs each. {c} chairs are broken. How many chairs can be used?", _BAGS_OFF, "a * b - c"),
    Template("In a pond there are {a} ducks. {b} fly away and {c} others land. How many ducks are in the pond?", _ON_OFF, "a - b + c"),
    Template("{name} has {a} red {things}, {b} blue ones and {c} green ones. How many {things} does {name} have?", _THREE, "a + b + c"),
    Template("A school bus picks up {a} children at the first stop and {b} at the second. {c} get off at the library. How many are still on the bus?", _PLUS_OFF, "a + b - c"),
    Template("{name} buys {a} tickets for {b} dollars each and pays {c} dollars for parking. How many dollars does {name} spend?", _BAGS, "a * b + c"),
    Template("{name} is {a} years old. {other} is {b} years older than {name}. What is the sum of their ages?", {"a": (5, 20), "b": (2, 10), "c": (0, 0)}, "a + a + b"),
    Template("A box holds {a} layers of {b} chocolates. {name} has eaten {c} of them. How many chocolates are left?", _BAGS_OFF, "a * b - c"),
    Template("A tank holds {a} liters of water. {name} pours in {b} liters and then uses {c} liters. How many liters are in the tank?", _PLUS_OFF, "a + b - c"),
)  # fmt: skip


def _problems(family: str, templates: tuple[Template, ...], n: int, tokens: int) -> list[Item]:
    def of_one(template: Template) -> Iterator[Item]:
        for index in range(100):
            salt = f"{template.text} {index}"
            numbers = {name: between(f"{salt} {name}", *ends) for name, ends in template.ranges.items()}
            name = pick(f"{salt} name", NAMES)
            other = pick(f"{salt} other", [other for other in NAMES if other != name])
            prompt = template.text.format(name=name, other=other, things=pick(salt, THINGS), **numbers)
            form = "-".join(str(value) for value in numbers.values())
            yield Item(
                family, f"template {templates.index(template) + 1}", form, prompt,
                evaluate(template.answer, numbers), LAST_NUMBER, "last_number", tokens,
            )  # fmt: skip

    items: list[Item] = []
    for template in templates:
        found: dict[str, Item] = {}
        for item in of_one(template):
            found.setdefault(item.form, item)
            if len(found) == n // len(templates):
                break
        items.extend(found.values())
    return items


def one_step(n: int) -> list[Item]:
    """Returns about n word problems of one step, the same number of each template."""
    return _problems("word_problems", ONE_STEP, n, 96)


def two_steps(n: int) -> list[Item]:
    """Returns about n word problems of two steps, the same number of each template."""
    return _problems("two_steps", TWO_STEPS, n, 96)
