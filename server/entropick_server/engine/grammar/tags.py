"""Pieces of JSON between fixed texts: the form in which replies call tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
    """A reply of 1 to ``at_most`` pieces, each like a tag of ``tags``, with ``between`` between two pieces.

    Texts may hold special tokens of the model by their names. ``otherwise``: the JSON text of a schema; the
    reply may be JSON that follows it instead.
    """

    tags: tuple[Tag, ...]
    at_most: int = 1
    between: str = ""
    otherwise: str | None = None

    def grammar(self) -> Grammar:
        """Returns the grammar of such replies."""
        tags = [{"begin": tag.begin, "schema": tag.schema, "end": tag.end} for tag in self.tags]
        rest = {"at_most": self.at_most, "between": self.between, "otherwise": self.otherwise}
        return Grammar("tag", json.dumps({"tags": tags, **rest}))

    @classmethod
    def parse(cls, text: str) -> TaggedText:
        """Reads the text of a grammar of kind ``tag``."""
        values = json.loads(text)
        return cls(tuple(Tag(**tag) for tag in values.pop("tags")), **values)

    def lark(self, layout: Mapping[str, Any], special: Mapping[str, int]) -> str:
        """Returns the grammar in llguidance's form of Lark.

        ``layout``: llguidance's options of how JSON is written; ``special``: the names of the model's special
        tokens.
        """
        rules = []
        for number, tag in enumerate(self.tags):
            schema = json.dumps({"x-guidance": layout, **tag.schema})
            begin, end = _literal(tag.begin, special), _literal(tag.end, special)
            rules.append(f"tag_{number}: {begin} %json {schema} {end}")
        one = " | ".join(f"tag_{number}" for number in range(len(self.tags)))
        between = _literal(self.between, special)
        more = f" ({between} one){{0,{self.at_most - 1}}}" if self.at_most > 1 else ""
        either = ""
        if self.otherwise is not None:
            schema = json.loads(self.otherwise)
            whole = json.dumps({"x-guidance": layout, **(schema if isinstance(schema, dict) else {})})
            either = " | whole"
            rules.append(f"whole: %json {whole}")
        return "\n".join((f"start: calls{either}", f"calls: one{more}", f"one: {one}", *rules)) + "\n"


def _literal(text: str, special: Mapping[str, int]) -> str:
    """Returns a fixed text in the form of Lark, special tokens by their ids."""
    names = sorted((name for name in special if name and name in text), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return " ".join(
        f"<[{special[part]}]>" if part in special else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )
