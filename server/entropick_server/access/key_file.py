"""The file of keys: a line ``name: key`` for each, read again when it changes."""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from typing import Final

MAX_KEYS: Final = 1000
"""keys of one file: every request is compared with all of them"""
_MAX_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY: Final = re.compile(r"[!-~]{8,512}")
"""what a header carries unchanged"""
_log = logging.getLogger(__name__)

Stamp = tuple[int, int, int]
"""inode, bytes and time of the last change of a file, in nanoseconds"""


class KeyFileError(ValueError):
    """An error in a file of keys; the message names the line and never a key."""


def check_key(key: str) -> None:
    """Raises KeyFileError for a key that no header can carry, which would lock its caller out."""
    if not re.fullmatch(r"[!-~]{1,512}", key):
        raise KeyFileError("must be 1 to 512 printable ASCII characters without spaces")


def parse_keys(text: str) -> list[tuple[str, str]]:
    """Returns the pairs of name and key of a file's text.

    Empty lines and lines that begin with # are passed over. Raises KeyFileError.
    """
    pairs: list[tuple[str, str]] = []
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, key = (part.strip() for part in line.partition(":"))
        if not colon:
            raise KeyFileError(f"line {number}: must be 'name: key'")
        if not _NAME.fullmatch(name):
            raise KeyFileError(f"line {number}: a name has 1 to 64 of A-Z a-z 0-9 . _ -")
        if not _KEY.fullmatch(key):
            raise KeyFileError(f"line {number}: a key has 8 to 512 printable ASCII characters without spaces")
        if names.setdefault(key, name) != name:
            raise KeyFileError(f"line {number}: the key of another name ({names[key]})")
        pairs.append((name, key))
    if not pairs:
        raise KeyFileError("the file holds no keys")
    if len(pairs) > MAX_KEYS:
        raise KeyFileError(f"the file holds {len(pairs)} keys, of at most {MAX_KEYS}")
    return pairs


class KeyFile:
    """A file of keys, watched by its inode, its size and the time of its last change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: Stamp | None = None
        """of the text that was read last, whether its keys were taken or not"""
        self._seen: Stamp | None = None
        """at the last look"""
        self._missing = False

    def read(self) -> list[tuple[str, str]]:
        """Reads the pairs of name and key. Raises KeyFileError where it cannot, or where the file is wrong.

        Warns of a file that every user of the machine can read.
        """
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                self._read = self._seen = _stamp(found)
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise KeyFileError(f"cannot be read ({error.strerror or type(error).__name__})") from error
        if len(data) > _MAX_BYTES:
            raise KeyFileError(f"the file is larger than {_MAX_BYTES} bytes")
        try:
            pairs = parse_keys(data.decode())
        except UnicodeDecodeError as error:
            raise KeyFileError("the file is not UTF-8 text") from error
        if found.st_mode & stat.S_IROTH:
            _log.warning("every user of this machine can read the file of keys; chmod 600 keeps them out")
        return pairs

    def changed(self) -> list[tuple[str, str]] | None:
        """Returns the pairs of a file that has changed, and None of any other.

        A change is read when two looks have found the same file, because a writer may be at work. A file that
        is gone or wrong leaves its old keys in force, which one line of the log tells.
        """
        try:
            stamp = _stamp(self.path.stat())
        except OSError as error:
            if not self._missing:
                self._missing = True
                self._seen = None
                _log.error("the file of keys is gone (%s); its keys stay in force", error.strerror)
            return None
        self._missing = False
        settled, self._seen = stamp == self._seen, stamp
        if not settled or stamp == self._read:
            return None
        try:
            pairs = self.read()
        except KeyFileError as error:
            self._read = stamp
            _log.error("the new file of keys is not taken, the old keys stay in force: %s", error)
            return None
        _log.info("the file of keys was read again: %d keys", len(pairs))
        return pairs


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns
