"""Which inputs training may see, and which prompts calibration and checks may use."""

import hashlib
from typing import Final, Literal

from entropick_pico.grammar.reply import Example

Split = Literal["train", "calibration", "check"]
SPLITS: Final[tuple[Split, ...]] = ("train", "calibration", "check")


def _bucket(salt: str, text: str, buckets: int) -> int:
    digest = hashlib.sha256(f"{salt}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % buckets


def held_out(key: str) -> bool:
    """True if a task input (not its wording) is kept from training, as every eighth is."""
    return _bucket("input", key, 8) == 0


def half(user: str) -> Split:
    """Returns the half of the evaluation prompts to which a user text belongs."""
    return "check" if _bucket("prompt", user, 2) else "calibration"


def belongs(example: Example, split: Split) -> bool:
    """True if ``example`` may be drawn for ``split``."""
    fresh = example.key is None or held_out(example.key)
    if split == "train":
        return example.key is None or not fresh
    return fresh and half(example.user) == split
