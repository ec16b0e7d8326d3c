"""Families of sequences and groups of requests, and the keys that a waiting sequence can share with them.

Knows nothing of tensors.

A request's own sequence and its branches are a family; the choices of one prompt are a group of requests. The
full blocks of equal beginnings are found by their digests. Choices of one prompt also fork from each other:
whichever of them has the prompt in its blocks shares the full ones, and its part block is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .block_pool import BlockPool
from .prompt_figures import PromptFigures
from .sequence import Family, Sequence, family_of


@dataclass(frozen=True, slots=True)
class Beginning:
    """Keys of a sequence's first ``tokens``: in full blocks to share, the rest to be copied from ``part``."""

    blocks: list[int]
    tokens: int
    part: int | None = None
    forked: bool = False
    """the prompt came from another choice, nothing was looked up"""
    surprisals: list[float] | None = None
    """of the prompt's tokens, from another choice that knows them"""
    figures: PromptFigures | None = None
    """of the prompt's tokens, complete, from another choice"""


class Families:
    """The requests that have not been forgotten, by their id and by their group."""

    def __init__(self) -> None:
        self._by_id: dict[str, Family] = {}
        self._groups: dict[str, list[Family]] = {}

    def open(self, root: Sequence) -> None:
        """Begins a request. Raises ValueError for an id that is in use, and for a group of another prompt."""
        request = root.request
        if request.request_id in self._by_id:
            raise ValueError(f"request id {request.request_id!r} is in use")
        root.family = Family(root)
        if request.group is not None:
            group = self._groups.setdefault(request.group, [])
            if group and group[0].root.request.prompt_token_ids != request.prompt_token_ids:
                raise ValueError("the choices of a group must have the same prompt")
            group.append(root.family)
        self._by_id[request.request_id] = root.family

    def __iter__(self) -> Iterator[Family]:
        """Goes through the families, the oldest first."""
        return iter(tuple(self._by_id.values()))

    def root(self, request_id: str) -> Sequence | None:
        """Finds a request's own sequence. Returns None for a request that is unknown or was forgotten."""
        family = self._by_id.get(request_id)
        return None if family is None else family.root

    def mates(self, sequence: Sequence) -> list[Sequence]:
        """Lists the sequences of the other requests of a sequence's group."""
        return [
            mate
            for family in self._groups.get(sequence.request.group or "", [])
            if family is not sequence.family
            for mate in (family.root, *family.branches)
        ]

    @staticmethod
    def fork(parent: Sequence, count: int) -> list[Sequence]:
        """Makes branches that continue as ``parent`` does.

        Raises ValueError for one that ended or is unknown.
        """
        family = family_of(parent)
        if parent.ended is not None:
            raise ValueError("a sequence that has ended cannot be forked")
        made = [parent.fork(family.forked + 1 + i) for i in range(count)]
        family.forked += count
        family.branches += made
        return made

    def close(self, sequence: Sequence) -> list[Sequence]:
        """Forgets a branch, or a request with all its branches. Returns the sequences that were forgotten."""
        family = sequence.family
        if family is None:
            return []
        if sequence is family.root:
            forgotten = [sequence, *family.branches]
            family.branches = []
            del self._by_id[sequence.request.request_id]
            self._leave_group(family)
        else:
            forgotten = [sequence]
            family.branches.remove(sequence)
        for one in forgotten:
            one.family = None
        return forgotten

    def _leave_group(self, family: Family) -> None:
        name = family.root.request.group
        if name is not None:
            group = self._groups[name]
            group.remove(family)
            if not group:
                del self._groups[name]


class Sharing:
    """A search for the longest known beginning of a sequence, which takes nothing."""

    def __init__(self, pool: BlockPool, block_size: int, families: Families, caching: bool) -> None:
        """Keeps the places to search.

        ``caching``: whether blocks are looked up; choices share in any case.
        """
        self._pool = pool
        self._block_size = block_size
        self._families = families
        self._caching = caching

    def find(self, sequence: Sequence) -> Beginning | None:
        """Finds the keys that a waiting sequence can begin with.

        At least one token is left to compute, because its logits are wanted. Returns None where the sequence
        should wait for another choice's prompt.
        """
        prompt = min(sequence.prompt_length, len(sequence.tokens) - 1)
        mates = [mate for mate in self._families.mates(sequence) if mate.slot >= 0]
        donor = next((mate for mate in mates if self._gives(mate, sequence)), None)
        if donor is None and mates:
            # it computes the prompt now: every step brings it nearer to its end
            return None
        blocks = self._cached(sequence) if donor is None or prompt < len(sequence.tokens) - 1 else []
        if donor is None or len(blocks) * self._block_size >= prompt:
            return Beginning(blocks, len(blocks) * self._block_size)
        full, rest = divmod(prompt, self._block_size)
        part = donor.blocks[full] if rest else None
        known = None if donor.surprisals is None else donor.surprisals[: sequence.prompt_length]
        return Beginning(donor.blocks[:full], prompt, part, True, known, donor.prompt_figures)

    @staticmethod
    def _gives(mate: Sequence, sequence: Sequence) -> bool:
        """Tells whether a mate has the keys of the prompt, and the figures of it that a sequence lacks."""
        wanted, known = sequence.prompt_figures, mate.prompt_figures
        told = wanted is None or wanted.complete or (known is not None and known.complete)
        return told and mate.computed >= sequence.prompt_length

    def _cached(self, sequence: Sequence) -> list[int]:
        """Lists the longest chain of known blocks that a sequence begins with, its last token left out.

        None for a sequence that wants token costs, or lacks log probabilities of its prompt: both come with
        computing it.
        """
        found: list[int] = []
        if self._caching and not sequence.lacks_prompt:
            for index in range((len(sequence.tokens) - 1) // self._block_size):
                block = self._pool.find(sequence.digest(index, self._block_size))
                if block is None:
                    break
                found.append(block)
        return found
