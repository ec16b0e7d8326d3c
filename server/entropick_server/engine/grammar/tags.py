"""Pieces of JSON between fixed texts: the form in which replies call tools."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .spec import Grammar


@dataclass(frozen=True, slots=True)
class Tag:
    """A piece of a reply: the text ``begin``, JSON that follows ``schema``, the text ``end``."""

    begin: str
    schema: dict[str, Any]
    end: str = ""


@dataclass(frozen=True, slots=True)
class TaggedText:
    """A reply of one to ``at_most`` pieces, each like one of ``tags``, with ``between`` between two of them.

    Texts may hold special tokens of the model by their names.
    """

    tags: tuple[Tag, ...]
    at_most: int = 1
    between: str = ""

    def grammar(self) -> Grammar:
        """Returns the grammar of such replies."""
        tags = [{"begin": tag.begin, "schema": tag.schema, "end": tag.end} for tag in self.tags]
        return Grammar("tag", json.dumps({"tags": tags, "at_most": self.at_most, "between": self.between}))

    @classmethod
    def parse(cls, text: str) -> TaggedText:
        """Reads the text of a grammar of kind ``tag``."""
        values = json.loads(text)
        return cls(tuple(Tag(**tag) for tag in values["tags"]), values["at_most"], values["between"])
