"""The writing of safe text to the terminal, with colours where the terminal has them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import Final, TextIO

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from .escaping import printable
from .sparkline import ASCII_BARS, BARS

_SYSTEMS: Final = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
}
_ERASE_LINE: Final = "\r\x1b[K"
QUIET: Final = Style(dim=True)
"""the style of notes"""

Pieces = Iterable[tuple[str, Style | None]]


class Screen:
    """The place that replies and notes are written to; nothing else writes to the terminal.

    Notes go where replies go in a terminal, and to the standard error where replies go into a file or a pipe,
    so that these hold the replies alone.
    """

    def __init__(self, out: TextIO | None = None, errors: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        errors = sys.stderr if errors is None else errors
        self.interactive = self._out.isatty()
        self._notes = self._out if self.interactive else errors
        # rich knows NO_COLOR, TERM and COLORTERM, and how a colour looks in a terminal with fewer
        console = Console(file=self._out)
        plain = console.no_color or not self.interactive
        self._colours = None if plain else _SYSTEMS.get(console.color_system or "")
        self._moves = self.interactive and not console.is_dumb_terminal
        self._status = ""
        self._column = 0

    @property
    def coloured(self) -> bool:
        """True where colours are shown."""
        return self._colours is not None

    @property
    def width(self) -> int:
        """Returns the columns of the terminal."""
        return max(20, shutil.get_terminal_size().columns)

    @property
    def bars(self) -> str:
        """Returns the bars of a sparkline that the terminal's encoding has."""
        return BARS if self._encodable(self._notes, BARS) else ASCII_BARS

    def write(self, text: str, style: Style | None = None) -> None:
        """Writes a stretch of a reply."""
        self._clear_status()
        self._put(self._out, text, style)
        self._column = 0 if text.endswith("\n") else self._column + len(text)

    def end_reply(self) -> None:
        """Ends the last line of a reply, if anything stands in it."""
        self._clear_status()
        if self._column:
            self._put(self._out, "\n", None)
        self._column = 0

    def note(self, text: str, style: Style | None = QUIET) -> None:
        """Writes a line that is no part of a reply."""
        self.note_pieces([(text, style)])

    def note_pieces(self, pieces: Pieces) -> None:
        """Writes a line of several styles that is no part of a reply."""
        self._clear_status()
        for text, style in pieces:
            self._put(self._notes, text, style)
        self._put(self._notes, "\n", None)

    def status(self, text: str) -> None:
        """Shows a text until anything else is written; nothing where lines cannot be erased."""
        if self._moves and not self._column and text != self._status:
            self._out.write(_ERASE_LINE)
            self._put(self._out, text[: self.width - 1], QUIET)
            self._status = text

    def _clear_status(self) -> None:
        if self._status:
            self._out.write(_ERASE_LINE)
            self._status = ""

    def _put(self, to: TextIO, text: str, style: Style | None) -> None:
        safe = printable(text)
        if not self._encodable(to, safe):
            encoding = to.encoding or "ascii"
            safe = safe.encode(encoding, errors="backslashreplace").decode(encoding)
        if style is None or self._colours is None:
            to.write(safe)
        else:
            # a coloured ground must end with its line
            lines = safe.split("\n")
            to.write("\n".join(style.render(line, color_system=self._colours) for line in lines))
        to.flush()

    @staticmethod
    def _encodable(to: TextIO, text: str) -> bool:
        try:
            text.encode(to.encoding or "ascii")
        except UnicodeEncodeError:
            return False
        return True
