"""Keeps results: a file for each model and arm, compressed JSON Lines, and a journal while results come.

A result is found by model, arm (its body's digest), item (id and digest), sample number and the digest of the
code. The journal is plain text that only grows, so that an interrupted run loses at most its last line;
:meth:`Store.fold` moves it into the compressed files, which are the same bytes for the same results.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from .arms import Arm
from .tasks import Item

JOURNAL: Final = "journal.jsonl"
_SUFFIX: Final = ".jsonl.gz"


class StoreError(ValueError):
    """An error in the files of results; the message names the file and the line."""


class Key(NamedTuple):
    """The place of a result among the results of a model and an arm."""

    item: str
    sample: int


@dataclass(frozen=True, slots=True)
class Result:
    """A reply that was computed, with its cost and its figures."""

    item: str
    digest: str
    """of the item"""
    sample: int
    code: str
    """a digest of the code, and of the profile where the arm reads it"""
    seed: int
    text: str
    finish: str
    tokens: int
    spent: int
    """all generated tokens, of losing branches and replies too"""
    correct: bool | None
    """as it was graded when it was computed; None for an open prompt"""
    latency: float
    """seconds"""
    features: Mapping[str, float]
    signals: Mapping[str, tuple[float | None, ...]]

    @property
    def key(self) -> Key:
        """Returns the place of the result."""
        return Key(self.item, self.sample)


_NAMES: Final = tuple(field.name for field in fields(Result))


def arm_file(arm: Arm) -> str:
    """Returns the name of an arm's file: a readable beginning and the digest of the body."""
    readable = re.sub(r"[^a-z0-9]+", "-", arm.name.lower()).strip("-")[:40]
    return f"{readable or 'arm'}-{arm.key}{_SUFFIX}"


class Store:
    """The results of one model in a folder."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder / model
        self._arms: dict[str, Arm] = {}
        self._found: dict[str, dict[Key, Result]] = {}
        self._journal: TextIO | None = None

    def load(self, arms: Iterable[Arm]) -> None:
        """Reads the results of some arms, the journal of an interrupted run among them. Raises StoreError."""
        by_key = {arm.key: arm for arm in arms}
        self._arms |= by_key
        for key in by_key:
            found = self._found.setdefault(key, {})
            for path in sorted(self.folder.glob(f"*-{key}{_SUFFIX}")):
                found |= {result.key: result for result in _read_compressed(path)}
        for key, result in self._read_journal():
            if key in self._found:
                self._found[key][result.key] = result

    def get(self, arm: Arm, item: Item, sample: int, code: str | None) -> Result | None:
        """Returns a result; None where there is none of this very item and code (``code`` None: of any)."""
        result = self._found.get(arm.key, {}).get(Key(item.id, sample))
        if result is None or result.digest != item.digest or code not in (None, result.code):
            return None
        return result

    def add(self, arm: Arm, result: Result) -> None:
        """Appends a result to the journal, where it outlives this process."""
        if self._journal is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / JOURNAL
            whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
            self._journal = path.open("a", encoding="utf-8")
            if not whole:  # the last line of a killed process
                self._journal.write("\n")
        self._arms[arm.key] = arm
        self._found.setdefault(arm.key, {})[result.key] = result
        line = {"arm": arm.key, "name": arm.name, "body": arm.body, **_row(result)}
        self._journal.write(_line(line))
        self._journal.flush()

    def close(self) -> None:
        """Closes the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def fold(self) -> None:
        """Writes the compressed file of every arm that the journal names, and removes the journal."""
        self.close()
        path = self.folder / JOURNAL
        if not path.exists():
            return
        named = {}
        for line in _lines(path, path.read_text(encoding="utf-8"), torn=True):
            named[str(line["arm"])] = Arm(str(line["name"]), line["body"])
        self.load(named.values())
        for key in named:
            _write_compressed(self._path(named[key]), named[key], self._found[key].values())
        path.unlink()

    def _path(self, arm: Arm) -> Path:
        # an arm that was renamed keeps its file
        return next(iter(sorted(self.folder.glob(f"*-{arm.key}{_SUFFIX}"))), self.folder / arm_file(arm))

    def _read_journal(self) -> Iterator[tuple[str, Result]]:
        path = self.folder / JOURNAL
        if path.exists():
            for line in _lines(path, path.read_text(encoding="utf-8"), torn=True):
                yield str(line["arm"]), _result(line, path)


def _row(result: Result) -> dict[str, Any]:
    return {name: value for name, value in asdict(result).items() if value not in (None, {})}


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _result(row: Mapping[str, Any], path: Path) -> Result:
    given = {
        "correct": None,
        "features": {},
        "signals": {},
        **{name: row[name] for name in _NAMES if name in row},
    }
    try:
        result = Result(**given)
    except TypeError as error:
        raise StoreError(f"{path}: a result without all of its fields: {error}") from error
    signals = {name: tuple(values) for name, values in result.signals.items()}
    return Result(**{**given, "signals": signals})


def _lines(path: Path, text: str, torn: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the objects of JSON Lines; ``torn`` leaves out a line that is no JSON, whose write was cut."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            if torn:
                continue
            raise StoreError(f"{path}:{number}: not a JSON object: {error}") from error
        if not isinstance(found, dict):
            raise StoreError(f"{path}:{number}: not a JSON object")
        yield found


def _read_compressed(path: Path) -> Iterator[Result]:
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    rows = _lines(path, text)
    next(rows, None)  # the arm, for readers
    for row in rows:
        yield _result(row, path)


def _write_compressed(path: Path, arm: Arm, results: Iterable[Result]) -> None:
    """Writes a file whole or not at all: the arm, then its results in the order of items and samples."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
        file.write(_line({"arm": arm.key, "name": arm.name, "body": arm.body}).encode())
        for result in sorted(results, key=lambda one: one.key):
            file.write(_line(_row(result)).encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(packed.getvalue())
    os.replace(unfinished, path)
