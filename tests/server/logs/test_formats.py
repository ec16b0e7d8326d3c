"""The two forms of a line: one line whatever is in it, and what it tells of an error."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import pytest

from entropick_server.logs.formats import (
    FIELDS,
    JsonFormatter,
    TextFormatter,
    configure_logging,
    describe,
    request_id,
)

WILD = 'a\nb\r\x1b[31mred\x1b[0m\u2028\u202e\x00 "quoted" back\\slash é'


def record(message: str, error: BaseException | None = None, **fields: Any) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("name", logging.WARNING, "file.py", 1, message, None, info)
    if fields:
        setattr(made, FIELDS, fields)
    return made


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize("formatter", [TextFormatter(traces=False), JsonFormatter(traces=False)])
def test_a_line_is_one_line_of_printable_text(formatter: logging.Formatter) -> None:
    for made in (
        record(WILD),
        record("m", client=WILD, key="x y", seconds=0.25, reasons={"stop": 2, "length": 1}),
        record("m", raised(RuntimeError(WILD))),
        record("m", raised(ValueError(WILD))),
    ):
        line = formatter.format(made)
        assert line.isprintable()
        assert len(line.splitlines()) == 1


def test_json_keeps_what_was_logged() -> None:
    line = json.loads(JsonFormatter(traces=False).format(record(WILD, client=WILD, status=200)))
    assert (line["message"], line["client"], line["status"]) == (WILD, WILD, 200)
    assert (line["level"], line["logger"]) == ("warning", "name")
    assert line["time"].endswith("+00:00")


def test_text_quotes_what_could_be_taken_for_a_field() -> None:
    made = record(
        "done", client="1.2.3.4 key=root", key="alice", seconds=0.5, reasons={"stop": 2, "length": 1}
    )
    assert TextFormatter(traces=False).format(made) == (
        'WARNING name: done client="1.2.3.4 key=root" key=alice seconds=0.500000 reasons=stop:2,length:1'
    )


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
def test_an_error_is_a_line_and_in_debugging_a_trace(formatter: Any) -> None:
    made = record("it broke", raised(RuntimeError("no room in /srv/secret/place at 0x7f001122aabb")))
    line = formatter(traces=False).format(made)
    assert "RuntimeError: no room in <path> at <address> at test_formats.py:" in line
    for hidden in ("Traceback", "/srv", "0x7f00", "File "):
        assert hidden not in line
    assert "Traceback" in formatter(traces=True).format(made)


def test_messages_that_may_quote_a_client_are_left_out() -> None:
    assert describe(raised(KeyError("my prompt"))).startswith("KeyError at test_formats.py:")
    assert describe(ValueError("my prompt")) == "ValueError"
    assert describe(OSError(28, "No space left on device")).endswith("No space left on device")
    assert len(describe(RuntimeError("x" * 10_000))) < 250


def test_lines_of_a_request_have_its_id() -> None:
    token = request_id.set("mine")
    try:
        assert TextFormatter(traces=False).format(record("m")) == "WARNING name: m request_id=mine"
        assert json.loads(JsonFormatter(traces=False).format(record("m")))["request_id"] == "mine"
        assert "request_id=other" in TextFormatter(traces=False).format(record("m", request_id="other"))
    finally:
        request_id.reset(token)
    assert "request_id" not in TextFormatter(traces=False).format(record("m"))


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "stderr", Full())
    configure_logging("json", "info")
    (handler,) = root.handlers
    assert isinstance(handler.formatter, JsonFormatter)
    logging.getLogger("any").warning("lost")
