"""Every way to cut texts into tokens, with stop strings: is the text exact, and is nothing let out too early?

The oracle searches the whole text character by character; the detokenizer sees one token after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from entropick_server.detokenizer import Detokenizer

TEXTS: Final = (
    "abcabcab",
    "aéa🙂bé",
    "🙂🙂北ab",
    "aaaabaaaab",
    "北é北é",
    "ab🙂ba🙂",
    "abababababab",
    "abaababaabaaba",
    "🙂ab北abaabab",
    "aé北ab🙂abab",
)
"""texts of 8 to 16 bytes with characters of one to four"""
STOPS: Final = (
    (),
    ("ab",),
    ("abc", "bca"),
    ("é",),
    ("🙂b",),
    ("aab", "ab", "b"),
    ("北ab", "a"),
    ("é北", "北é"),
    ("zzz",),
    ("abab", "baba"),
    ("a🙂", "🙂a"),
)


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Yields every way to cut bytes into pieces that are not empty."""
    for chosen in range(1 << (len(data) - 1)):
        places = [0, *(at for at in range(1, len(data)) if chosen >> (at - 1) & 1), len(data)]
        yield [data[begin:end] for begin, end in pairwise(places)]


def until_stop(text: str, stops: Sequence[str]) -> str:
    """Returns the text before the stop string that is completed first; of two at once, the longer."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


def streamed(tokens: Sequence[bytes], stops: Sequence[str]) -> list[str]:
    """Returns the pieces of text that are let out, token after token."""
    detokenizer = Detokenizer(lambda i: tokens[i], list(stops))
    pieces = []
    for i in range(len(tokens)):
        piece = detokenizer.push(i)
        pieces.append(piece.text)
        if piece.stopped:
            return pieces
    return [*pieces, detokenizer.finish().text]


def count() -> tuple[int, list[str]]:
    """Returns the number of cuts that were tried, and those whose text is not the oracle's."""
    tried, wrong = 0, []
    for text in TEXTS:
        for stops in STOPS:
            right = until_stop(text, stops)
            for tokens in cuts(text.encode()):
                tried += 1
                pieces = streamed(tokens, stops)
                if "".join(pieces) != right or any("\ufffd" in piece for piece in pieces):
                    wrong.append(f"{tokens} with {stops}: {pieces}, not {right!r}")
    return tried, wrong
