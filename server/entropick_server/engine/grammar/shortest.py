"""The length of the shortest text that a regular expression matches, without matching anything."""

from __future__ import annotations

import re
from typing import Final

_COUNT: Final = re.compile(r"\{(\d+)?(?:,\d*)?\}")
_NAMED: Final = re.compile(r"[pPxuU]\{[^}]*\}|p.|P.|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.", re.S)
_ANCHORS: Final = frozenset("bBAzZ")


def shortest(pattern: str) -> int:
    """Counts the characters of the shortest text that a valid regular expression matches.

    Never more than the true number: an unknown construct counts 0.
    """
    # the sums of the open groups, each with the least of the alternatives before
    best: list[int | None] = [None]
    sums: list[list[int]] = [[]]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "(":
            opening = re.compile(r"\?(?:P?<\w+>|[a-zA-Z-]*:)?").match(pattern, at)
            at = opening.end() if opening else at
            if opening and opening[0] == "?":
                # flags for the rest of the group, "(?i)", are an empty group
                at = max(at, pattern.find(")", at))
            best.append(None)
            sums.append([])
        elif char == ")" and len(sums) > 1:
            length = _least(best.pop(), sum(sums.pop()))
            sums[-1].append(length)
        elif char == "|":
            best[-1] = _least(best[-1], sum(sums[-1]))
            sums[-1] = []
        elif char in "*?":
            # "+?" and "{2}?" are lazy forms, whose least is then counted too low
            sums[-1][-1:] = [0]
        elif char == "{" and (count := _COUNT.match(pattern, at - 1)):
            at = count.end()
            if sums[-1]:
                sums[-1][-1] *= int(count[1] or 0)
        elif char == "[":
            at = _class_end(pattern, at)
            sums[-1].append(1)
        elif char == "\\" and (escape := _NAMED.match(pattern, at)):
            at = escape.end()
            sums[-1].append(0 if escape[0] in _ANCHORS else 1)
        elif char not in "^$+":
            sums[-1].append(1)
    return _least(best[0], sum(sums[0]))


def _least(before: int | None, here: int) -> int:
    return here if before is None else min(before, here)


def _class_end(pattern: str, at: int) -> int:
    """Finds the place behind the character class that was opened before ``at``; classes nest."""
    at += pattern[at : at + 1] == "^"
    # "]" as the first member stands for itself
    at += pattern[at : at + 1] == "]"
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "[":
            at = _class_end(pattern, at + 1)
        else:
            at += 2 if pattern[at] == "\\" else 1
    return at + 1
