"""The detokenizer against a naive oracle: the whole text, searched character by character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_server.detokenizer import Detokenizer

TEXTS = st.text(alphabet="abé北🙂", max_size=24)
STOPS = st.lists(st.text(alphabet="abé北🙂", min_size=1, max_size=4), max_size=4)


def cut_bytes(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({c for c in cuts if 0 < c < len(data)})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def oracle(text: str, stops: list[str], early: int = 0) -> str:
    """The text up to the first stop string to be completed; of two completed at once, the longer.

    ``early``: characters within which none counts.
    """
    for end in range(early + 1, len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


def run(tokens: list[bytes | None], stops: list[str]) -> tuple[list[str], list[int], bool]:
    detokenizer = Detokenizer(lambda i: tokens[i], stops)
    parts, released = [], []
    for i in range(len(tokens)):
        piece = detokenizer.push(i)
        parts.append(piece.text)
        released.append(piece.tokens)
        if piece.stopped:
            return parts, released, True
    piece = detokenizer.finish()
    return [*parts, piece.text], [*released, piece.tokens], piece.stopped


@given(TEXTS, st.lists(st.integers(0, 96), max_size=20), STOPS)
def test_text_is_the_oracles_however_it_is_cut(text: str, cuts: list[int], stops: list[str]) -> None:
    tokens = cut_bytes(text.encode(), cuts)
    parts, released, _ = run(list(tokens), stops)
    assert "".join(parts) == oracle(text, stops)
    assert not any("�" in part for part in parts)
    assert sum(released) == len(released) - (1 if len(released) > len(tokens) else 0)


@given(TEXTS, st.lists(st.integers(0, 96), max_size=20), STOPS, st.integers(0, 8))
def test_no_stop_string_counts_within_the_least_tokens(
    text: str, cuts: list[int], stops: list[str], least: int
) -> None:
    tokens = cut_bytes(text.encode(), cuts)
    early = len(b"".join(tokens[:least]).decode(errors="ignore"))
    detokenizer, parts = Detokenizer(lambda i: tokens[i], stops, min_tokens=least), []
    for i in range(len(tokens)):
        piece = detokenizer.push(i)
        parts.append(piece.text)
        if piece.stopped:
            break
    else:
        parts.append(detokenizer.finish().text)
    assert "".join(parts) == oracle(text, stops, early)


@given(TEXTS, st.lists(st.integers(0, 96), max_size=20), STOPS)
def test_nothing_is_let_out_that_a_stop_string_takes_back(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    expected = oracle(text, stops)
    sent = ""
    for part in run(list(cut_bytes(text.encode(), cuts)), stops)[0]:
        sent += part
        assert expected.startswith(sent)


@given(st.lists(st.binary(min_size=1, max_size=3), max_size=12))
def test_any_bytes_become_what_decode_makes_of_them(tokens: list[bytes]) -> None:
    parts, released, _ = run(list(tokens), [])
    assert "".join(parts) == b"".join(tokens).decode(errors="replace")
    assert sum(released) == len(tokens)


@given(TEXTS, st.lists(st.integers(0, 96), max_size=20))
def test_a_token_is_released_with_its_last_byte(text: str, cuts: list[int]) -> None:
    tokens = cut_bytes(text.encode(), cuts)
    detokenizer = Detokenizer(lambda i: tokens[i])
    out, done = "", 0
    for i in range(len(tokens)):
        piece = detokenizer.push(i)
        out += piece.text
        done += piece.tokens
        sent = len(out.encode())
        ends = [sum(map(len, tokens[: n + 1])) for n in range(i + 1)]
        assert done == sum(end <= sent for end in ends)


def test_a_split_character_waits_and_comes_whole() -> None:
    parts, released, _ = run([b"a", "🙂".encode()[:2], "🙂".encode()[2:], b"b"], [])
    assert parts == ["a", "", "🙂", "b", ""]
    assert released == [1, 0, 2, 1, 0]


def test_a_stop_string_over_three_tokens_leaks_nothing() -> None:
    parts, released, stopped = run([b"say EN", b"D", b" NOW", b" and more"], ["END NOW"])
    assert parts == ["say ", "", ""]
    assert released == [0, 0, 3]
    assert stopped


def test_a_false_alarm_is_let_out() -> None:
    assert run([b"EN", b"D", b"LESS"], ["ENDE"])[0] == ["", "", "ENDLESS", ""]


def test_incomplete_bytes_at_the_end_become_a_replacement() -> None:
    assert run([b"a", b"\xf0\x9f"], [])[0] == ["a", "", "�"]


def test_a_replacement_at_the_end_can_complete_a_stop_string() -> None:
    parts, _, stopped = run([b"ab", b"\xf0\x9f"], ["b�"])
    assert "".join(parts) == "a"
    assert stopped


@pytest.mark.parametrize("special", [0, 1, 2])
def test_special_tokens_have_no_text(special: int) -> None:
    tokens: list[bytes | None] = [b"a", b"b"]
    tokens.insert(special, None)
    parts, released, _ = run(tokens, [])
    assert "".join(parts) == "ab"
    assert sum(released) == 3


def test_a_silent_token_has_no_text() -> None:
    detokenizer = Detokenizer(lambda i: b"x")
    assert detokenizer.push(0, silent=True).text == ""
    assert detokenizer.push(0).text == "x"


def including(text: str, stops: list[str]) -> str:
    """The text up to the end of the first stop string to be completed."""
    for end in range(1, len(text) + 1):
        if any(text[:end].endswith(s) for s in stops):
            return text[:end]
    return text


@given(TEXTS, st.lists(st.integers(0, 96), max_size=20), STOPS, st.booleans())
def test_a_stop_string_tells_which_tokens_it_cuts(
    text: str, cuts: list[int], stops: list[str], include: bool
) -> None:
    tokens = cut_bytes(text.encode(), cuts)
    left = including(text, stops) if include else oracle(text, stops)
    detokenizer = Detokenizer(lambda i: tokens[i], stops, include_stop=include)
    out, beyond, fed = "", 0, len(tokens)
    for i in range(len(tokens)):
        piece = detokenizer.push(i)
        out += piece.text
        if piece.stopped:
            beyond, fed = piece.beyond, i + 1
            break
    else:
        out += detokenizer.finish().text
    assert out == left
    ends = [len(b"".join(tokens[: i + 1])) for i in range(fed)]
    assert fed - beyond == sum(end <= len(left.encode()) for end in ends)
