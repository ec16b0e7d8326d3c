"""What the routes share: one object per app, at ``app.state.server``."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable

from starlette.requests import Request

from .engine.base import Engine, EngineError
from .engine.types import ModelInfo
from .metrics import Metrics
from .protocol.errors import unavailable
from .recent import RecentRequests
from .settings import Settings
from .version import server_version

_log = logging.getLogger(__name__)


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
        self.draining = False
        self.in_flight = 0
        self.tokenizing = asyncio.Lock()
        """one long text at a time is tokenized beside the event loop"""
        self._loaded = False
        self._closed = False
        self._on_failure = on_failure
        self._on_ready = on_ready
        self._loading: asyncio.Task[None] | None = None

    def begin_loading(self) -> None:
        """Load the model in the background, so that /health answers meanwhile."""
        self._loading = asyncio.create_task(self._load())
        self._loading.add_done_callback(self._after_load)

    async def _load(self) -> None:
        await self.engine.start()
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
        # what an engine raises on purpose explains itself, and is told once; else the traceback is needed
        expected = isinstance(error, EngineError)
        if self._on_failure is None or not expected:
            _log.error("the model could not be loaded: %s", error, exc_info=None if expected else error)
        if self._on_failure is not None:
            self._on_failure(error)

    async def close(self) -> None:
        """Stop the engine, once; its open streams end with an error."""
        if self._closed:
            return
        self._closed = True
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait({self._loading})
        await self.engine.close()

    @property
    def info(self) -> ModelInfo:
        """What is served; only once loaded."""
        return self.engine.info

    @property
    def ready(self) -> bool:
        """True while new requests are taken."""
        return self._loaded and self.engine.ready and not self.draining

    def check_ready(self) -> None:
        """Raise the 503 that says why no request is taken."""
        if self.draining:
            raise unavailable("The server is shutting down.", "shutting_down", retry_after=5)
        if not self._loaded:
            raise unavailable("The model is still loading.", "model_loading", retry_after=2)
        if not self.engine.ready:
            raise unavailable("The engine has stopped.", "engine_stopped", retry_after=10)

    @property
    def profile_id(self) -> str | None:
        """The calibration profile in force."""
        return self.engine.profile.id if self.engine.profile is not None else None

    @property
    def served(self) -> str:
        """What is served, in one line for the operator."""
        info = self.info
        preset = self.settings.preset if self.profile_id is not None else "seed"
        return (
            f"{info.name} ({info.architecture}, {_count(info.parameters)} parameters, {info.dtype}, "
            f"{info.device}, context {info.max_model_len}), policy {self.settings.policy}, preset {preset}, "
            f"profile {self.profile_id or 'none'}"
        )

    @property
    def fingerprint(self) -> str:
        """OpenAI's system_fingerprint: changes with version, model and profile."""
        parts = f"{server_version()}|{self.info.source}|{self.info.dtype}|{self.profile_id}"
        return f"entropick-{server_version()}-{hashlib.sha256(parts.encode()).hexdigest()[:8]}"


def _count(number: int) -> str:
    for size, unit in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def server_state(request: Request) -> ServerState:
    """The app's state."""
    state: ServerState = request.app.state.server
    return state
