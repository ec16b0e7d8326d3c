"""Days, months, sizes and the alphabet: small steps along a known order."""

from collections.abc import Iterator

from .items import LAST_NUMBER, Item, between, first_named, pick, shuffled

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
DAY_AHEAD = (
    "If today is {start}, what day will it be in {n} days?",
    "Today is {start}. Which day of the week is it {n} days from now?",
    "what day is {n} days after {start}",
)
DAY_BACK = (
    "If today is {start}, what day was it {n} days ago?",
    "Today is {start}. Which day of the week was it {n} days ago?",
    "what day is {n} days before {start}",
)
NEXT_DAY = (
    "Which day comes after {start}?",
    "What is the day after {start}?",
    "If today is {start}, what day is tomorrow?",
)
DAY_BEFORE = (
    "Which day comes before {start}?",
    "What is the day before {start}?",
    "If today is {start}, what day was yesterday?",
)
MONTH_AHEAD = (
    "Which month comes {n} months after {start}?",
    "If it is {start} now, what month will it be in {n} months?",
)
MONTH_BACK = (
    "Which month comes {n} months before {start}?",
    "If it is {start} now, what month was it {n} months ago?",
)
NEXT_MONTH = ("Which month comes right after {start}?", "What is the month after {start}?")
MONTH_BEFORE = ("Which month comes right before {start}?", "What is the month before {start}?")


def other_than(names: tuple[str, ...], start: str) -> str:
    """Returns a pattern of all names but one; its last match in a reply is the answer to a step from that one."""
    return rf"\b({'|'.join(name for name in names if name != start)})\b"


def calendar() -> list[Item]:
    """Returns questions for a day of the week or a month some steps before or after another.

    A key is the start and the distance along the circle: "3 days after Monday" and "4 days before Monday" have the
    same answer and are in the same half.
    """
    return [*_steps("day", DAYS, 6, (NEXT_DAY, DAY_BEFORE, DAY_AHEAD, DAY_BACK))] + [
        *_steps("month", MONTHS, 4, (NEXT_MONTH, MONTH_BEFORE, MONTH_AHEAD, MONTH_BACK))
    ]


def _steps(
    label: str, names: tuple[str, ...], most: int, forms: tuple[tuple[str, ...], ...]
) -> Iterator[Item]:
    for start, name in enumerate(names):
        for step in range(1, most + 1):
            for sign, side in ((1, "after"), (-1, "before")):
                answer = names[(start + sign * step) % len(names)]
                key = f"{name} {(sign * step) % len(names)}"
                phrasings = forms[(0 if step == 1 else 2) + (0 if sign == 1 else 1)]
                # every phrasing of the neighbours; of larger steps one less, so that no form outweighs the rest
                left_out = None if step == 1 or len(phrasings) < 3 else between(f"{key} {side}", 0, 2)
                for index, phrasing in enumerate(phrasings):
                    if index != left_out:
                        yield Item(
                            "calendar", key, f"{step}-{side}-{index + 1}",
                            phrasing.format(n=step, start=name), answer,
                            {"type": "regex", "pattern": other_than(names, name)},
                            {"regex": other_than(names, name)}, 48,
                        )  # fmt: skip


LARGEST = (
    "Which number is the largest: {s}?",
    "What is the biggest of these numbers: {s}?",
    "Here are some numbers: {s}. Which one is the largest?",
)
SMALLEST = (
    "Which number is the smallest: {s}?",
    "What is the lowest of these numbers: {s}?",
    "Here are some numbers: {s}. Which one is the smallest?",
)


def extremes(n: int) -> list[Item]:
    """Returns questions for the largest or the smallest of four numbers."""
    items: dict[str, Item] = {}
    for index in range(20 * n):
        numbers = [between(f"extreme {index} {i}", 10, 999 if index % 2 else 99) for i in range(4)]
        # the answer never stands last, where "the last number of the reply" would find it by accident
        if len(set(numbers)) < 4 or numbers[-1] in (max(numbers), min(numbers)):
            continue
        largest = pick(f"extreme {index} side", (True, False))
        prompt = pick(f"extreme {index}", LARGEST if largest else SMALLEST)
        key = " ".join(map(str, sorted(numbers)))
        items.setdefault(
            key,
            Item(
                "extremes", key, "largest" if largest else "smallest",
                prompt.format(s=", ".join(map(str, numbers))), max(numbers) if largest else min(numbers),
                LAST_NUMBER, "last_number", 48,
            ),
        )  # fmt: skip
        if len(items) == n:
            break
    return list(items.values())


LETTERS = (
    'What is the first letter of the word "{word}"?',
    "Which letter does the word {word} begin with?",
    'What letter does "{word}" start with?',
)


def first_letters(words: list[str], n: int) -> list[Item]:
    """Returns questions for the first letter of a word."""
    items = []
    for word in shuffled(words, str, "letters")[:n]:
        prompt = pick(f"letter {word}", LETTERS).format(word=word)
        # a single letter as a name: quoted, or a capital behind "letter" or "is"
        pattern = r"(?s)^.*?(?:\bis|letter|with|:) \W{0,3}([A-Za-z])\b"
        items.append(
            Item(
                "first_letters",
                word,
                "first",
                prompt,
                word[0],
                {"type": "regex", "pattern": pattern},
                {"regex": pattern},
                48,
            )
        )
    return items


ALPHABET = (
    "Which of these words comes first in alphabetical order: {s}?",
    "If you sort these words alphabetically, which one is first: {s}?",
    "Which word would come first in a dictionary: {s}?",
)


def alphabet(words: list[str], n: int) -> list[Item]:
    """Returns questions for the first of three words in the order of the alphabet; no word is used twice."""
    items: list[Item] = []
    rest = shuffled(words, str, "alphabet")
    while len(items) < n and len(rest) >= 3:
        chosen, rest = rest[:3], rest[3:]
        if len({word[0] for word in chosen}) < 3:
            continue
        answer = min(chosen)
        prompt = pick(" ".join(chosen), ALPHABET).format(s=", ".join(chosen))
        items.append(first_named("alphabet", " ".join(chosen), "first", prompt, answer, chosen))
    return items
