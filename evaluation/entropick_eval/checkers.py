"""Checks whether a reply gives the right answer: one function for each kind of check.

Texts are compared in the form of :func:`entropick_server.answers.normalise`: without case, accents,
punctuation and English articles.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from entropick_server.answers import (
    Extracted,
    Extractor,
    ExtractorError,
    by_regex,
    extractor,
    last_number,
    normalise,
)

Grade = Callable[[str], bool]


class CheckError(ValueError):
    """An error in an item's field, which it names."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")


@dataclass(frozen=True, slots=True)
class Check:
    """A way to tell right replies from wrong replies, with its kind and its extractor for votes."""

    kind: str
    grade: Grade
    find: Extractor
    """takes the answer that votes compare from a reply's text; None where there is none"""
    extract: str | Mapping[str, Any]
    """the same extractor in the words of the server's consensus"""


def build_check(described: Any, answer: Any, question: str, raw: Mapping[str, Any]) -> Check | None:
    """Returns the check that an item's ``check`` and ``answer`` describe; None for an open prompt.

    Without ``check`` numbers are compared with the last number of the reply, texts are looked for in it.
    ``raw`` is the item as a checking function of the user's gets it. Raises CheckError.
    """
    if described is None:
        if answer is None:
            return None
        answers = answer if isinstance(answer, list) else [answer]
        text = any(isinstance(one, str) for one in answers)
        described = {"type": "contains" if text else "last_number"}
    if not isinstance(described, dict) or not isinstance(described.get("type"), str):
        raise CheckError("check", f'must be an object with a "type": {", ".join(KINDS)}')
    kind = described["type"]
    if kind not in KINDS:
        raise CheckError("check.type", f"must be one of {', '.join(KINDS)}")
    build, allowed, extract = KINDS[kind]
    item_extract = raw.get("extract")
    try:
        find = extractor(item_extract or extract)
    except ExtractorError as error:
        raise CheckError("extract", str(error)) from error
    for name in described:
        if name not in ("type", *allowed):
            known = ", ".join(allowed) or "none"
            raise CheckError(f"check.{name}", f"no such field of a {kind} check; known: {known}")
    grade = build(described, answer, question, raw)
    if kind == "choice" and item_extract is None:
        find = _choice_finder(described)
    return Check(kind, grade, find, item_extract or extract)


def _answers(answer: Any, kind: str) -> list[str | int | float]:
    """Returns the accepted answers, of which there is at least one."""
    answers = answer if isinstance(answer, list) else [answer]
    good = all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in answers)
    if answer is None or not answers or not good:
        raise CheckError("answer", f"a {kind} check needs a text, a number, or a list of accepted ones")
    return answers


def _normal_answers(answer: Any, kind: str) -> list[str]:
    found = [normalise(str(one)) for one in _answers(answer, kind)]
    if not all(found):
        raise CheckError("answer", "has no letter and no digit")
    return found


def _exact(described: Mapping[str, Any], answer: Any, question: str, raw: Mapping[str, Any]) -> Grade:
    accepted = frozenset(_normal_answers(answer, "exact"))
    return lambda text: normalise(text) in accepted


def _contains(described: Mapping[str, Any], answer: Any, question: str, raw: Mapping[str, Any]) -> Grade:
    """Builds the check that an accepted answer stands in the reply as whole words.

    A repetition of the question is cut out first: an answer that stands in the question is right only where
    the reply says it by itself. ``not`` lists texts that make a reply wrong.
    """
    accepted = _normal_answers(answer, "contains")
    refused = _normal_answers(described["not"], "contains") if "not" in described else []
    asked = normalise(question)

    def grade(text: str) -> bool:
        said = _padded(normalise(text))
        if asked:
            said = said.replace(_padded(asked), " ")
        return _any_in(accepted, said) and not _any_in(refused, said)

    return grade


def _padded(words: str) -> str:
    return f" {words} "


def _any_in(phrases: Sequence[str], said: str) -> bool:
    return any(_padded(phrase) in said for phrase in phrases)


_FRACTION: Final = re.compile(r"(?<![\w.,/])([-\u2212]?\d{1,12})\s*/\s*(\d{1,12})(?![\w/]|[.,]\d)", re.ASCII)


def number_of(text: str) -> Fraction | None:
    """Returns the last number of a text, ``3/4`` and ``1,234.50`` among them; None where there is none."""
    found = last_number(text)
    fractions = [match for match in _FRACTION.finditer(text) if int(match[2])]
    # a fraction's denominator is the last number there; a number behind it comes later
    if fractions and (found is None or found.begin < fractions[-1].end()):
        top, bottom = fractions[-1].groups()
        return Fraction(int(top.replace("\u2212", "-")), int(bottom))
    return None if found is None else Fraction(found.answer)


def _last_number(described: Mapping[str, Any], answer: Any, question: str, raw: Mapping[str, Any]) -> Grade:
    tolerance = described.get("tolerance", 0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance >= 0:
        raise CheckError("check.tolerance", "must be a number, 0 or above")
    accepted = []
    for one in _answers(answer, "last_number"):
        value = number_of(one) if isinstance(one, str) else Fraction(repr(one))
        if value is None:
            raise CheckError("answer", f"{one!r} holds no number")
        accepted.append(value)
    # as it is written: 0.1 is a tenth
    allowed = Fraction(repr(tolerance))

    def grade(text: str) -> bool:
        value = number_of(text)
        return value is not None and any(abs(value - one) <= allowed for one in accepted)

    return grade


def _regex(described: Mapping[str, Any], answer: Any, question: str, raw: Mapping[str, Any]) -> Grade:
    """Builds the check that a pattern (RE2's syntax) matches somewhere.

    With an answer the text of the last match (of its first group where it has groups) must equal an accepted
    answer.
    """
    pattern = described.get("pattern")
    if not isinstance(pattern, str):
        raise CheckError("check.pattern", "must be a string")
    try:
        find: Extractor = by_regex(pattern)
    except ExtractorError as error:
        raise CheckError("check.pattern", str(error)) from error
    if answer is None:
        return lambda text: find(text) is not None
    accepted = frozenset(_normal_answers(answer, "regex"))

    def grade(text: str) -> bool:
        found = find(text)
        return found is not None and normalise(found.answer) in accepted

    return grade


_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _choice(described: Mapping[str, Any], answer: Any, question: str, raw: Mapping[str, Any]) -> Grade:
    """Builds the check of a question of multiple choice, whose options have the letters A, B, C, ..."""
    count, texts = _options(described)
    accepted = set()
    for one in _answers(answer, "choice"):
        letter = str(one).strip().strip("().").upper()
        if len(letter) == 1 and letter in _LETTERS[:count]:
            accepted.add(_LETTERS.index(letter))
        elif normalise(str(one)) in texts:
            accepted.add(texts.index(normalise(str(one))))
        else:
            raise CheckError("answer", f"{one!r} is no letter up to {_LETTERS[count - 1]} and no option")
    return lambda text: chosen(text, count, texts) in accepted


def _options(described: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Returns the number of options, and their normalised texts where they are given."""
    options = described.get("options", 4)
    texts: list[str] = []
    if isinstance(options, list) and all(isinstance(one, str) and normalise(one) for one in options):
        texts = [normalise(one) for one in options]
        count = len(texts)
    elif type(options) is int:
        count = options
    else:
        raise CheckError("check.options", "must be a list of texts, or their number")
    if not 2 <= count <= len(_LETTERS) or len(set(texts)) < len(texts):
        raise CheckError("check.options", f"there must be 2 to {len(_LETTERS)} different ones")
    return count, texts


def _choice_finder(described: Mapping[str, Any]) -> Extractor:
    count, texts = _options(described)

    def find(text: str) -> Extracted | None:
        number = chosen(text, count, texts)
        if number is None:
            return None
        # the letter's last place, or all of the text where an option's own words were given
        places = [match.span() for match in re.finditer(rf"\b{_LETTERS[number]}\b", text)]
        return Extracted(_LETTERS[number], *(places[-1] if places else (0, len(text))))

    return find


def chosen(text: str, count: int, texts: Sequence[str] = ()) -> int | None:
    """Returns the number of the option that a reply chooses; None where that is not clear.

    Looked for in this order: "answer is B" (the last), a letter alone at the beginning ("B", "(b)",
    "B. Rome"), the only letter that stands in brackets or before a bracket, the only option whose normalised
    text is in the reply.
    """
    letters = _LETTERS[:count]
    said = list(
        re.finditer(
            rf"(?i:\b(?:answer|choice|option)(?:\s+is|\s*:|\s+would be)?)\W*([{letters}])\b(?!['\u2019])",
            text,
        )
    )
    if said:
        return letters.index(said[-1][1])
    first = re.match(rf"\W*(?:([{letters}])(?=\s*$|\s*\n|[).:,])|\(([{letters}{letters.lower()}])\))", text)
    if first:
        return letters.index((first[1] or first[2]).upper())
    marked = {match[1] for match in re.finditer(rf"\(?\b([{letters}])\)", text)}
    if len(marked) == 1:
        return letters.index(marked.pop())
    reply = _padded(normalise(text))
    named = [number for number, option in enumerate(texts) if _padded(option) in reply]
    # an option inside another ("red", "dark red") is named by the longer of them alone
    longest = [
        number
        for number in named
        if not any(
            texts[number] != texts[other] and _padded(texts[number]) in _padded(texts[other])
            for other in named
        )
    ]
    return longest[0] if len(longest) == 1 else None


def _python(described: Mapping[str, Any], answer: Any, question: str, raw: Mapping[str, Any]) -> Grade:
    """Builds the check by a function of the user's, ``function(text, item) -> bool``."""
    path = described.get("function")
    module, _, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    if not module or not name:
        raise CheckError("check.function", 'must be "module:function"')
    # the console script does not look into the folder that it is called in
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckError("check.function", f"{path} cannot be imported: {error}") from error
    if not callable(function):
        raise CheckError("check.function", f"{path} is no function")
    item = dict(raw)
    return lambda text: bool(function(text, item))


_Build = Callable[[Mapping[str, Any], Any, str, Mapping[str, Any]], Grade]
KINDS: Final[Mapping[str, tuple[_Build, tuple[str, ...], str | Mapping[str, Any]]]] = {
    "exact": (_exact, (), "text"),
    "contains": (_contains, ("not",), "first_sentence"),
    "last_number": (_last_number, ("tolerance",), "last_number"),
    "regex": (_regex, ("pattern",), "text"),
    "choice": (_choice, ("options",), {"regex": r"\b([A-Z])\b"}),
    "python": (_python, ("function",), "text"),
}
"""The kinds of checks: the function that builds each, its fields, and the extractor that fits its answers."""
