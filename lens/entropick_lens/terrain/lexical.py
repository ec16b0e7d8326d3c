"""Graphs of words: WordNet's nouns from its own files, and a tree of plain categories.

WordNet's format is that of its manual page wndb(5WN): ``index.noun`` lists the synsets of each lemma, the
most frequent sense first; ``data.noun`` has one synset a line with its pointers, ``@`` to a hypernym and
``@i`` to the class of an instance. Debian's package wordnet-base has both files, not the file of
lexicographers' names that other readers want.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

DEBIAN_FOLDER: Final = Path("/usr/share/wordnet")
# the lexicographers' files of nouns, numbers 3 to 28 (lexnames(5WN))
_NAMES = """
    Tops act animal artifact attribute body cognition communication event feeling food group location motive
    object person phenomenon plant possession process quantity relation shape state substance time
    """
NOUN_FILES: Final = tuple(_NAMES.split())
_FIRST_NOUN_FILE: Final = 3
_OTHERS: Final = ("index.verb", "index.adj", "index.adv")
_HYPERNYMS: Final = ("@", "@i")


@dataclass(frozen=True, slots=True)
class LexicalGraph:
    """Words with the node that each one names and the distances from each node up to its ancestors.

    ``ancestors[i]`` maps every ancestor of word i's node, itself at 0, to the number of edges on the shortest
    way up. Two words of one node are synonyms.
    """

    name: str
    words: tuple[str, ...]
    nodes: tuple[str, ...]
    ancestors: tuple[Mapping[str, int], ...]
    categories: Mapping[str, tuple[str, ...]]
    """The words by category: a lexicographer's file, or a branch of the tree."""

    def distances(self) -> torch.Tensor:
        """Returns the edges between the nodes of each pair of words, [n, n]; infinite without a common
        ancestor.

        The shortest way goes up from both to a common ancestor, as in the path similarity 1 / (1 + edges).
        """
        names = {name: at for at, name in enumerate(sorted({a for up in self.ancestors for a in up}))}
        up = torch.full((len(self.words), len(names)), torch.inf)
        for at, known in enumerate(self.ancestors):
            for name, edges in known.items():
                up[at, names[name]] = edges
        return torch.stack([(row + up).amin(1) for row in up]) if self.words else up.new_zeros(0, 0)


def wordnet_graph(folder: Path, words: Iterable[str]) -> LexicalGraph:
    """Reads the graph of the given words that are nouns alone, each by its first sense, from WordNet's files.

    A word that is a verb, an adjective or an adverb as well is left out: WordNet has nouns "have", "will" and
    "are", which no reader thinks of. A missing list of the others leaves no word out. Raises
    FileNotFoundError where ``index.noun`` or ``data.noun`` is missing, ValueError for a line that is not of
    WordNet's format.
    """
    wanted = set(words)
    for other in _OTHERS:
        wanted -= _lemmas(folder / other)
    senses: dict[str, str] = {}
    with (folder / "index.noun").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(" "):
                continue
            parts = line.split()
            if parts[0] in wanted:
                # lemma pos synset_cnt p_cnt [pointers] sense_cnt tagsense_cnt offset ...
                senses[parts[0]] = parts[6 + int(parts[3])]
    parents, files = _nouns(folder / "data.noun")
    found = sorted(senses)
    categories: dict[str, list[str]] = {}
    for word in found:
        categories.setdefault(files[senses[word]], []).append(word)
    return LexicalGraph(
        name="WordNet",
        words=tuple(found),
        nodes=tuple(senses[word] for word in found),
        ancestors=tuple(_upward(senses[word], parents) for word in found),
        categories={name: tuple(members) for name, members in categories.items()},
    )


def tree_graph(name: str, categories: Mapping[str, Sequence[str]]) -> LexicalGraph:
    """Builds a tree: a root, a node for each category ("animal/bird" is below "animal"), a leaf a word.

    A word of several categories hangs below each of them.
    """
    above: dict[str, dict[str, int]] = {}
    for path in categories:
        steps = path.split("/")
        for word in categories[path]:
            up = above.setdefault(word, {word: 0, "": len(steps) + 1})
            up[""] = min(up[""], len(steps) + 1)
            for edges, end in enumerate(range(len(steps), 0, -1), 1):
                node = "/".join(steps[:end]) + "/"
                up[node] = min(up.get(node, edges), edges)
    words = sorted(above)
    return LexicalGraph(
        name=name,
        words=tuple(words),
        nodes=tuple(words),
        ancestors=tuple(above[word] for word in words),
        categories={path: tuple(members) for path, members in categories.items()},
    )


def _lemmas(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8") as lines:
        return {line.split(" ", 1)[0] for line in lines if not line.startswith(" ")}


def _nouns(path: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Returns the hypernyms and the lexicographer's file of each noun synset, by offset."""
    parents: dict[str, tuple[str, ...]] = {}
    files: dict[str, str] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(" "):
                continue
            parts = line.split(" | ", 1)[0].split()
            number = int(parts[1]) - _FIRST_NOUN_FILE
            if not 0 <= number < len(NOUN_FILES):
                raise ValueError(f"{path.name}: synset {parts[0]} is of no file of nouns")
            first = 4 + 2 * int(parts[3], 16)
            pointers = parts[first + 1 : first + 1 + 4 * int(parts[first])]
            files[parts[0]] = NOUN_FILES[number]
            parents[parts[0]] = tuple(
                pointers[at + 1] for at in range(0, len(pointers), 4) if pointers[at] in _HYPERNYMS
            )
    return parents, files


def _upward(node: str, parents: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    known, edge, steps = {node: 0}, [node], 0
    while edge:
        steps += 1
        edge = [up for at in edge for up in parents[at] if up not in known]
        known.update((up, steps) for up in edge)
    return known
