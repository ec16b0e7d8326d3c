"""What the routes share: one object for each app, at ``app.state.server``."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from entropick_sampler.profile import Profile

from .admission import Admission
from .engine.base import Engine, EngineDeadError, EngineError
from .engine.types import ModelInfo
from .metrics import Metrics
from .offload import SMALL, Offload
from .prompts import PromptEncoder
from .protocol.errors import unavailable
from .recent import RecentRequests
from .settings import Settings
from .version import server_version
from .vocabulary import Vocabulary

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class ServerState:
    """The engine with its life (loading, ready, draining, closed) and what is counted about it."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        on_failure: Callable[[BaseException], None] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = Metrics()
        self.recent = RecentRequests(settings.recent_requests)
        self.admission = Admission(settings.max_num_seqs, settings.max_queue)
        self.draining = False
        self._offload = Offload()
        self._vocabulary: Vocabulary | None = None
        self._encoder: PromptEncoder | None = None
        self._profile: Profile | None = None
        self._profile_id: str | None = None
        self._fingerprint: str | None = None
        self._loaded = False
        self._closed = False
        self._on_failure = on_failure
        self._on_ready = on_ready
        self._loading: asyncio.Task[None] | None = None

    def begin_loading(self) -> None:
        """Begins to load the model in the background, so that /health answers meanwhile."""
        self._loading = asyncio.create_task(self._load())
        self._loading.add_done_callback(self._after_load)

    async def _load(self) -> None:
        await self.engine.start()
        tokenizer, info = self.engine.tokenizer, self.info
        self._vocabulary = Vocabulary(tokenizer, info.vocab_size)
        self._encoder = PromptEncoder(tokenizer, self._vocabulary, info.max_model_len)
        self.metrics.bind(self.info.name, self.engine.load)
        self.engine.subscribe(self.metrics.on_step)
        self._loaded = True

    def _after_load(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            if self._on_ready is not None:
                self._on_ready()
            return
        # what an engine raises on purpose explains itself and is logged once; others need a traceback
        expected = isinstance(error, EngineError)
        if self._on_failure is None or not expected:
            _log.error("the model could not be loaded: %s", error, exc_info=None if expected else error)
        if self._on_failure is not None:
            self._on_failure(error)

    async def close(self) -> None:
        """Stops the engine, once; its open streams end with an error."""
        if self._closed:
            return
        self._closed = True
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait({self._loading})
        self._offload.close()
        await self.engine.close()

    async def beside_the_loop(self, size: int, work: Callable[[], Result]) -> Result:
        """Runs ``work`` on ``size`` characters or tokens, in a thread unless it is short. Returns its result.

        Cancelling the caller takes work that has not begun out of its queue.
        """
        return work() if size < SMALL else await self._offload.run(size, work)

    @property
    def in_flight(self) -> int:
        """Number of prompts that wait or run."""
        return self.admission.prompts

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens; raises EngineDeadError before the model is loaded."""
        return _loaded(self._vocabulary)

    @property
    def encoder(self) -> PromptEncoder:
        """What turns prompts into token ids; raises EngineDeadError before the model is loaded."""
        return _loaded(self._encoder)

    @property
    def info(self) -> ModelInfo:
        """The model that is served; raises EngineDeadError before it is loaded."""
        return self.engine.info

    @property
    def ready(self) -> bool:
        """True while new requests are taken."""
        return self._loaded and self.engine.ready and not self.draining

    def check_ready(self) -> None:
        """Raises the 503 that says why no request is taken."""
        if self.draining:
            raise unavailable("The server is shutting down.", "shutting_down", retry_after=5)
        if not self._loaded:
            raise unavailable("The model is still loading.", "model_loading", retry_after=2)
        if not self.engine.ready:
            raise unavailable("The engine has stopped.", "engine_stopped", retry_after=10)

    @property
    def profile_id(self) -> str | None:
        """Id of the calibration profile in force."""
        self._read_profile()
        return self._profile_id

    @property
    def served(self) -> str:
        """The model that is served and how, in one line for the operator."""
        info = self.info
        preset = self.settings.preset if self.profile_id is not None else "seed"
        return (
            f"{info.name} ({info.architecture}, {_count(info.parameters)} parameters, {info.dtype}, "
            f"{info.device}, context {info.max_model_len}), policy {self.settings.policy}, preset {preset}, "
            f"profile {self.profile_id or 'none'}"
        )

    @property
    def fingerprint(self) -> str:
        """OpenAI's system_fingerprint, which changes with version, model and profile."""
        self._read_profile()
        if self._fingerprint is None:
            parts = f"{server_version()}|{self.info.source}|{self.info.dtype}|{self._profile_id}"
            digest = hashlib.sha256(parts.encode()).hexdigest()[:8]
            self._fingerprint = f"entropick-{server_version()}-{digest}"
        return self._fingerprint

    def _read_profile(self) -> None:
        """Keeps what is derived from the profile until another one is in force: its digest takes a while."""
        profile = self.engine.profile
        if profile is not self._profile:
            self._profile = profile
            self._profile_id = None if profile is None else profile.id
            self._fingerprint = None


def _loaded(value: Result | None) -> Result:
    if value is None:
        raise EngineDeadError("the engine has not been started")
    return value


def _count(number: int) -> str:
    for size, unit in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def server_state(request: Request) -> ServerState:
    """Returns the app's state."""
    state: ServerState = request.app.state.server
    return state
