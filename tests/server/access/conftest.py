"""An app with two callers, alice and bob, whose keys are in a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ALICE, BOB = "alice-0123456789", "bob-0123456789"
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def alice() -> dict[str, str]:
    return bearer(ALICE)


@pytest.fixture
def bob() -> dict[str, str]:
    return bearer(BOB)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# callers\nalice: {ALICE}\n\nbob: {BOB}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
async def client(engine: Any, serve: Any, key_file: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(engine, api_key_file=key_file) as client:
        yield client
