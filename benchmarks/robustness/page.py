"""The page docs/robustness.md: bad inputs with what came back, faults with the figures before and after."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from .cases import Row
from .rows import ROOT, Shown
from .trial import Result, Trial

PATH: Final = ROOT / "docs" / "robustness.md"
_INTRODUCTION: Final = """\
# What the server does with bad input, load and faults

`make robustness` writes this page: it starts servers of the shipped model on loopback, each in a process of
its own, sends everything that is listed here, and notes what came back. Behind every request the good one
follows: a short chat whose text must be the text that it had at first.

## Bad input

Every refusal has OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, names the field and the
limit, and repeats no more than 40 characters of what came. A status without a number is the fate of the
connection. A line that names a test is shown by that test, which the command ran: no client can bring it
about.
"""
_FAULTS: Final = """\
## Load and faults

Each of these was seen on this server. `before` is the figure from then, `now` the figure of the run that
wrote this page; times are those of {processor}, on which the clients ran as well. The trials
bound them only generously (`make test-load` runs them as tests): they check that others are served, that
memory, blocks and sockets are given back, and what the log and the exit code say.
"""
_MODEL_NAME: Final = re.compile(r"^model name\s*: (.*)$", re.M)
_ROW: Final = re.compile(r"^\| (\d+) \| (.*?) \| ", re.M)


def escaped(text: str) -> str:
    """Returns a text for a cell of a table."""
    return text.replace("|", "\\|")


def bad_inputs(lines: Iterable[Shown]) -> str:
    """Returns the table of bad inputs."""
    ordered = sorted(lines, key=lambda line: line.row.number)
    out = [
        "| # | input | expected | status | what came back | next request |",
        "|---|---|---|---|---|---|",
    ]
    for line in ordered:
        cells = (
            str(line.row.number),
            f"{line.row.input}: {line.input}",
            line.row.expected,
            line.seen.status,
            ("" if line.held else "**not as expected**: ") + line.seen.body,
            line.next_served,
        )
        out.append(f"| {' | '.join(map(escaped, cells))} |")
    return "\n".join(out) + "\n"


def settings_table(rows: Iterable[Row]) -> str:
    """Returns the table of settings and the rows that each bounds."""
    bounds: dict[str, list[int]] = {}
    for row in rows:
        for name in row.bounded_by:
            bounds.setdefault(name, []).append(row.number)
    lines = ["| setting | bounds the rows |", "|---|---|"]
    lines += [f"| `{name}` | {', '.join(map(str, bounds[name]))} |" for name in sorted(bounds)]
    return "\n".join(lines) + "\n"


def faults(results: Sequence[tuple[Trial, Result]]) -> str:
    """Returns the tables of faults, one a group."""
    out = [_FAULTS.replace("{processor}", _processor())]
    for group in dict.fromkeys(one.group for one, _ in results):
        out += [f"### {group}\n", "| fault | before | now | command |", "|---|---|---|---|"]
        for one, result in results:
            if one.group == group:
                now = ("**not held**: " if result.held is False else "") + result.figures
                cells = (one.fault, one.before, now, f"`{one.command}`")
                out.append(f"| {' | '.join(map(escaped, cells))} |")
        out.append("")
    return "\n".join(out)


def page(rows: Sequence[Row], lines: Sequence[Shown], results: Sequence[tuple[Trial, Result]]) -> str:
    """Returns the whole page."""
    bounds = "Settings that bound them ([all settings](api.md)):\n"
    return "\n".join((_INTRODUCTION, bounds, settings_table(rows), bad_inputs(lines), faults(results)))


def inputs_of(text: str) -> list[tuple[int, str]]:
    """Returns the number and the input of every line of the table of bad inputs in a page's text."""
    return [(int(found[1]), found[2].replace("\\|", "|")) for found in _ROW.finditer(text)]


def inputs_of_rows(rows: Iterable[Row]) -> list[tuple[int, str]]:
    """Returns the number and the input of every line that the page must have."""
    return [(row.number, f"{row.input}: {shown}") for row in rows for shown in row.inputs]


def _processor() -> str:
    """Returns the cores and the name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    found = _MODEL_NAME.search(info.read_text()) if info.is_file() else None
    return (
        f"{os.cpu_count()} cores of {found[1] if found else platform.processor() or 'an unnamed processor'}"
    )
