"""Writes docs/fields.md, the page of the request fields, from their table: python tools/fields_page.py."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Final

from entropick_server.protocol.fields import FIELDS, SERVERS, Field, Standing

PAGE: Final = Path(__file__).parents[1] / "docs" / "fields.md"
_HEAD: Final = """\
# Request fields

What this server does with the fields that OpenAI, vLLM, SGLang, TGI and llama.cpp know. Written from the
table in `server/entropick_server/protocol/fields.py` by `tools/fields_page.py`.

- **served**: acted on; for limits see [the HTTP API](api.md#request-fields).
- **refused**: a 400 with code `unsupported_parameter` that names the field, because the answer would be
  another than the one asked for. Null passes, and so does a value that asks for nothing, where the
  table has one.
- **ignored**: accepted without effect; the answer is the same without it.

Any other field is ignored, except inside `entropick`. Fields of the messages are under `messages[]`.

| field | known to | in | here | passes | instead |
|---|---|---|---|---|---|
"""


def page() -> str:
    """Returns the text of the page."""
    rows = sorted(FIELDS, key=lambda row: (row.name.lower(), row.standing.value))
    lines = [_line(row) for _, group in groupby(rows, key=_same_line) for row in [_merged(list(group))]]
    return _HEAD + "\n".join(lines) + "\n"


def _same_line(row: Field) -> tuple[str, Standing]:
    return row.name, row.standing


def _merged(rows: list[Field]) -> Field:
    """Returns rows of one name and standing as one."""
    places = tuple(place for row in rows for place in row.places)
    known = "".join(letter for letter in SERVERS if any(letter in row.of for row in rows))
    return rows[0]._replace(places=places, of=known)


def _line(row: Field) -> str:
    known = ", ".join(SERVERS[letter] for letter in row.of)
    places = ", ".join(f"`{place.value}`" for place in row.places)
    passes = ", ".join(f"`{json.dumps(value)}`" for value in row.harmless)
    return f"| `{row.name}` | {known} | {places} | {row.standing.value} | {passes} | {row.instead} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
