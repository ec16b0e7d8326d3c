"""The words and categories that a model's sections use: the model's own, or plain English."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..section import InspectError
from .plain_words import PLAIN_WORDS

FILE: Final = "lexicon.json"
"""a file beside the weights: {"a category/a narrower category": ["word", ...], ...}"""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The words of each category; a category "animal/bird" lies below "animal"."""

    name: str
    categories: Mapping[str, tuple[str, ...]]
    own: bool
    """True for the model's own file."""


def lexicon_of(folder: Path) -> Lexicon:
    """Reads ``lexicon.json`` from a model's folder, or takes plain English words where it has none.

    Raises InspectError for a file of another form.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Lexicon("plain English words", PLAIN_WORDS, False)
    except (OSError, ValueError) as error:
        raise InspectError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(
        isinstance(words, list) and all(isinstance(word, str) for word in words) for words in found.values()
    ):
        raise InspectError(f"{path}: must map categories to lists of words")
    return Lexicon(f"{FILE} of the model", {name: tuple(words) for name, words in found.items()}, True)
