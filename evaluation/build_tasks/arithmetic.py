"""Sums, differences, products, quotients and numbers in words."""

from collections.abc import Iterator

from .items import CONTAINS, LAST_NUMBER, Extract, Item, between, pick

SUMS = (
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "Add {a} and {b}.",
    "Can you calculate {a} + {b} for me?",
    "what's the sum of {a} and {b}",
)
SUMS_OF_THREE = (
    "What is {a} + {b} + {c}?",
    "Add up {a}, {b} and {c}.",
    "What do you get if you add {a}, {b} and {c}?",
    "I need the total of {a}, {b} and {c}.",
)
DIFFERENCES = (
    "What is {a} - {b}?",
    "What is {a} minus {b}?",
    "Subtract {b} from {a}.",
    "How much is {a} take away {b}?",
    "what's the difference between {a} and {b}",
)
PRODUCTS = (
    "What is {a} times {b}?",
    "What is {a} x {b}?",
    "Multiply {a} by {b}.",
    "How much is {a} multiplied by {b}?",
    "what's the product of {a} and {b}",
)
QUOTIENTS = (
    "What is {a} divided by {b}?",
    "Divide {a} by {b}.",
    "How many times does {b} go into {a}?",
)


def _item(
    family: str, form: str, numbers: tuple[int, ...], prompt: str, answer: int, tokens: int = 64
) -> Item:
    # the operands without their order: 12 + 30 and 30 + 12 are the same content
    key = f"{form} {' '.join(map(str, sorted(numbers)))}"
    return Item(family, key, "n", prompt, answer, LAST_NUMBER, "last_number", tokens)


def _distinct(items: Iterator[Item], n: int) -> list[Item]:
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.key, item)
        if len(found) == n:
            break
    return list(found.values())


def sums(n_two: int, n_three: int) -> list[Item]:
    """Returns sums of two numbers up to 60 and of three numbers up to 20."""

    def two() -> Iterator[Item]:
        for index in range(100 * n_two):
            a, b = (between(f"sum {index} {side}", 4, 60) for side in "ab")
            prompt = pick(f"sum {index}", SUMS).format(a=a, b=b)
            yield _item("sums", "sum", (a, b), prompt, a + b)

    def three() -> Iterator[Item]:
        for index in range(100 * n_three):
            a, b, c = (between(f"sum of three {index} {side}", 2, 20) for side in "abc")
            prompt = pick(f"sum of three {index}", SUMS_OF_THREE).format(a=a, b=b, c=c)
            yield _item("sums", "three", (a, b, c), prompt, a + b + c)

    return _distinct(two(), n_two) + _distinct(three(), n_three)


def operations(n_differences: int, n_products: int, n_quotients: int) -> list[Item]:
    """Returns differences of numbers up to 60, products up to 12 times 12 and quotients without remainder."""

    def differences() -> Iterator[Item]:
        for index in range(100 * n_differences):
            b = between(f"difference {index} b", 3, 40)
            a = b + between(f"difference {index} a", 2, 60 - b)
            prompt = pick(f"difference {index}", DIFFERENCES).format(a=a, b=b)
            yield _item("operations", "difference", (a, b), prompt, a - b)

    def products() -> Iterator[Item]:
        for index in range(100 * n_products):
            a, b = between(f"product {index} a", 2, 19), between(f"product {index} b", 3, 12)
            prompt = pick(f"product {index}", PRODUCTS).format(a=a, b=b)
            yield _item("operations", "product", (a, b), prompt, a * b)

    def quotients() -> Iterator[Item]:
        for index in range(100 * n_quotients):
            b, answer = between(f"quotient {index} b", 2, 9), between(f"quotient {index} answer", 2, 12)
            prompt = pick(f"quotient {index}", QUOTIENTS).format(a=b * answer, b=b)
            yield _item("operations", "quotient", (b * answer, b), prompt, answer)

    return (
        _distinct(differences(), n_differences)
        + _distinct(products(), n_products)
        + _distinct(quotients(), n_quotients)
    )


ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORD = (
    "(?:(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|ten|eleven|twelve|one|two|"
    "three|four|five|six|seven|eight|nine|hundred|thousand)"
)
IN_WORDS = rf"(?is)^.*?\b({_WORD}(?:(?:,? and |, |-| ){_WORD})*)\b"
TO_WORDS = (
    "Write the number {n} in words.",
    "How do you spell {n} in words?",
    "How is the number {n} written out in English?",
)
TO_DIGITS = (
    'Write "{words}" as a number.',
    "What is {words} in digits?",
    "Which number is {words}? Use digits.",
)


def in_words(number: int) -> str:
    """Returns a number from 0 to 9999 in English words: "three hundred forty-two"."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = number % size
    return f"{in_words(number // size)} {name}" + (f" {in_words(rest)}" if rest else "")


def number_words(n: int) -> list[Item]:
    """Returns numbers up to 999 to write in words, and numbers in words to write in digits."""

    def questions() -> Iterator[Item]:
        for index in range(20 * n):
            number = between(f"words {index}", 21, (99, 999)[index % 2])
            words = in_words(number)
            accepted = [words, words.replace("hundred ", "hundred and ")]
            if pick(f"words {index} direction", (True, False)):
                prompt = pick(f"words {index} form", TO_WORDS).format(n=number)
                extract: Extract = {"regex": IN_WORDS}
                yield Item("number_words", str(number), "words", prompt, accepted, CONTAINS, extract, 48)
            else:
                prompt = pick(f"words {index} form", TO_DIGITS).format(words=words)
                yield Item(
                    "number_words", str(number), "digits", prompt, number, LAST_NUMBER, "last_number", 48
                )

    return _distinct(questions(), n)
