"""User prompts by combination: an opener, one of several cores, a closer."""

import random
from collections.abc import Sequence
from typing import Final

OPENERS: Final = (
    "Hey, ",
    "Say, ",
    "Well, ",
    "So, ",
    "Hi! ",
    "Quick one: ",
    "A question: ",
    "Next: ",
    "One more thing: ",
    "Excuse me, ",
    "I wonder: ",
    "My friend asks: ",
)
CLOSERS: Final = (" Thanks.", " Please.", " Thank you!", " Be quick.", " I am curious.", " Go on.")
_SENTENCE_ENDS: Final = ("! ", ": ", ". ")


def ask(rng: random.Random, cores: Sequence[str]) -> str:
    """Returns a prompt: half the time bare, else with an opener, a closer or both."""
    core = rng.choice(cores)
    opener = rng.choice(OPENERS) if rng.random() < 0.4 else ""
    closer = rng.choice(CLOSERS) if rng.random() < 0.25 else ""
    if not opener or opener.endswith(_SENTENCE_ENDS):
        core = core[0].upper() + core[1:]
    return opener + core + closer
