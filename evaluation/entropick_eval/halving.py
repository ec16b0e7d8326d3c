"""Successive halving: many arms on few items, the better half of them on twice as many, and so on.

Jamieson and Talwalkar (2016). Only the fit half is used, so the test half stays unseen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

from .comparison import Scored
from .tasks import Item


def rungs(items: Sequence[Item], arms: int, smallest: int = 40) -> list[list[Item]]:
    """Returns growing sets of items, each with every family in its share; the last set is all of them.

    There are as many sets as halvings lead from ``arms`` to one arm, each half as large as the next, none
    smaller than ``smallest`` items.
    """
    ordered = _interleaved(items)
    sizes = [len(ordered)]
    while len(sizes) <= math.log2(max(1, arms)) and sizes[0] // 2 >= smallest:
        sizes.insert(0, sizes[0] // 2)
    return [ordered[:size] for size in sizes]


def _interleaved(items: Sequence[Item]) -> list[Item]:
    """Returns the items in an order whose every beginning has each family in about its share."""
    families: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda one: hashlib.sha256(one.id.encode()).digest()):
        families.setdefault(item.family, []).append(item)
    placed = [
        ((at + 0.5) / len(members), name, item)
        for name, members in families.items()
        for at, item in enumerate(members)
    ]
    return [item for _, _, item in sorted(placed, key=lambda one: one[:2])]


def survivors(scored: Mapping[str, Mapping[str, Scored]], kept: Sequence[str]) -> list[str]:
    """Returns the better half of the arms, and all of ``kept``, in the order that they had.

    An arm that no other arm beats in both accuracy and tokens counts before every arm that is beaten, so
    cheap arms survive beside accurate arms; then accuracy counts, then fewer tokens.
    """
    figures: dict[str, tuple[float, float]] = {}
    for name, found in scored.items():
        if found:
            count = len(found)
            figures[name] = (
                math.fsum(one.correct for one in found.values()) / count,
                math.fsum(one.spent for one in found.values()) / count,
            )
    competing = [name for name in figures if name not in kept]

    def rank(name: str) -> tuple[bool, float, float]:
        accuracy, spent = figures[name]
        beaten = any(a > accuracy and s < spent for a, s in figures.values())
        return (beaten, -accuracy, spent)

    best = set(sorted(competing, key=rank)[: math.ceil(len(competing) / 2)])
    return [name for name in scored if name in best or name in kept]
