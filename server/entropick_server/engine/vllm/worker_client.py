"""The server's side of vLLM: its AsyncLLM, calls into its workers, and the side channel from them."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from entropick_sampler.profile import Profile

from ..base import EngineDeadError, EngineError, ModelLoadError
from . import launch
from .side_channel import Inbox
from .wire import plain_profile

_log = logging.getLogger(__name__)
_CLOSE_SECONDS: Final = 5.0
"""seconds in which workers must close their end, before vLLM ends them anyway"""


class WorkerClient:
    """An AsyncLLM and the inbox of its workers' figures. ``llm``: None before open() and from close() on."""

    def __init__(self) -> None:
        self.llm: Any = None
        self._folder = Path(tempfile.mkdtemp(prefix="entropick-"))
        self._address = f"ipc://{self._folder}/figures"
        self.inbox = Inbox(self._address, self._take)

    async def open(
        self,
        config: Any,
        arguments: Any,
        logger: Callable[..., Any],
        profile: Profile | None,
        layers: Sequence[int],
    ) -> None:
        """Loads the model and connects its workers, which decide by ``profile``. Raises ModelLoadError.

        ``layers``: the monitored layers; a line in the log names those that cannot be measured.
        """
        self.llm = await asyncio.to_thread(launch.start, config, arguments, logger)
        self.inbox.open()
        answers = await self._load("entropick_open", self._address, plain_profile(profile))
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
        """Decides with another profile from the next step on. Raises ModelLoadError."""
        await self._load("entropick_use_profile", plain_profile(profile))

    async def close(self) -> None:
        """Ends open streams with vLLM's EngineDeadError, then stops vLLM and the channel.

        Harmless when called again.
        """
        if self.llm is not None:
            llm, self.llm = self.llm, None
            _end_streams(llm)
            if not llm.errored:
                try:
                    async with asyncio.timeout(_CLOSE_SECONDS):
                        await _call(llm, "entropick_close")
                except (EngineError, TimeoutError) as error:
                    _log.debug("the workers were stopped before they closed the side channel: %s", error)
            if llm.output_handler is not None:
                # it would take the shutdown for a death
                llm.output_handler.cancel()
                await asyncio.wait({llm.output_handler})
            await asyncio.to_thread(llm.shutdown)
            # requests that were on their way into vLLM; later requests find it dead
            _end_streams(llm)
            # vLLM's sockets close in the loop's next turn
            await asyncio.sleep(0)
            _free_context(llm.engine_core)
        await self.inbox.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _take(self, key: str) -> list[list[bytes]]:
        if self.llm is None:
            raise EngineDeadError("the engine was stopped")
        found = await _call(self.llm, "entropick_take", key)
        return [[bytes(part) for part in message] for messages in found for message in messages]

    async def _load(self, method: str, *arguments: Any) -> list[Any]:
        try:
            return await _call(self.llm, method, *arguments)
        except EngineError as error:
            raise ModelLoadError(str(error)) from error


async def _call(llm: Any, method: str, *arguments: Any) -> list[Any]:
    """Calls a method of every worker. Returns their answers; raises EngineError."""
    try:
        return list(await llm.collective_rpc(method, args=arguments))
    except Exception as error:  # vLLM raises no narrower type for what a worker raised
        raise EngineError(f"vLLM's workers do not answer {method}: {error}") from error


def _end_streams(llm: Any) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError as VllmDead

    llm.output_processor.propagate_error(VllmDead())


def _free_context(client: Any) -> None:
    """Frees the ZeroMQ context of AsyncLLM's client, with its threads, which vLLM leaves open.

    The context stays while one of its sockets is open, for which the call would wait.
    """
    if all(socket.closed for socket in client.ctx._sockets):
        client.resources.ctx.term()
