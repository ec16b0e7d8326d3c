"""The keys that open the server, each with its caller's name: kept as digests, compared in constant time."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import ip_address
from typing import Final

from ..settings import Settings, SettingsError
from .key_file import KeyFile, KeyFileError, check_key

SETTING_NAME: Final = "api_key"
"""the caller's name of the key that the setting of this name holds"""
_log = logging.getLogger(__name__)


class Keys:
    """The keys in force: keys that never change, and the keys of a file, which may be read again.

    Several keys may have one name: they are one caller's, as while one key is being replaced by another.
    """

    def __init__(self, fixed: Iterable[tuple[str, str]], file: KeyFile | None = None) -> None:
        """Takes pairs of name and key. Raises KeyFileError where the file holds no keys."""
        self.file = file
        self._fixed = _digests(fixed)
        self._all = self._fixed
        if file is not None:
            self._all = self._fixed + _digests(file.read())

    def name_of(self, given: bytes) -> str | None:
        """Returns the name of a key (None: it is unknown) after a comparison with every key.

        The digests have one length, so that neither a key's length nor its place shows in the time.
        """
        digest, found = sha256(given).digest(), None
        for known, name in self._all:
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def refresh(self) -> bool:
        """Reads the file again where it has changed; True if its keys were taken. May block on the disk."""
        pairs = None if self.file is None else self.file.changed()
        if pairs is None:
            return False
        # one assignment: a request sees the old keys or the new ones
        self._all = self._fixed + _digests(pairs)
        return True


def _digests(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[bytes, str], ...]:
    return tuple((sha256(key.encode()).digest(), name) for name, key in pairs)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def keys_of(settings: Settings) -> Keys | None:
    """Returns the keys of the settings, None where none are set. Raises SettingsError, which names no key.

    Warns of a server without keys that others than this machine reach.
    """
    if not settings.has_keys:
        if not _is_loopback(settings.host):
            _log.warning(
                "no key is set: everyone who reaches %s may use this server and read its requests",
                settings.host,
            )
        return None
    fixed = []
    if settings.api_key is not None:
        key = settings.api_key.get_secret_value()
        try:
            check_key(key)
        except KeyFileError as error:
            raise SettingsError(f"setting api_key: {error}") from error
        fixed.append((SETTING_NAME, key))
    file = None if settings.api_key_file is None else KeyFile(settings.api_key_file)
    try:
        return Keys(fixed, file)
    except KeyFileError as error:
        raise SettingsError(f"setting api_key_file: {error}") from error
