"""The protocol that every engine implements, and the errors it may raise.

The HTTP side drives an engine through these few calls from one asyncio loop; whether a thread, a process or
vLLM runs behind them is the engine's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from entropick_sampler.profile import Profile

from .control_text.texts import ControlTexts
from .reply_text import ReplyText
from .types import EngineGauges, ModelInfo, Request, RequestOutput, StepReport

if TYPE_CHECKING:
    # its module brings transformers, which the command line does without
    from .reply_format.form import ReplyFormat


class EngineError(Exception):
    """An error that an engine raises on purpose; the message is fit for a client."""


class QueueFullError(EngineError):
    """The waiting queue is at --max-queue; try again later."""


class RequestTimeoutError(EngineError):
    """The request waited and ran for longer than the server allows."""


class EngineDeadError(EngineError):
    """The engine stopped; no request can be served."""


class ModelLoadError(EngineError):
    """The model cannot be served; the message tells the operator how to go on."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the server uses."""

    @property
    def reply_format(self) -> ReplyFormat:
        """Returns the form of the model's replies."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encodes a text as token ids."""
        ...

    @property
    def controls(self) -> ControlTexts:
        """Returns the texts that are control tokens."""
        ...

    def encode_pieces(self, pieces: Sequence[str], *, add_special_tokens: bool) -> list[int]:
        """Encodes a text in pieces: control texts at odd places are tokens, all others text."""
        ...

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Decodes token ids into text."""
        ...

    def token_bytes(self, token_id: int) -> bytes | None:
        """Returns the exact bytes of a token (maybe part of a UTF-8 character); None for a special token."""
        ...

    def reply_text(self, prompt: Sequence[int], *, skip_special_tokens: bool) -> ReplyText | None:
        """Returns the text of a reply to a prompt, where a token's text depends on its neighbours.

        Returns None where every token has bytes of its own.
        """
        ...

    def vocabulary_token(self, token_id: int) -> str:
        """Returns a token as it is written in the vocabulary, which is no text: "Ġthe", "▁the", "<0x0A>"."""
        ...

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        template_options: Mapping[str, Any] | None = None,
    ) -> str:
        """Renders a conversation as text, up to the end of its last message where that is to be continued.

        ``tools``: their definitions; ``template_options``: variables of the chat template.

        Raises ValueError where the model has no chat template.
        """
        ...

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool
    ) -> list[int]:
        """Encodes a conversation as token ids; raises ValueError where the model has no chat template."""
        ...


class Engine(Protocol):
    """An engine as the HTTP side needs it."""

    @property
    def info(self) -> ModelInfo:
        """Returns the description of the served model."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Returns the model's tokenizer."""
        ...

    @property
    def model_hash(self) -> str:
        """Returns the digest of weights, configuration and tokenizer, for a profile's provenance."""
        ...

    @property
    def profile(self) -> Profile | None:
        """Returns the calibration profile in force; None where preset seed alone is served."""
        ...

    @property
    def ready(self) -> bool:
        """True while the engine is alive between start() and close()."""
        ...

    async def start(self) -> None:
        """Loads the model and starts to serve; returns when the first request could run."""
        ...

    async def close(self) -> None:
        """Stops the engine; open streams end with EngineDeadError."""
        ...

    def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Yields the outputs of a request until an output carries a finish_reason.

        Closing the iterator early (aclose, or cancelling the task that reads it) cancels the request: its
        blocks are free at the next step. Raises QueueFullError, EngineDeadError.
        """
        ...

    def gauges(self) -> EngineGauges:
        """Returns the gauges of this moment."""
        ...

    def subscribe(self, listener: Callable[[StepReport], None]) -> None:
        """Calls ``listener`` in the event loop once after every step (metrics)."""
        ...


Calibrator = Callable[[Engine], Awaitable[Profile]]
"""the function that an engine awaits at the first start of a model without a profile"""
