"""What the kernel tests want to show is shown behind pytest's own summary."""

from __future__ import annotations

import pytest

SHOWN = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """A place for lines to show."""
    config.stash[SHOWN] = []


@pytest.fixture
def show(request: pytest.FixtureRequest) -> list[str]:
    """Lines appended here are printed at the end of the run."""
    return request.config.stash[SHOWN]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print them, before the closing line."""
    if config.stash[SHOWN]:
        terminalreporter.section("kernels")
        for line in config.stash[SHOWN]:
            terminalreporter.write_line(line)
