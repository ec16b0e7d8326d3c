"""The largest of some numbers, the first letter of a word: small questions about an order."""

from .items import LAST_NUMBER, Item, between, pick, shuffled

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
        pattern = r"(?s)^(?:.*?(?:\bis|letter|with|:) )?\W{0,3}([A-Za-z])\b"
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
