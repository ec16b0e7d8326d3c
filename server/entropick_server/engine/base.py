"""The protocol that every engine implements, and the errors it may raise.

The HTTP side drives an engine through these few calls from one asyncio loop; what runs behind them
(a thread, a process, vLLM) is the engine's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from entropick_sampler.profile import Profile

from .types import EngineLoad, ModelInfo, Request, RequestOutput, StepReport


class EngineError(Exception):
    """Base of what an engine raises on purpose; the message is fit for a client."""


class QueueFullError(EngineError):
    """The waiting queue is at --max-queue; try again later."""


class EngineDeadError(EngineError):
    """The engine stopped; no request can be served."""


class ModelLoadError(EngineError):
    """The model cannot be served; the message says what to do."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the server uses."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Text of token ids."""
        ...

    def token_bytes(self, token_id: int) -> bytes | None:
        """The exact bytes of one token (may be part of a UTF-8 character); None for a special token."""
        ...

    def render_chat(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        """Text of a conversation; raises ValueError where the model has no chat template."""
        ...

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool
    ) -> list[int]:
        """Token ids of a conversation; raises ValueError where the model has no chat template."""
        ...


class Engine(Protocol):
    """What the HTTP side needs of an engine."""

    @property
    def info(self) -> ModelInfo:
        """What is served."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        ...

    @property
    def model_hash(self) -> str:
        """Returns the digest of weights, configuration and tokenizer, for a profile's provenance."""
        ...

    @property
    def profile(self) -> Profile | None:
        """The calibration profile in force, None when serving under preset seed alone."""
        ...

    @property
    def ready(self) -> bool:
        """True between start() and close() while the engine is alive."""
        ...

    async def start(self) -> None:
        """Load and start serving; returns when the first request could run."""
        ...

    async def close(self) -> None:
        """Stop the engine; open streams end with EngineDeadError."""
        ...

    def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Stream a request's outputs until one carries a finish_reason.

        Closing the iterator early (aclose, or cancelling the task that reads it) cancels the request: its
        pages are free at the next step. Raises QueueFullError, EngineDeadError.
        """
        ...

    def load(self) -> EngineLoad:
        """The gauges of this moment."""
        ...

    def subscribe(self, listener: Callable[[StepReport], None]) -> None:
        """Call ``listener`` in the event loop once after every step (metrics)."""
        ...


Calibrator = Callable[[Engine], Awaitable[Profile]]
"""What an engine awaits at the first start of a model without a profile"""
