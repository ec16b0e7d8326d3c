"""The server's variables in the environment: none may be empty, and Kubernetes sets some of its own.

Kubernetes gives every container variables about the services of its namespace. For a service named entropick
they begin as ours do, and ENTROPICK_PORT among them is an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from difflib import get_close_matches
from typing import Final

PREFIX: Final = "ENTROPICK_"
_KEY: Final = f"{PREFIX}API_KEY"
_PORT: Final = rf"{PREFIX}(\w+_)?PORT"
_SERVICE: Final = re.compile(
    rf"({PREFIX}(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|{_PORT}_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)",
    re.IGNORECASE,
)
_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)


OTHERS: Final = frozenset({"CONFIG", "LAYERS", "PROFILE", "URL"})
"""variables that are no settings: the file of settings, those of a plain vLLM with our processor
(``engine/vllm/names.py``), and the server's address for Grafana (``deploy/compose.yml``)"""


def set_by_kubernetes(environment: Mapping[str, str]) -> frozenset[str]:
    """Returns the names of the variables that begin as ours do and that Kubernetes sets for services."""
    return frozenset(name for name, value in environment.items() if _of_kubernetes(name, value))


def _of_kubernetes(name: str, value: str) -> bool:
    if _SERVICE.fullmatch(name):
        return True
    return bool(re.fullmatch(_PORT, name, re.IGNORECASE) and _ADDRESS.match(value))


def check_known(environment: Mapping[str, str], settings: Iterable[str]) -> None:
    """Raises ValueError for a variable of our prefix that nothing reads; ``settings``: their names."""
    known = {name.upper() for name in settings} | OTHERS
    for variable in sorted(environment):
        name = variable.upper().removeprefix(PREFIX)
        if not variable.upper().startswith(PREFIX) or name in known:
            continue
        near = get_close_matches(name, known, n=1)
        hint = f"; the nearest is {PREFIX}{near[0]}" if near else ""
        raise ValueError(f"the variable {variable} names no setting{hint}")


def drop_key(environment: MutableMapping[str, str]) -> None:
    """Removes the server's key from an environment, which later processes inherit."""
    for name in [name for name in environment if name.upper() == _KEY]:
        del environment[name]


def check_none_empty(environment: Mapping[str, str]) -> None:
    """Raises ValueError for a variable of ours that is set to nothing.

    It may be a secret that did not arrive: a server that took an empty key for none would let everybody in.
    """
    for name, value in environment.items():
        if name.upper().startswith(PREFIX) and not value.strip():
            raise ValueError(f"the variable {name} is empty: give it a value, or unset it")
