"""The number of CPU threads for a matrix product: the physical cores that this process may really run on."""

from __future__ import annotations

import os
from pathlib import Path

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_QUOTA = "/sys/fs/cgroup/cpu.max"


def default_threads() -> int:
    """Counts the physical cores in the affinity mask, at most the container's CPU quota and at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_read(_SIBLINGS.format(cpu)) or str(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota() or len(cores)))


def _quota() -> int | None:
    """Returns the CPUs that the container's quota allows, rounded down; None without a quota."""
    limit, _, period = _read(_QUOTA).partition(" ")
    return int(limit) // int(period) or 1 if limit.isdigit() and period.isdigit() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
