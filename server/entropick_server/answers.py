"""Answers that are taken from a reply's text and brought to a form in which equal answers are equal strings.

Pure functions. An extractor returns None where a reply holds no answer. On the wire an extractor is one of
``"last_number"``, ``"first_sentence"``, ``"text"``, ``{"regex": pattern}``, ``{"json_path": path}``.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple

import re2

from . import json_path

MAX_PATTERN: Final = 512
"""characters of a regular expression"""
MAX_SEARCHED: Final = 1 << 13
"""characters at a reply's end that a regular expression sees"""
_MAX_PROGRAM: Final = 1 << 20
"""bytes that a compiled regular expression may take"""

_NUMBER: Final = re.compile(
    r"(?<![A-Za-z_0-9])(?<![0-9]\.)"  # no part of a word (H2O) or of a version (1.2.3)
    r"(?:(?<![)\]])(?P<sign>[-\u2212]))?[$\u20ac\u00a3\u00a5\u20b9]?(?P<late>(?<=[$\u20ac\u00a3\u00a5\u20b9])[-\u2212])?"
    r"(?P<whole>[0-9]{1,3}(?:[,\u00a0\u202f\u2009][0-9]{3})+(?![0-9])|[0-9]+|(?<!\.)(?=\.[0-9]))"
    r"(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][-+]?[0-9]{1,2}(?!\w))?"
)
_SEPARATORS: Final = re.compile(r"[,\u00a0\u202f\u2009]")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]*_]*(?=\s|$)|(?<=[\u3002\uff01\uff1f])|\n")
_ABBREVIATION: Final = re.compile(
    r"(?:^|[\s(])(?:mr|mrs|ms|dr|st|prof|vs|no|jr|sr|approx|e\.g|i\.e|cf|(?:[^\W\d_]\.)+[^\W\d_])\.$",
    re.IGNORECASE,
)
_ACCENTS: Final = re.compile("[\u0300-\u036f]")
_APOSTROPHES: Final = re.compile("(?<=\\w)['\u2019](?=\\w)")
_GROUPING: Final = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_KEPT: Final = re.compile(r"(?<=[0-9])\.(?=[0-9])|(?<!\w)-(?=[0-9])")
_ARTICLES: Final = frozenset({"a", "an", "the"})


class ExtractorError(ValueError):
    """A description of an extractor that is none; the message says why."""


class Extracted(NamedTuple):
    """An answer and the characters of the text that it was taken from, ``end`` excluded."""

    answer: str
    begin: int
    end: int


Extractor = Callable[[str], Extracted | None]
"""takes the answer of a reply's text, None where it holds none"""


def normalise(text: str) -> str:
    """Returns a text as it is compared: without case, accents, punctuation, English articles, odd spaces.

    The form is NFKC, case-folded. A decimal point and a minus before a number stay, a comma between thousands
    goes, other punctuation becomes a space. Articles stay where the text is nothing else ("A" of a choice).
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").casefold()
    text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    text = _GROUPING.sub("", _APOSTROPHES.sub("", text))
    kept = {match.start() for match in _KEPT.finditer(text)}
    words = "".join(c if at in kept or not _parts(c) else " " for at, c in enumerate(text)).split()
    rest = [word for word in words if word not in _ARTICLES]
    return unicodedata.normalize("NFKC", " ".join(rest or words))


def _parts(character: str) -> bool:
    """Tells whether a character is punctuation or a mark of a format, which parts words."""
    category = unicodedata.category(character)
    return category[0] == "P" or category == "Sk"


def last_number(text: str) -> Extracted | None:
    """Returns the last number of a text in its canonical form: ``-1234.5`` of ``-$1,234.50.``.

    Commas and thin spaces may part thousands; a sign, a currency's sign, a decimal part and a short exponent
    belong to the number, a full stop behind it does not. Digits inside a word (H2O) are no number.
    """
    found: re.Match[str] | None = None
    for found in _NUMBER.finditer(text):  # noqa: B007 the last one is wanted
        pass
    return None if found is None else Extracted(_canonical(found), found.start(), found.end())


def _canonical(number: re.Match[str]) -> str:
    digits = _SEPARATORS.sub("", number["whole"]) + (number["fraction"] or "")
    shown = format(Decimal(digits + (number["exponent"] or "")), "f")  # exact: no digit is rounded away
    whole, _, fraction = shown.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    negative = bool(number["sign"]) != bool(number["late"])
    return f"-{value}" if negative and value != "0" else value


def comparable(text: str) -> str | None:
    """Returns an extracted text as it is compared: a number in its canonical form, else :func:`normalise`.

    Returns None where nothing is left.
    """
    number = _NUMBER.fullmatch(text.strip())
    return _canonical(number) if number is not None else normalise(text) or None


def first_sentence(text: str) -> Extracted | None:
    """Returns the first sentence or line of a text, normalised.

    A full stop inside a number and behind a common abbreviation (Dr., U.S.) ends no sentence.
    """
    begin = len(text) - len(text.lstrip())
    end = len(text)
    for mark in _SENTENCE_END.finditer(text, begin):
        if not _ABBREVIATION.search(text, max(begin, mark.start() - 12), mark.start()):
            end = mark.end()
            break
    return _extracted(text, begin, end)


def whole_text(text: str) -> Extracted | None:
    """Returns the whole text, normalised."""
    return _extracted(text, 0, len(text))


def _extracted(text: str, begin: int, end: int) -> Extracted | None:
    answer = normalise(text[begin:end])
    return Extracted(answer, begin, end) if answer else None


def by_regex(pattern: str) -> Extractor:
    """Returns the extractor of a regular expression's last match: of its first group where it has groups.

    The pattern is RE2's, which runs in linear time: no look-around, no back reference. It sees the last
    :data:`MAX_SEARCHED` characters. Raises ExtractorError.
    """
    if not 0 < len(pattern) <= MAX_PATTERN:
        raise ExtractorError(f"regex: must have 1 to {MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_PROGRAM
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "no reason given"
        words = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ExtractorError(f"regex: {words} (RE2's syntax: no look-around, no back reference)") from error
    return partial(_by_regex, compiled, 1 if compiled.groups else 0)


def _by_regex(compiled: Any, group: int, text: str) -> Extracted | None:
    skipped = max(0, len(text) - MAX_SEARCHED)
    extracted = None
    for match in compiled.finditer(text[skipped:]):
        if match[group] is not None and (answer := comparable(match[group])) is not None:
            begin, end = match.span(group)
            extracted = Extracted(answer, begin + skipped, end + skipped)
    return extracted


def by_json_path(path: str) -> Extractor:
    """Returns the extractor of a value of the JSON in a text (:mod:`.json_path`). Raises ExtractorError.

    Null is no answer; true and false are words; an object or array is compact JSON with its names sorted.
    """
    try:
        steps = json_path.parse_path(path)
    except json_path.PathError as error:
        raise ExtractorError(f"json_path: {error}") from error
    return partial(_by_json_path, steps)


def _by_json_path(steps: tuple[json_path.Step, ...], text: str) -> Extracted | None:
    found = json_path.find(text, steps)
    if found is None or found.value is None:
        return None
    value = found.value
    answer: str | None
    if isinstance(value, dict | list):
        try:
            answer = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        except RecursionError:
            return None  # nested deeper than anything that is meant
    else:
        answer = comparable(value if isinstance(value, str) else json.dumps(value))
    return None if answer is None else Extracted(answer, found.begin, found.end)


NAMED: Final[Mapping[str, Extractor]] = {
    "last_number": last_number,
    "first_sentence": first_sentence,
    "text": whole_text,
}
"""the extractors that need no pattern, by their names on the wire"""
PATTERNED: Final[Mapping[str, Callable[[str], Extractor]]] = {"regex": by_regex, "json_path": by_json_path}
"""what makes an extractor of a pattern, by the pattern's name on the wire"""


def extractor(described: str | Mapping[str, Any]) -> Extractor:
    """Returns the extractor that a name, or an object of one pattern, describes. Raises ExtractorError."""
    if isinstance(described, str) and described in NAMED:
        return NAMED[described]
    if isinstance(described, Mapping) and len(described) == 1:
        [(name, pattern)] = described.items()
        if name in PATTERNED:
            if not isinstance(pattern, str):
                raise ExtractorError(f"{name}: must be a string")
            return PATTERNED[name](pattern)
    names = ", ".join([*(f"'{name}'" for name in NAMED), *(f"{{'{name}': ...}}" for name in PATTERNED)])
    raise ExtractorError(f"must be one of {names}")
