"""The bound on the values that a body holds, counted in its bytes: a body beyond it is refused unparsed.

Parsing costs little for a long text and much for a million lists: each becomes an object of Python's, which
is made, checked, walked by the garbage collector and freed. So values are counted first. Few bodies have more
commas and brackets than any field may hold; of these a text may be full, so they are counted again outside of
strings, field by field. Of a body that is no JSON the count means nothing; the parser refuses what passes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import bad_request, shown

MAX_IDS: Final = 1 << 19
"""token ids in a list, and values in a body: 64 prompts of 8,192"""
MAX_KEPT: Final = 1 << 17
"""token ids of a reply that a request goes on behind"""
MAX_MESSAGES: Final = 4096
MAX_FIELDS: Final = 512
"""fields of a body, unknown ones too"""
_BLOCK: Final = 1 << 16
"""bytes that are looked at together: the first block that holds too much ends the count"""


class Limit(NamedTuple):
    """The most that a field may hold, inner fields and all.

    ``values``: lists, objects, and what a comma parts. ``objects``: lists, objects and strings, the names of
    fields among them.
    """

    values: int
    objects: int


ORDINARY: Final = Limit(8_192, 8_192)
_NESTED: Final = Limit(1 << 16, 1 << 16)
_IDS: Final = Limit(MAX_IDS, 1_024)
LIMITS: Final[Mapping[str, Limit]] = {
    **dict.fromkeys(("messages", "input"), _NESTED),
    **dict.fromkeys(("tools", "response_format", "text"), _NESTED),
    **dict.fromkeys(("structured_outputs", "guided_json", "guided_choice"), _NESTED),
    **dict.fromkeys(("prompt", "tokens", "allowed_token_ids"), _IDS),
    "entropick": Limit(MAX_KEPT, 1_024),
}
"""field -> its limit, where it is not ``ORDINARY``"""
WHOLE: Final = Limit(MAX_IDS + 1_024, 1 << 17)
"""of a body"""
_LONGEST: Final = 128
"""bytes of a name that are looked at; a longer one is no known field's"""
_NAME: Final = re.compile(rb'"([^"]*)"\s*\Z')
_Mask = NDArray[np.bool_]


class Budget:
    """The values that the JSON texts inside of a body (the arguments of past calls) may hold together."""

    def __init__(self, values: int = _NESTED.values) -> None:
        self._most = self._left = values

    def take(self, text: str) -> None:
        """Counts the values in a text, before anything parses it. Raises ValueError."""
        data = text.encode()
        held = _marks(data)
        if held > self._left:
            held, inside = 0, 0
            for block in _without_escapes(data):
                parts = block.split(b'"')
                held += _marks(b"".join(parts[inside::2]))
                inside ^= (len(parts) - 1) & 1
                if held > self._left:
                    raise ValueError(f"may hold at most {self._most} values, in all calls together")
        self._left -= held


def check_shape(body: bytes) -> None:
    """Raises the 400 that names the first field which holds too much."""
    if len(body) <= ORDINARY.values or _marks(body) <= ORDINARY.values:
        return
    count = _Count()
    for block in _without_escapes(body):
        count.add(block)


def _marks(data: bytes) -> int:
    """Counts commas and opening brackets, wherever they stand."""
    return sum(map(data.count, (b",", b"[", b"{")))


def _without_escapes(body: bytes) -> Iterator[bytes]:
    """Yields a body in blocks without escaped backslashes and quotes: a quote left is the end of a string."""
    at = 0
    while at < len(body):
        block = body[at : at + _BLOCK]
        if (len(block) - len(block.rstrip(b"\\"))) % 2 and at + len(block) < len(body):
            block = block[:-1]  # the last backslash belongs to the next character
        at += len(block)
        yield block.replace(b"\\\\", b"").replace(b'\\"', b"")


class _Count:
    """The count of what a body holds, while its blocks come."""

    def __init__(self) -> None:
        self._inside = False
        """the last block ended inside of a string"""
        self._depth = 0
        """lists and objects that are open"""
        self._end = b""
        """the last bytes"""
        self._name = ""
        """of the field that is open; "": the body itself"""
        self._fields = 0
        self._held: defaultdict[str, Limit] = defaultdict(lambda: Limit(0, 0))
        self._whole = Limit(0, 0)

    def add(self, block: bytes) -> None:
        """Counts a block. Raises the 400."""
        joined = self._end + block
        self._end = joined[-_LONGEST:]
        if self._inside and b'"' not in block:
            return  # all of it is text
        data = np.frombuffer(block, np.uint8)
        quotes = data == ord('"')
        # an opening quote counts as inside of its string, a closing quote as outside
        inside = ((np.cumsum(quotes, dtype=np.uint8) + self._inside) & 1).astype(bool)
        opens = ((data == ord("[")) | (data == ord("{"))) & ~inside
        closes = ((data == ord("]")) | (data == ord("}"))) & ~inside
        depth = np.cumsum(opens.astype(np.int8) - closes.astype(np.int8), dtype=np.int32) + self._depth
        colons = np.flatnonzero((data == ord(":")) & ~inside & (depth == 1))
        self._fields += len(colons)
        if self._fields > MAX_FIELDS:
            raise bad_request(f"The body has more than {MAX_FIELDS} fields.")
        values = _between(opens | ((data == ord(",")) & ~inside), colons)
        objects = _between(opens | (quotes & inside), colons)
        for at, held in enumerate(map(Limit, values, objects)):
            if at:
                self._name = _name_before(joined, len(joined) - len(block) + int(colons[at - 1]))
            self._take(held)
        if len(block):
            self._inside, self._depth = bool(inside[-1]), int(depth[-1])

    def _take(self, more: Limit) -> None:
        """Adds what the open field holds."""
        name = self._name
        held = self._held[name] = _sum(self._held[name], more)
        self._whole = _sum(self._whole, more)
        _check(name, held, LIMITS.get(name, ORDINARY))
        _check("", self._whole, WHOLE)


def _sum(one: Limit, other: Limit) -> Limit:
    return Limit(one.values + other.values, one.objects + other.objects)


def _between(mask: _Mask, begins: NDArray[np.intp]) -> list[int]:
    """Counts the marks before the first of some places, and from each to the next."""
    places = np.searchsorted(np.flatnonzero(mask), begins)
    return [int(n) for n in np.diff(places, prepend=0, append=np.count_nonzero(mask))]


def _name_before(plain: bytes, colon: int) -> str:
    """Returns the name of the field whose colon stands at a place; "?" where it is long, or none."""
    found = _NAME.search(plain, max(0, colon - _LONGEST), colon)
    return found[1].decode(errors="replace") if found else "?"


def _check(name: str, held: Limit, most: Limit) -> None:
    """Raises the 400 where a field holds too much. ``name`` "": the body."""
    for number, limit, what in zip(held, most, ("values", "lists, objects and strings"), strict=True):
        if number > limit:
            field = shown(name)
            message = f"may hold at most {limit} {what} in all."
            raise bad_request(f"{field}: {message}" if field else f"The body {message}", field or None)
