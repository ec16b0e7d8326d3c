"""The parts of a reply: stretches of its reasoning and its text, and calls of tools."""

from __future__ import annotations

from typing import NamedTuple


class Text(NamedTuple):
    """A stretch of a reply's text, or of its reasoning."""

    text: str
    reasoning: bool = False


class Call(NamedTuple):
    """A call of a tool; ``arguments``: the JSON text of an object."""

    name: str
    arguments: str


Part = Text | Call
