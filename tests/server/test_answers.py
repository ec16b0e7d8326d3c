"""Answers taken from texts: what counts as one, in which form, from which characters, and in bounded time."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_server.answers import (
    MAX_PATTERN,
    MAX_SEARCHED,
    Extracted,
    ExtractorError,
    comparable,
    extractor,
    first_sentence,
    last_number,
    normalise,
    whole_text,
)
from entropick_server.json_path import PathError, find, parse_path


def answer(extracted: Extracted | None) -> str | None:
    return None if extracted is None else extracted.answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is $1,234.50.", "1234.5"),
        ("1\u202f234\u00a0567", "1234567"),
        ("12 345", "345"),
        ("12,345,6", "6"),
        ("1,2345", "2345"),
        ("4,4", "4"),
        ("-5", "-5"),
        ("$-5", "-5"),
        ("-$5", "-5"),
        ("(-3)", "-3"),
        ("x=\u22127", "-7"),
        ("10-5", "5"),
        ("3 - 5", "5"),
        ("-0.0", "0"),
        ("007", "7"),
        (".5", "0.5"),
        ("the answer is...5", "5"),
        ("Rs.500", "500"),
        ("0.10", "0.1"),
        ("version 1.2.3", "1.2"),
        ("1e5.", "100000"),
        ("2.5e-3", "0.0025"),
        ("5e", "5"),
        ("5kg", "5"),
        ("40%", "40"),
        ("**42**", "42"),
        ("\\boxed{42}", "42"),
        ("first 3, then 4.", "4"),
        ("9" * 40 + ".5", "9" * 40 + ".5"),
        ("H2O", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_in_its_canonical_form(text: str, number: str | None) -> None:
    assert answer(last_number(text)) == number


def test_a_number_is_found_at_its_characters() -> None:
    text = "So 3 and then $1,234.50. Done"
    found = last_number(text)
    assert found is not None
    assert text[found.begin : found.end] == "$1,234.50"


@given(st.integers(-(10**12), 10**12), st.integers(0, 999), st.booleans())
def test_every_way_to_write_a_number_is_the_same_answer(whole: int, thousandth: int, commas: bool) -> None:
    text = (f"{whole:,}" if commas else str(whole)) + (f".{thousandth:03}" if thousandth else "")
    found = last_number(f"the sum is {text}.")
    assert found is not None
    assert float(found.answer) == float(text.replace(",", ""))
    assert comparable(found.answer) == found.answer


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("  The   Capital is:\nParis!", "capital is paris"),
        ("São Tomé", "sao tome"),
        ("SÃO TOME\u0301", "sao tome"),
        ("Straße", "strasse"),
        ("\uff30aris", "paris"),
        ("don't \u201cstop\u201d", "dont stop"),
        ("1,234 and 3.50 and -5", "1234 and 3.50 and -5"),
        ("well-known", "well known"),
        ("A.", "a"),
        ("an apple", "apple"),
        ("\ud55c\uad6d", "\ud55c\uad6d"),
        ("\u0915\u093f", "\u0915\u093f"),
        ("C++", "c++"),
        ("?!", ""),
    ],
)
def test_the_form_in_which_texts_are_compared(text: str, form: str) -> None:
    assert normalise(text) == form


@given(st.text(max_size=60))
def test_the_form_of_a_form_holds_no_capital_and_no_double_space(text: str) -> None:
    form = normalise(text)
    assert form == " ".join(form.split())
    assert normalise(f"{text} ") == form


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Paris. It is large.", "Paris."),
        ("\n\n Paris\nand more", "Paris\n"),
        ("Dr. Smith said 3.5. Next", "Dr. Smith said 3.5."),
        ("The U.S. is big. Yes", "The U.S. is big."),
        ("The answer is A. Because", "The answer is A."),
        ('He said "no." Then', 'He said "no."'),
        ("\u7b54\u6848\u3002\u7136\u540e", "\u7b54\u6848\u3002"),
        ("Paris is it", "Paris is it"),
    ],
)
def test_the_first_sentence(text: str, sentence: str) -> None:
    found = first_sentence(text)
    assert found is not None
    assert text[found.begin : found.end] == sentence
    assert found.answer == normalise(sentence)


@pytest.mark.parametrize("text", ["", "  \n", "..."])
def test_a_text_without_words_holds_no_answer(text: str) -> None:
    assert first_sentence(text) is None
    assert whole_text(text) is None


def test_a_regular_expression_takes_its_last_match() -> None:
    take = extractor({"regex": r"(?i)answer: (.*)"})
    text = "Answer: Rome\nanswer: The Paris! "
    assert take(text) == Extracted("paris", 21, 32)
    assert answer(take("ANSWER: $1,000.0")) == "1000"
    assert take("no such thing") is None
    assert take("answer: ") is None
    assert answer(extractor({"regex": r"\d+"})("12 345")) == "345"
    assert answer(extractor({"regex": "(a)|b"})("a b")) == "a"


def test_a_regular_expression_sees_the_end_of_a_long_text_at_its_own_place() -> None:
    text = "x = 1 " + "é" * MAX_SEARCHED + " x = 2!"
    found = extractor({"regex": r"x = (\d)"})(text)
    assert found is not None
    assert text[found.begin : found.end] == "2"
    assert extractor({"regex": "x = 1"})(text) is None


@pytest.mark.parametrize(
    "described",
    [
        {"regex": "(?=a)"},
        {"regex": r"(a)\1"},
        {"regex": "("},
        {"regex": ""},
        {"regex": "a" * (MAX_PATTERN + 1)},
        {"regex": "((a{100}){100}){100}"},
        {"regex": 5},
        {"json_path": "a"},
        {"json_path": "$.a[*]"},
        {"json_path": None},
        {"regex": "a", "json_path": "$"},
        {},
        "last",
        5,
    ],
)
def test_a_description_of_no_extractor_is_refused(described: Any) -> None:
    with pytest.raises(ExtractorError):
        extractor(described)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('```json\n{"a": {"b": [1, "Two", 3.50]}}\n```', "3.5"),
        ('{"a": {"b": ["The Capital"]}}', "capital"),
        ('{"a": {"b": [{"z": 1, "y": 2.0}]}}, then {"x": 1}', '{"y":2,"z":1}'),
        ('{"a": {"b": [true]}}', "true"),
        ('{"a":{"b":[1]}} {"a":{"b":[2]}}', "2"),
        ('{"a": {"b": [1]}, "a": {"b": [2]}}', "2"),
        ('[[[{"a": {"b": [7]}}', "7"),
        ('{"a": {"b": [null]}}', None),
        ('{"a": {"b": []}}', None),
        ('{"a": [1]}', None),
        ('{"a": {"b": [NaN]}}', None),
        ('{"a": {"b": [1e999]}}', None),
        ('{"a": {"b": [1', None),
        ("no JSON", None),
    ],
)
def test_a_value_of_the_json_in_a_reply(text: str, value: str | None) -> None:
    assert answer(extractor({"json_path": "$.a.b[-1]"})(text)) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-999, 999) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    st.text(alphabet="ab :\n", max_size=9),
)
def test_a_found_value_stands_where_the_place_says(value: Any, before: str) -> None:
    text = before + json.dumps({"k": [0, value]}, indent=1) + before
    found = find(text, parse_path("$['k'][1]"))
    assert found is not None
    assert found.value == value
    assert json.loads(text[found.begin : found.end]) == value


def test_paths() -> None:
    assert parse_path("$.a-b[\"c d\"]['e'][0][-2]") == ("a-b", "c d", "e", 0, -2)
    assert parse_path("$") == ()
    for path in ("", "$.", "$a", "$..a", "$[01]", "$[1:2]", "$.a" * 400):
        with pytest.raises(PathError):
            parse_path(path)


def test_no_text_takes_long() -> None:
    """Texts that would make a careless search quadratic."""
    begin = time.perf_counter()
    for text in (
        "[" * 50_000,
        '{"a":' * 50_000,
        "1,234," * 10_000,
        "$-" * 50_000,
        "a.b" * 30_000,
        "a" * 50_000,
    ):
        for described in ("last_number", "first_sentence", "text", {"json_path": "$.a"}, {"regex": "a.*b|a"}):
            extractor(described)(text)  # type: ignore[arg-type]
    assert time.perf_counter() - begin < 20
