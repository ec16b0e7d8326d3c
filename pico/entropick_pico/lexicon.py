"""The words of the grammar by category, as ``lexicon.json`` beside the weights: a graph of their kinds.

``entropick inspect`` compares it with the embedding. A category "person/girl" lies below "person".
"""

import json
from pathlib import Path
from typing import Final

from entropick_pico.grammar import world

FILE: Final = "lexicon.json"


def categories() -> dict[str, list[str]]:
    """Returns the grammar's words by category."""
    return {
        "living/person/girl": list(world.GIRLS),
        "living/person/boy": list(world.BOYS),
        "living/animal": list(world.ANIMALS),
        "thing": list(world.OBJECTS),
        "quality/color": list(world.COLORS),
        "quality/mood": list(world.MOODS),
        "place/town": list(world.TOWNS),
        "place/country": list(world.COUNTRIES),
        "place/kind": list(world.PLACES),
        "time/season": list(world.SEASONS),
    }


def write(folder: Path) -> None:
    """Writes ``lexicon.json`` into a model's folder."""
    text = json.dumps(categories(), indent=1)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
