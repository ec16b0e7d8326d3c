"""Names for full pages: a page's digest says its tokens and all tokens before them.

Two sequences whose pages carry the same digest have the same keys and values in them, because a causal
model's keys depend on the tokens before them and on nothing that a request can ask for.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence


def page_digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The digest (BLAKE2b, 256 bits) of a page with ``tokens`` behind a page with digest ``parent``.

    ``parent`` is empty for a sequence's first page.
    """
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=32).digest()
