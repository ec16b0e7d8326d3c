"""The look at the file of keys, once a second, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from .keys import Keys

_SECONDS: Final = 1.0
"""between two looks; a change is taken at the second look that finds it"""


@asynccontextmanager
async def refreshed(keys: Keys | None, seconds: float = _SECONDS) -> AsyncIterator[None]:
    """Keeps the keys as their file has them while the context is open; keys without a file never change."""
    if keys is None or keys.file is None:
        yield
        return
    task = asyncio.create_task(_refresh(keys, seconds))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _refresh(keys: Keys, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        # in a thread: a look at a file of a network's disk may take long
        await asyncio.to_thread(keys.refresh)
