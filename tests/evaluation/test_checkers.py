"""Checks of replies: each kind against replies that are right, wrong and awkward."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from entropick_eval.checkers import CheckError, build_check, chosen, number_of


def grade(text: str, check: Any, answer: Any, question: str = "") -> bool:
    built = build_check(check, answer, question, {})
    assert built is not None
    return built.grade(text)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("The capital is Paris.", "Paris", True),
        ("It is PARIS!", "paris", True),
        ("Parisian cafés", "Paris", False),
        ("The capital of Brazil is Brasília.", "Brasilia", True),
        ("San Jose", "San José", True),
        ("It's N'Djamena, I think.", "N'Djamena", True),
        ("London or Paris", ["Rome", "Paris"], True),
        ("I do not know.", "Paris", False),
        ("", "Paris", False),
        ("The Hague", "Hague", True),
        ("New\nYork", "New York", True),
    ],
)
def test_contains_whole_words_in_normal_form(text: str, answer: Any, right: bool) -> None:
    assert grade(text, {"type": "contains"}, answer) is right


def test_a_repeated_question_does_not_answer_itself() -> None:
    question = "Is the capital of Australia Sydney or Canberra?"
    check = {"type": "contains"}
    assert not grade("Is the capital of Australia Sydney or Canberra?", check, "Canberra", question)
    assert not grade("is the capital of australia sydney or canberra", check, "Canberra", question)
    assert grade(f"{question} It is Canberra.", check, "Canberra", question)


def test_contains_can_refuse_texts() -> None:
    check = {"type": "contains", "not": ["Sydney"]}
    assert grade("Canberra", check, "Canberra")
    assert not grade("Canberra or Sydney", check, "Canberra")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", Fraction(2469, 2)),
        ("so it is -3", Fraction(-3)),
        ("It is 3.", Fraction(3)),
        ("7 - 4 = 3", Fraction(3)),
        ("\u22125 degrees", Fraction(-5)),
        ("3/4", Fraction(3, 4)),
        ("a half is 1/2, or 0.5", Fraction(1, 2)),
        ("first 1/2 and then 7", Fraction(7)),
        ("12/25/2020", Fraction(2020)),
        ("5/0", Fraction(0)),
        ("$1,000", Fraction(1000)),
        ("12%", Fraction(12)),
        ("none", None),
    ],
)
def test_the_last_number(text: str, value: Fraction | None) -> None:
    assert number_of(text) == value


def test_numbers_are_compared_as_they_are_written() -> None:
    check = {"type": "last_number"}
    assert grade("0.10", check, 0.1)
    assert grade("Total: 1,234.5 dollars", check, "1234.50")
    assert grade("It is 1/2.", check, 0.5)
    assert not grade("0.3", check, 0.1)
    assert not grade("nothing", check, 0)
    assert grade("41", check, [40, 41])
    near = {"type": "last_number", "tolerance": 0.1}
    assert grade("3.14", near, 3.2)
    assert grade("3.1", near, 3.2)  # the edge itself: as decimals, not as floats
    assert not grade("3.09", near, 3.2)


def test_exact_is_the_whole_reply() -> None:
    assert grade(" yes. ", {"type": "exact"}, "Yes")
    assert not grade("Yes, it is.", {"type": "exact"}, "Yes")


def test_regex_with_and_without_an_answer() -> None:
    assert grade("a1b22", {"type": "regex", "pattern": r"\d\d"}, None)
    assert not grade("a1b2", {"type": "regex", "pattern": r"\d\d"}, None)
    check = {"type": "regex", "pattern": r"answer: (\w+)"}
    assert grade("answer: red, no, answer: Blue", check, "blue")
    assert not grade("answer: blue, no, answer: red", check, "blue")


def test_a_pattern_that_backtracks_for_ever_elsewhere_ends_here() -> None:
    assert not grade("a" * 10_000, {"type": "regex", "pattern": "(a+)+b"}, None)


OPTIONS = ["Rome", "Paris", "New York", "York"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("B", 1),
        ("b)", None),
        ("(b)", 1),
        ("B.", 1),
        ("B. Paris", 1),
        ("The answer is C.", 2),
        ("Answer: D", 3),
        ("I first thought the answer is A, but the answer is B", 1),
        ("A city like Paris", 1),
        ("A dog", None),
        ("It must be (C), since ...", 2),
        ("Either (A) or (B)", None),
        ("the capital is New York", 2),
        ("Rome and Paris", None),
        ("no idea", None),
        ("E", None),
        ("I choose option B", 1),
        ("The answer is a city, Paris", 1),
    ],
)
def test_the_option_that_a_reply_chooses(text: str, number: int | None) -> None:
    assert chosen(text, 4, ["rome", "paris", "new york", "york"]) == number


def test_choice_takes_letters_and_options() -> None:
    check = {"type": "choice", "options": OPTIONS}
    assert grade("B", check, "Paris")
    assert grade("Paris", check, "B")
    assert not grade("C", check, "B")
    assert grade("(d)", {"type": "choice"}, "D")


def shouts(text: str, item: dict[str, Any]) -> bool:
    return text.isupper() and item["answer"] == "LOUD"


def test_a_function_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "user_checks", sys.modules[__name__])
    check = build_check({"type": "python", "function": "user_checks:shouts"}, "LOUD", "", {"answer": "LOUD"})
    assert check is not None
    assert check.grade("YES")
    assert not check.grade("yes")


def test_without_a_check_the_answer_decides() -> None:
    text = build_check(None, "Lima", "", {})
    number = build_check(None, 12, "", {})
    assert text is not None
    assert number is not None
    assert (text.kind, number.kind) == ("contains", "last_number")
    assert number.grade("3 x 4 = 12")
    assert not number.grade("12 is not 13")
    assert build_check(None, None, "", {}) is None
    mixed = build_check(None, [7, "seven"], "", {})
    assert mixed is not None
    assert mixed.grade("There are seven.")
    assert mixed.grade("7 days")


def test_what_votes_compare() -> None:
    def read(check: Any, answer: Any, text: str, raw: Any = {}) -> str | None:  # noqa: B006 read only
        built = build_check(check, answer, "", raw)
        assert built is not None
        found = built.find(text)
        if found is not None:
            assert 0 <= found.begin < found.end <= len(text)
        return None if found is None else found.answer

    assert read({"type": "last_number"}, 5, "It is 1,200.0") == "1200"
    assert read({"type": "choice"}, "A", "I think the answer is B") == "B"
    assert read({"type": "choice"}, "A", "hm") is None
    assert read(None, "Paris", "It is Paris. Or Rome.") == "it is paris"
    assert read(None, "Paris", "I say 7, or 8", {"extract": "last_number"}) == "8"


@pytest.mark.parametrize(
    ("check", "answer", "raw", "says"),
    [
        ("contains", "x", {}, "check: must be an object"),
        ({"type": "near"}, "x", {}, "check.type: must be one of exact, contains"),
        ({"type": "contains", "case": True}, "x", {}, "check.case: no such field of a contains check"),
        ({"type": "contains"}, None, {}, "answer: a contains check needs"),
        ({"type": "contains"}, "?!", {}, "answer: has no letter"),
        ({"type": "last_number"}, "many", {}, "answer: 'many' holds no number"),
        ({"type": "last_number"}, True, {}, "answer: a last_number check needs"),
        ({"type": "last_number", "tolerance": -1}, 1, {}, "check.tolerance: must be a number"),
        ({"type": "regex"}, None, {}, "check.pattern: must be a string"),
        ({"type": "regex", "pattern": "(?=a)"}, None, {}, "check.pattern: regex:"),
        ({"type": "choice", "options": ["a"]}, "A", {}, "check.options: there must be 2"),
        ({"type": "choice", "options": 4}, "F", {}, "answer: 'F' is no letter up to D"),
        (
            {"type": "python", "function": "nowhere:f"},
            None,
            {},
            "check.function: nowhere:f cannot be imported",
        ),
        ({"type": "python", "function": "os"}, None, {}, 'check.function: must be "module:function"'),
        ({"type": "exact"}, "x", {"extract": "best"}, "extract: must be one of"),
        (None, [], {}, "answer: a last_number check needs"),
    ],
)
def test_an_error_names_the_field(check: Any, answer: Any, raw: Any, says: str) -> None:
    with pytest.raises(CheckError) as caught:
        build_check(check, answer, "", raw)
    assert str(caught.value).startswith(says)
