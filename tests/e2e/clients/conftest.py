"""The running server, as run.py tells of it. Each client's environment runs its own file of tests."""

import os

import pytest


@pytest.fixture(scope="session")
def url() -> str:
    """The server's base URL, without /v1."""
    return os.environ["ENTROPICK_E2E_URL"]


@pytest.fixture(scope="session")
def key() -> str:
    """The server's key."""
    return os.environ["ENTROPICK_E2E_KEY"]


@pytest.fixture(scope="session")
def model() -> str:
    """The id of the served model."""
    return os.environ["ENTROPICK_E2E_MODEL"]
