"""Keeps results: a file for each model and arm, compressed JSON Lines, and a journal while results come.

A result is found by model, arm (its body's digest), item (id and digest), sample number and the digest of the
code. The journal is plain text that only grows, so that an interrupted run loses at most its last line;
:meth:`Store.fold` moves it into the compressed files, which are the same bytes for the same results. Features
that follow from a reply's signals are not written; they are computed when results are read.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from .arms import Arm
from .columns import ColumnError, from_text, rounded, to_text
from .features import features
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
FEATURE_DIGITS: Final = 3


def features_of(signals: Mapping[str, tuple[float | None, ...]]) -> dict[str, float]:
    """Returns the features of a reply's signals, rounded as results hold them."""
    return {name: round(value, FEATURE_DIGITS) for name, value in features(signals).items()}


@dataclass(frozen=True, slots=True)
class Stamp:
    """A record that results of older code were taken over because a random part of them came out the same."""

    codes: tuple[str, ...]
    """the digests that the results had"""
    to: str
    """the digest that they got"""
    date: str
    again: int
    """results that were computed again, all equal"""
    of: int
    """results that were stamped"""


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
        self._stamps: dict[str, list[Stamp]] = {}
        self._journal: TextIO | None = None

    def load(self, arms: Iterable[Arm]) -> None:
        """Reads the results of some arms, the journal of an interrupted run among them. Raises StoreError."""
        by_key = {arm.key: arm for arm in arms}
        self._arms |= by_key
        for key in by_key:
            found = self._found.setdefault(key, {})
            for path in sorted(self.folder.glob(f"*-{key}{_SUFFIX}")):
                head, results = _read_compressed(path)
                self._stamps[key] = [_stamp(one, path) for one in head.get("stamps", ())]
                found |= {result.key: result for result in results}
        for key, result in self._read_journal():
            if key in self._found:
                self._found[key][result.key] = result

    def get(self, arm: Arm, item: Item, sample: int, code: str | None) -> Result | None:
        """Returns a result; None where there is none of this very item and code (``code`` None: of any)."""
        result = self._found.get(arm.key, {}).get(Key(item.id, sample))
        if result is None or result.digest != item.digest or code not in (None, result.code):
            return None
        return result

    def results(self, arm: Arm) -> list[Result]:
        """Returns all results of an arm, of any item and code, in the order of items and samples."""
        return sorted(self._found.get(arm.key, {}).values(), key=lambda one: one.key)

    def stamps(self, arm: Arm) -> tuple[Stamp, ...]:
        """Returns the records of how older results of an arm were taken over, the oldest first."""
        return tuple(self._stamps.get(arm.key, ()))

    def stamp(self, arm: Arm, keys: Collection[Key], stamp: Stamp) -> None:
        """Gives some results of an arm the digest of another code, and writes the arm's file."""
        own = self._found[arm.key]
        for key in keys:
            own[key] = replace(own[key], code=stamp.to)
        self._stamps.setdefault(arm.key, []).append(stamp)
        self.write(arm)

    def write(self, arm: Arm) -> None:
        """Writes the compressed file of an arm."""
        self._arms[arm.key] = arm
        found = self._found.get(arm.key, {})
        _write_compressed(self._path(arm), arm, found.values(), self._stamps.get(arm.key, ()))

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
        for arm in named.values():
            self.write(arm)
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
    known = features_of(result.signals)
    row = asdict(result) | {
        "features": {name: value for name, value in result.features.items() if name not in known},
        "signals": {name: to_text(name, column) for name, column in result.signals.items()},
    }
    return {name: value for name, value in row.items() if value not in (None, {})}


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
        signals = {
            # a list of numbers: as the first version of this module wrote a column
            name: from_text(name, column) if isinstance(column, str) else rounded(name, column)
            for name, column in given["signals"].items()
        }
        # those of the answer are taken anew from the signals, by the check of the day (collect.to_voter)
        own = {name: value for name, value in given["features"].items() if not name.startswith("answer_")}
        return Result(**given | {"signals": signals, "features": own | features_of(signals)})
    except (TypeError, ColumnError) as error:
        raise StoreError(f"{path}: a result without all of its fields: {error}") from error


def _stamp(row: Mapping[str, Any], path: Path) -> Stamp:
    try:
        return Stamp(**{**row, "codes": tuple(row["codes"])})
    except (TypeError, KeyError) as error:
        raise StoreError(f"{path}: a stamp without all of its fields: {error}") from error


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


def _read_compressed(path: Path) -> tuple[Mapping[str, Any], Iterator[Result]]:
    """Returns the first line of an arm's file, which describes the arm, and its results."""
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    rows = _lines(path, text)
    return next(rows, {}), (_result(row, path) for row in rows)


def _write_compressed(path: Path, arm: Arm, results: Iterable[Result], stamps: Sequence[Stamp]) -> None:
    """Writes a file whole or not at all: the arm, then its results in the order of items and samples."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
        head = {"arm": arm.key, "name": arm.name, "body": arm.body}
        shown = {"stamps": [asdict(stamp) for stamp in stamps]} if stamps else {}
        file.write(_line({**head, **shown}).encode())
        for result in sorted(results, key=lambda one: one.key):
            file.write(_line(_row(result)).encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(packed.getvalue())
    os.replace(unfinished, path)
