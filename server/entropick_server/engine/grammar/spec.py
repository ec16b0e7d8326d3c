"""A grammar as a request names it: its kind and its text. Knows no library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "tag"]
GRAMMAR_KINDS: Final[tuple[GrammarKind, ...]] = get_args(GrammarKind)

ANY_OBJECT: Final = '{"type":"object"}'
"""the schema of ``json_object``"""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar that a whole reply follows. Filled by the protocol, compiled by a compiler of this package.

    ``text`` by kind: ``json_schema``: the JSON text of a schema; ``json_object``: not read; ``regex``: a
    regular expression that the whole reply matches; ``choice``: the JSON text of a list of strings, one of
    which is the reply; ``tag``: the JSON text of a :class:`~.tags.TaggedText`, pieces of JSON between fixed
    texts (tool calls).
    """

    kind: GrammarKind
    text: str = ""

    @property
    def schema(self) -> str | None:
        """Returns the JSON text of the schema that a reply of JSON follows; None for other replies."""
        if self.kind == "json_object":
            return ANY_OBJECT
        return self.text if self.kind == "json_schema" else None
