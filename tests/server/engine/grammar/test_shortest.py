"""The least length of what a regular expression matches."""

from __future__ import annotations

import random
import re

import pytest

from entropick_server.engine.grammar.shortest import shortest


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        ("abc", 3),
        ("a{3}b", 4),
        ("(ab|c){4}", 4),
        ("[a-z]{2,5}x?", 2),
        ("a+b*", 1),
        ("(a+)+$", 1),
        ("foo**", 2),
        (r"\d{3}-\p{L}{2}", 6),
        ("(?i)yes|no", 2),
        ("(?:x|yy)(?P<n>z)", 2),
        ("(a{1000}){1000}", 1_000_000),
        ("a{100000000}", 100_000_000),
        (r"[\]a-]{3}", 3),
        ("[]]b", 2),
        ("[[:alpha:]]{2}", 2),
        ("[^]]{4}", 4),
        ("(a|)", 0),
        ("^a$", 1),
        (r"\x41\u{41}", 2),
        (r"\bfoo\b", 3),
        (r"\{{2}", 2),
        ("", 0),
        (")", 1),
        ("[", 1),
    ],
)
def test_known(pattern: str, length: int) -> None:
    assert shortest(pattern) == length


def test_never_more_than_what_matches() -> None:
    rng = random.Random(4)

    def made(depth: int) -> tuple[str, str]:
        """A pattern and a text that it matches."""
        if not depth:
            return rng.choice([("a", "a"), ("[bc]", "c"), (r"\d", "7"), (".", "x"), (r"\(", "("), ("é", "é")])
        one, other = made(depth - 1), made(depth - 1)
        low = rng.randint(0, 3)
        return rng.choice(
            [
                (one[0] + other[0], one[1] + other[1]),
                (f"({one[0]}|{other[0]})", rng.choice([one[1], other[1]])),
                (f"(?:{one[0]}){{{low},5}}", one[1] * low),
                (f"({one[0]})+", one[1]),
                (f"(?:{one[0]})*?", ""),
                (f"({one[0]})?{other[0]}", other[1]),
            ]
        )

    for _ in range(500):
        pattern, text = made(rng.randint(0, 5))
        assert re.fullmatch(pattern, text, re.DOTALL)
        assert shortest(pattern) <= len(text), pattern
