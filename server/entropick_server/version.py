"""The version of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def server_version() -> str:
    """Version of the distribution, "0+source" where it runs from a bare source tree."""
    try:
        return version("entropick")
    except PackageNotFoundError:
        return "0+source"
