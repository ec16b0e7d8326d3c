"""A reader of WordNet's database files, as Debian's package wordnet-base installs them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}


@dataclass(frozen=True, slots=True)
class Synset:
    """A set of words with one meaning, its gloss and its pointers.

    A pointer is (symbol, part of speech, offset, word here, word there); the last two count from 1 and are 0
    where the pointer is between whole sets.
    """

    part: str
    offset: int
    file: int
    words: tuple[str, ...]
    pointers: tuple[tuple[str, str, int, int, int], ...]
    gloss: str

    @property
    def definition(self) -> str:
        """Returns the gloss without its examples and remarks."""
        return self.gloss.split(";")[0].split('"')[0].strip()


class WordNet:
    """The synsets of a folder with data.noun, index.noun and so on (format: wndb(5WN), cntlist(5WN))."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.synsets: dict[tuple[str, int], Synset] = {}
        self.senses: dict[tuple[str, str], list[Synset]] = {}
        for part, name in PARTS.items():
            for line in _lines(folder / f"data.{name}"):
                synset = _synset(part, line)
                self.synsets[part, synset.offset] = synset
            for line in _lines(folder / f"index.{name}"):
                fields = line.split()
                offsets = fields[-int(fields[2]) :]
                self.senses[part, fields[0]] = [self.synsets[part, int(offset)] for offset in offsets]

    @cached_property
    def frequency(self) -> dict[tuple[str, str], int]:
        """Returns the number of times that each (part of speech, lemma) is tagged in WordNet's texts."""
        counts: dict[tuple[str, str], int] = {}
        parts = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
        for line in _lines(self.folder / "cntlist.rev"):
            sense, _, count = line.split()
            lemma, rest = sense.split("%")
            if rest[0] in parts:
                key = parts[rest[0]], lemma
                counts[key] = counts.get(key, 0) + int(count)
        return counts

    def exceptions(self, part: str) -> Iterator[tuple[str, str]]:
        """Yields (irregular form, base form) of a part of speech."""
        for line in _lines(self.folder / f"{PARTS[part]}.exc"):
            form, *bases = line.split()
            for base in bases:
                yield form, base

    def related(self, synset: Synset, symbol: str) -> Iterator[Synset]:
        """Yields the synsets to which a synset points with this symbol (@ hypernym, ! antonym, & similar)."""
        for kind, part, offset, _, _ in synset.pointers:
            if kind == symbol:
                yield self.synsets[part, offset]

    def ancestors(self, synset: Synset) -> set[int]:
        """Returns the offsets of a noun's synset and of all that it is a kind or an instance of."""
        found: set[int] = set()
        waiting = [synset]
        while waiting:
            this = waiting.pop()
            if this.offset not in found:
                found.add(this.offset)
                waiting.extend([*self.related(this, "@"), *self.related(this, "@i")])
        return found


def _lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):
            yield line


def _synset(part: str, line: str) -> Synset:
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    n_words = int(fields[3], 16)
    words = tuple(word.split("(")[0] for word in fields[4 : 4 + 2 * n_words : 2])
    at = 4 + 2 * n_words
    pointers = []
    for start in range(at + 1, at + 1 + 4 * int(fields[at]), 4):
        symbol, offset, to, ends = fields[start : start + 4]
        pointers.append((symbol, "a" if to == "s" else to, int(offset), int(ends[:2], 16), int(ends[2:], 16)))
    return Synset(part, int(fields[0]), int(fields[1]), words, tuple(pointers), gloss.strip())
