"""vLLM with its workers, and the side channel between them and the server: opened and closed together."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from entropick_sampler.profile import Profile

from ..base import EngineDeadError, ModelLoadError
from . import launch
from .side_channel import Inbox
from .wire import plain_profile

_log = logging.getLogger(__name__)


class Workers:
    """One AsyncLLM, and what passes between its workers and the server beside tokens."""

    def __init__(self) -> None:
        self.llm: Any = None
        """the AsyncLLM between open() and close()"""
        self._folder = Path(tempfile.mkdtemp(prefix="entropick-"))
        self._address = f"ipc://{self._folder}/figures"
        self.inbox = Inbox(self._address, self._ask)

    async def open(
        self,
        config: Any,
        arguments: Any,
        logger: Callable[..., Any],
        profile: Profile | None,
        layers: Sequence[int],
    ) -> None:
        """Load the model and connect its workers, which decide by ``profile``; raises ModelLoadError.

        ``layers``: whose attention is to be measured; a line in the log names those that cannot be.
        """
        self.llm = await asyncio.to_thread(launch.start, config, arguments, logger)
        self.inbox.open()
        answers = await self._tell("entropick_open", self._address, plain_profile(profile))
        measured: list[int] = next((answer for answer in answers if answer is not None), [])
        missing = sorted(set(layers).difference(measured))
        if missing:
            _log.warning(
                "the attention of layers %s is not measured where tokens are drawn: attention signals are "
                "absent. Monitor other layers (--monitored-layers) or, on CUDA, choose "
                "-- --attention-backend FLASH_ATTN (docs/vllm.md)",
                missing,
            )

    async def use_profile(self, profile: Profile) -> None:
        """Decide with another profile from the next step on; raises ModelLoadError."""
        await self._tell("entropick_use_profile", plain_profile(profile))

    async def close(self) -> None:
        """Stop vLLM, then the channel. Harmless when called again."""
        if self.llm is not None:
            llm, self.llm = self.llm, None
            if llm.output_handler is not None:
                # it would take the shutdown for a death
                llm.output_handler.cancel()
                await asyncio.wait({llm.output_handler})
            await asyncio.to_thread(llm.shutdown)
        await self.inbox.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _ask(self, key: str) -> list[list[bytes]]:
        if self.llm is None:
            raise EngineDeadError("the engine was stopped")
        found = await self.llm.collective_rpc("entropick_take", args=(key,))
        return [[bytes(part) for part in message] for messages in found for message in messages]

    async def _tell(self, method: str, *arguments: Any) -> list[Any]:
        """What each worker answers."""
        try:
            return list(await self.llm.collective_rpc(method, args=arguments))
        except Exception as error:
            raise ModelLoadError(f"vLLM's workers do not answer {method}: {error}") from error
