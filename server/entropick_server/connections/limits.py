"""The limits of connections, some of which follow from the limit of open files."""

from __future__ import annotations

import logging
import resource
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ..settings import Settings, SettingsError

_MOST: Final = 4096
"""connections at the same time where none is set: each holds some ten kB"""
_RESERVE: Final = 192
"""descriptors that are not for connections: files, the engine, libraries"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of a server's connections."""

    connections: int
    """open at the same time"""
    header_seconds: float
    """for the first byte and the whole head of a request, and for TLS's handshake"""
    body_seconds: float
    """for a body, and between two pieces of it"""
    write_seconds: float
    """for a client to take what is buffered for it"""
    largest_body: int
    """bytes"""
    idle_seconds: float
    """between two requests"""

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """Returns the limits that the settings and the limit of open files give. Raises SettingsError."""
        return cls(
            connections=_connections(settings.max_connections),
            header_seconds=settings.header_timeout_seconds,
            body_seconds=settings.body_timeout_seconds,
            write_seconds=settings.write_timeout_seconds,
            largest_body=settings.max_body_bytes,
            idle_seconds=settings.keep_alive_seconds,
        )


def _connections(wanted: int | None) -> int:
    """Returns the number of connections that may be open. Raises SettingsError where files are too few."""
    files = _soft_limit()
    allowed = max(1, files - min(_RESERVE, files // 2))
    if wanted is None:
        return min(_MOST, allowed)
    if wanted > allowed:
        raise SettingsError(
            f"setting max_connections: {wanted} connections need more open files than the limit of {files} "
            f"leaves them ({allowed}); raise it (ulimit -n)"
        )
    return wanted


def raise_file_limit(wanted: int | None) -> None:
    """Raises the soft limit of open files until ``wanted`` connections fit in it, if that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = (_MOST if wanted is None else wanted) + _RESERVE
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    # some systems refuse what their own hard limit allows; the connections then are fewer
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        _log.info("the limit of open files was raised from %d to %d", soft, needed)


def _soft_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
