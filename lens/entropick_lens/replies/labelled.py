"""The labelled replies of a file: texts with the labels that are to be read off them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from entropick_server.calibration.samples import MAX_LINE_BYTES, read_sample
from entropick_server.chat_template import ChatTemplate

from ..section import InspectError, Model, Options
from ..texts import Text

MOST: Final = 5000
"""labelled texts that are taken, at random where a file has more: distances grow with their square"""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text with its labels by name; texts of equal ``group`` are never on both sides of a fold."""

    text: Text
    labels: Mapping[str, str]
    group: str


def read_labelled(path: Path, model: Model, options: Options) -> tuple[list[Labelled], int]:
    """Reads the lines of a file that have ``labels`` beside the keys of a calibration's line.

    ``{"prompt": ..., "completion": ..., "labels": {"task": "sums", "correct": true}, "group": "template
    3"}``: a label is a string, a whole number or a boolean; a text without ``group`` is a group of its own.
    Returns the texts, cut at ``options.length`` tokens, in a random order of the seed, and the number of
    labelled lines that were left out: no token of their reply fits, or ``MOST`` or ``options.tokens`` is
    reached.

    Raises InspectError that names the line.
    """
    template = ChatTemplate(model.tokenizer)
    found: list[Labelled] = []
    lost = 0
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InspectError(f"--text: {path.name} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_BYTES or '"labels"' not in line:
            continue
        place = f"--text: {path.name}, line {number}"
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "labels" not in row:
                continue
            sample = read_sample(row, model.tokenizer, template, ())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InspectError(f"{place}: {error}") from error
        labels = _labels(row["labels"], place)
        ids = (*sample.prompt, *sample.reply)[: options.length]
        if not sample.prompt or len(ids) <= len(sample.prompt):
            lost += 1
            continue
        group = str(row.get("group", f"line {number}"))
        found.append(Labelled(Text(ids, len(sample.prompt)), labels, group))
    random.Random(options.seed).shuffle(found)
    chosen: list[Labelled] = []
    room = options.tokens
    for one in found:
        if len(one.text.ids) <= room and len(chosen) < MOST:
            chosen.append(one)
            room -= len(one.text.ids)
    return chosen, lost + len(found) - len(chosen)


def _labels(given: Any, place: str) -> dict[str, str]:
    if not isinstance(given, dict) or not given:
        raise InspectError(f"{place}: labels must be an object of names and values")
    found = {}
    for name, value in given.items():
        if isinstance(value, bool):
            found[name] = "yes" if value else "no"
        elif isinstance(value, str | int) and str(value):
            found[name] = str(value)
        else:
            raise InspectError(f"{place}: labels.{name[:64]} must be a string, a whole number, true or false")
    return found
