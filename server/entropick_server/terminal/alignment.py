"""Which stretch of a streamed text belongs to which token."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

_BYTES: Final = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")
"""the label of a token that is part of a character"""

Row = Mapping[str, Any]


class Stretch(NamedTuple):
    """A stretch of text with the row of its token; None where the token is not known.

    ``reasoning``: the model's, before its answer.
    """

    text: str
    row: Row | None
    reasoning: bool = False


def token_bytes(row: Row) -> bytes:
    """Returns the bytes that a token adds to the text; none for the end of a reply."""
    label = str(row.get("token", ""))
    if row.get("eos") or row.get("stop"):
        return b""
    if found := _BYTES.fullmatch(label):
        return bytes(ast.literal_eval(f"b'{found[1]}'"))
    return label.encode(errors="replace")


class Aligner:
    """The tokens of a reply beside its text, as both arrive.

    A chunk brings the rows of the tokens whose last byte it releases. Text that it releases of a later token
    waits for that token's row; a character that several tokens make up is one stretch, with the last of their
    rows.
    """

    def __init__(self) -> None:
        self._waiting = b""
        self._begun = False

    def push(self, text: str, rows: Sequence[Row]) -> list[Stretch]:
        """Takes a chunk and returns the stretches that it completes, in order."""
        self._waiting += text.encode(errors="replace")
        stretches: list[Stretch] = []
        done = begin = 0
        unlike = False
        for row in rows:
            own = token_bytes(row)
            if not self._begun and self._waiting[:1] != b" ":
                own = own.lstrip(b" ")  # some tokenizers drop the space before the first word
            if not self._waiting.startswith(own, done):
                # a special token, or bytes that are no text: the text tells another length than the label
                unlike = True
                continue
            done += len(own)
            self._begun = self._begun or done > 0
            if done > begin and _ends_a_character(self._waiting, done):
                stretches.append(Stretch(self._waiting[begin:done].decode(errors="replace"), row))
                begin = done
        self._waiting = self._waiting[begin:]
        if unlike and self._waiting:
            stretches.append(Stretch(self._waiting.decode(errors="replace"), rows[-1]))
            self._waiting, self._begun = b"", True
        return stretches

    def finish(self) -> list[Stretch]:
        """Returns the text that still waits, which belongs to no row."""
        text, self._waiting = self._waiting.decode(errors="replace"), b""
        return [Stretch(text, None)] if text else []


def _ends_a_character(data: bytes, at: int) -> bool:
    return at >= len(data) or data[at] & 0xC0 != 0x80
