"""Writes the task files of the evaluation from the data of packages and from templates.

``python -m build_tasks --wordnet FOLDER``, with this folder's parent on the path, the folder of WordNet's
data.noun and the packages of requirements.txt; ``--check`` compares instead of writing and fails where a file
would change.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from . import arithmetic, elements, orders, stories, words, world
from .items import Item, halves, write
from .open_prompts import write_open_prompts
from .wordnet import WordNet

WORLD = ("capitals", "places")
DATA = Path(__file__).resolve().parents[1] / "entropick_eval" / "data"


def families(wordnet: WordNet) -> dict[str, list[Item]]:
    """Returns the items of each family."""
    return {
        "capitals": world.capitals(),
        "places": world.places() + world.cities(4, 900_000),
        "elements": elements.elements(),
        "opposites": words.opposites(wordnet, 360),
        "kinds": words.kinds(wordnet, 22),
        "meanings": words.meanings(wordnet, 360),
        "forms": words.forms(wordnet, {"past": 170, "plural": 90, "comparative": 60}),
        "number_words": arithmetic.number_words(320),
        "first_letters": orders.first_letters(words.common(wordnet, "n", 20), 300),
        "sums": arithmetic.sums(260, 100),
        "operations": arithmetic.operations(150, 150, 100),
        "word_problems": stories.one_step(400),
        "two_steps": stories.two_steps(400),
        "extremes": orders.extremes(320),
    }


def build(wordnet: WordNet, folder: Path) -> None:
    """Writes a file of each family into the folder, and prints how many items each half has."""
    folder.mkdir(parents=True, exist_ok=True)
    found = families(wordnet)
    # a country is in the same half in all families about countries
    world_halves = halves(item for name in WORLD for item in found.get(name, ()))
    for name, items in found.items():
        split = (
            {half: [item for item in both if item.family == name] for half, both in world_halves.items()}
            if name in WORLD
            else halves(items)
        )
        write(folder / f"{name}.jsonl", split)
        print(f"{name:14} fit {len(split['fit']):4} test {len(split['test']):4}")
    n = write_open_prompts(folder / "open.jsonl")
    print(f"{'open':14} fit {n['fit']:4} test {n['test']:4}")


def main() -> int:
    """Runs the command; returns 1 where ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--wordnet", type=Path, required=True, help="folder with data.noun, index.noun, noun.exc ..."
    )
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    wordnet = WordNet(arguments.wordnet)
    if not arguments.check:
        build(wordnet, arguments.out)
        return 0
    with tempfile.TemporaryDirectory() as name:
        build(wordnet, Path(name))
        made = {path.name: path.read_bytes() for path in Path(name).iterdir()}
    there = {path.name: path.read_bytes() for path in arguments.out.glob("*.jsonl")}
    different = sorted(file for file in made.keys() | there.keys() if made.get(file) != there.get(file))
    print(f"different: {', '.join(different)}" if different else "the same bytes")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
