"""A server of the shipped model under load, and a real Prometheus that scrapes it: ``make test-dashboards``.

The programs come from Debian's package prometheus (``make system``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .load import Load
from .programs import Prometheus, Server

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.path.name != "test_files.py":
            item.add_marker(pytest.mark.dashboards)
            if "dashboards" not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason="make test-dashboards runs it"))


def program(name: str) -> str:
    """The path of a program of Debian's package prometheus."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: make system brings it")
    return found


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program("prometheus")
    with Server(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="session")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with the configuration that is shipped, but for the address of the server."""
    folder = tmp_path_factory.mktemp("prometheus")
    with Prometheus(program("prometheus"), DEPLOY / "prometheus", folder, server.address) as running:
        yield running


@pytest.fixture(scope="session")
def loaded(server: Server, prometheus: Prometheus) -> Load:
    """Some minutes of load, which have just ended, scraped by Prometheus."""
    load = Load(server.url)
    load.run()
    prometheus.settle()
    return load
