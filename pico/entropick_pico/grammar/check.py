"""Whether a reply is right, and whether its steps are, whichever order it takes them in."""

import re
from typing import Final

from entropick_pico.grammar.latin import SIZE, filled
from entropick_pico.grammar.merging import merged
from entropick_pico.grammar.reply import Example

# The whole reply is the answer.
_WHOLE: Final = ("greeting", "json_fields", "call", "report", "no_tool")
_STEPS: Final = re.compile(r"(?:Take|Fill) (?P<steps>[^.]*)\. The answer is (?P<answer>[^.]*)\.")


def final_answer(reply: str) -> str:
    """Returns the answer a reply ends with: its last sentence without the words that introduce it."""
    sentences = [part for part in reply.strip().rstrip(".").split(". ") if part]
    last = sentences[-1] if sentences else ""
    return last.rsplit(" is ", 1)[-1].strip()


def right(example: Example, reply: str) -> bool:
    """True if ``reply`` answers ``example``; a scratchpad may differ as long as the answer is right."""
    if example.kind in _WHOLE:
        return reply == example.assistant
    return final_answer(reply) == example.gold


def faultless(example: Example, reply: str) -> bool:
    """True if the grammar may give ``reply``: every step holds, in any order, and so does the answer.

    For the kinds whose steps have no fixed order (sums, mix, latin, and their longer probes).
    """
    parts = _STEPS.fullmatch(reply)
    if parts is None or parts["answer"] != example.gold:
        return False
    kind, _, items = (example.key or "").partition(" ")
    if kind == "latin":
        return len(items) == SIZE * SIZE and filled(items, parts["steps"])
    if kind not in ("sums", "mix"):
        raise ValueError(f"a reply to {example.kind!r} has no steps in any order")
    return merged(kind, items.split(", " if kind == "mix" else " "), parts["steps"])
