"""The texts that are run through a model: a prompt and a reply each, at whose positions things are
measured."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from entropick_server.calibration.samples import CalibrationDataError, read_samples

from .section import InspectError, Model, Options

SHIPPED: Final = Path(__file__).parent / "texts.jsonl"
"""questions with replies, in English, written for this purpose"""


@dataclass(frozen=True, slots=True)
class Text:
    """A text in tokens; the reply begins at token ``start``."""

    ids: tuple[int, ...]
    start: int

    @property
    def generating(self) -> range:
        """Returns the positions whose next token is one of the reply."""
        return range(max(self.start - 1, 0), len(self.ids) - 1)


def read_texts(model: Model, options: Options) -> list[Text]:
    """Returns texts in a random order of the seed, each cut at ``options.length`` tokens, all in ``tokens``.

    A file has the lines of a calibration: ``{"messages": [...]}``, ``{"prompt": ..., "completion": ...}`` or
    ``{"text": ...}``; labelled prompts without a reply are passed over. Raises InspectError for a file
    without a usable line.
    """
    path = options.text or SHIPPED
    try:
        samples = read_samples(path, model.tokenizer, (), options.length)
    except CalibrationDataError as error:
        raise InspectError(f"--text: {error}") from error
    texts = [Text((*s.prompt, *s.reply), len(s.prompt)) for s in samples if s.reply]
    random.Random(options.seed).shuffle(texts)
    chosen: list[Text] = []
    room = options.tokens
    for text in texts:
        if len(text.ids) <= room:
            chosen.append(text)
            room -= len(text.ids)
    if not chosen:
        raise InspectError(
            f"--text: {path.name} has no text with a reply of at most {options.length} tokens within "
            f"--tokens {options.tokens}"
        )
    return chosen
