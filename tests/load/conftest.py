"""Load and faults against servers in processes of their own: ``make test-load``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# behind everything else: a module there is called trace, as one of the standard library
sys.path.append(str(BENCHMARKS))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.path.name != "test_table.py":
            item.add_marker(pytest.mark.load)
            if "load" not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason="make test-load runs it"))
