"""A sorted list of things whose places change one at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Place = TypeVar("Place", bound=tuple[int, ...])


class Ranked(Generic[Item, Place]):
    """Some items in the order of their places, which are all different.

    A change costs a binary search and the moving of a list's tail, where sorting anew would look at every
    item. No item may come or go while somebody goes through them.
    """

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._items: list[Item] = []
        self._place_of: dict[Item, Place] = {}

    def __len__(self) -> int:
        """Counts the items."""
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        """Goes through the items in order."""
        return iter(self._items)

    def put(self, item: Item, place: Place) -> None:
        """Puts an item in its place, and takes it out of the place that it had."""
        known = self._place_of.get(item)
        if known == place:
            return
        if known is not None:
            self._take(known)
        at = bisect_left(self._places, place)
        self._places.insert(at, place)
        self._items.insert(at, item)
        self._place_of[item] = place

    def remove(self, item: Item) -> None:
        """Takes an item out, if it is here."""
        known = self._place_of.pop(item, None)
        if known is not None:
            self._take(known)

    def from_place(self, begin: tuple[int, ...] = ()) -> Iterator[tuple[Place, Item]]:
        """Goes through the items whose places do not come before ``begin``, with their places."""
        for at in range(bisect_left(self._places, begin), len(self._items)):
            yield self._places[at], self._items[at]

    def _take(self, place: Place) -> None:
        at = bisect_left(self._places, place)
        del self._places[at], self._items[at]
