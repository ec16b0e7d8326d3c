"""The version of the installed distribution."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def server_version() -> str:
    """Returns the version of the distribution, "0+source" where it runs from a bare source tree."""
    try:
        return version("entropick")
    except PackageNotFoundError:
        return "0+source"
