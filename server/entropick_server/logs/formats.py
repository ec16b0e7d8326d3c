"""The two forms of a line of the log: text, and JSON. A line is one line, whatever is written into it."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal

from ..redaction import redacted

LogFormat = Literal["text", "json"]
request_id: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
"""the id of the HTTP request whose task runs; asyncio gives each task its own"""
FIELDS: Final = "fields"
"""the ``extra`` of a log call that holds further fields of the line"""
_PLAIN: Final = re.compile(r"[\w.:/{}<>@-]+", re.ASCII)
_MESSAGE_LIMIT: Final = 200
_TOLD: Final = (RuntimeError, OSError, MemoryError)
"""errors of the machine, whose messages are told; those of other kinds may quote what a client sent"""


def one_line(text: str) -> str:
    """Escapes every character that does not print: line ends, the escape of terminals, direction marks."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def describe(error: BaseException) -> str:
    """Returns an error as a line: its type, its message where that is the machine's, and its place.

    The message is without paths and addresses; places are file names without folders.
    """
    text = type(error).__name__
    if isinstance(error, _TOLD) and (message := redacted(str(error))):
        text += f": {message[:_MESSAGE_LIMIT]}"
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{frame.filename.replace(chr(92), '/').rpartition('/')[2]}:{frame.lineno}" for frame in frames]
    return one_line(text) + (f" at {' > '.join(places)}" if places else "")


class _Formatter(logging.Formatter):
    """A formatter that tells an error in a line, and its trace in debugging alone."""

    def __init__(self, traces: bool) -> None:
        super().__init__()
        self._traces = traces

    def _told(self, record: logging.LogRecord) -> dict[str, Any]:
        """Returns the fields of a record beside its message."""
        told: dict[str, Any] = dict(getattr(record, FIELDS, {}))
        if (current := request_id.get()) is not None:
            told.setdefault("request_id", current)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            told["error"] = describe(error)
        return told

    def _trace(self, record: logging.LogRecord) -> str | None:
        if not self._traces or not record.exc_info:
            return None
        return self.formatException(record.exc_info)


class TextFormatter(_Formatter):
    """A formatter of lines ``LEVEL logger: message name=value ...``; in debugging a trace follows."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record."""
        line = f"{record.levelname} {record.name}: {one_line(record.getMessage().rstrip())}"
        line += "".join(f" {name}={_value(value)}" for name, value in self._told(record).items())
        trace = self._trace(record)
        return line if trace is None else "\n".join([line, *map(one_line, trace.splitlines())])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{number}" for name, number in value.items())
    text = f"{value:.6f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class JsonFormatter(_Formatter):
    """A formatter of lines that are one JSON object each, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().rstrip(),
            **self._told(record),
        }
        if (trace := self._trace(record)) is not None:
            line["trace"] = trace
        return json.dumps(line, default=str)


class _Handler(logging.StreamHandler[Any]):
    """A handler of standard error, whose failure ends no request: a full disk loses lines, nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drops a line that cannot be written."""


def configure_logging(form: LogFormat, level: str) -> None:
    """Sets the form and the level of all lines of this process, unless its root logger has a handler."""
    handler = _Handler(sys.stderr)
    kind = TextFormatter if form == "text" else JsonFormatter
    handler.setFormatter(kind(traces=level == "debug"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
