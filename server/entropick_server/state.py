"""The state that the routes share, and the engine's loading and end: one object for each app."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from entropick_sampler.error_probability import ErrorModel
from entropick_sampler.genuineness.quadrants import Cuts
from entropick_sampler.profile import DEFAULT_CLARIFY_TEXT

from .access import TokensInFlight
from .admission import Admission
from .engine.base import Engine, EngineDeadError, EngineError
from .engine.grammar.compiler import GrammarCompiler
from .engine.reply import ClarifyingText
from .engine.reply_format.form import ReplyFormat
from .engine.types import ModelInfo
from .metrics import Metrics, ServerFacts
from .offload import Offload
from .prompts import PromptEncoder
from .protocol.errors import unavailable
from .recent import RecentRequests
from .settings import Settings
from .version import server_version
from .vocabulary import Vocabulary

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that is served, as it is from its loading on."""

    info: ModelInfo
    vocabulary: Vocabulary
    encoder: PromptEncoder
    grammars: GrammarCompiler
    """of structured output"""
    profile_id: str | None
    """of the calibration profile in force"""
    fingerprint: str
    """OpenAI's system_fingerprint, which changes with version, model and profile"""
    error_model: ErrorModel | None = None
    """the profile's coefficients of ``error_probability``"""
    model_hash: str = ""
    """digest of weights, configuration and tokenizer"""
    cuts: Cuts | None = None
    """the profile's cut points of genuineness"""
    names: tuple[str, ...] = ()
    """the ids that clients may send; the first is the model's own"""
    reply_format: ReplyFormat | None = None
    """the form of the model's replies; None where nothing is known of it"""

    @classmethod
    def of(
        cls, engine: Engine, others: tuple[str, ...] = (), *, special_tokens_in_messages: bool = False
    ) -> ServedModel:
        """Reads an engine that has started; ``others``: further ids of its model."""
        info = engine.info
        vocabulary = Vocabulary(engine.tokenizer, info.vocab_size)
        encoder = PromptEncoder(
            engine.tokenizer,
            vocabulary,
            info.max_model_len,
            special_tokens_in_messages=special_tokens_in_messages,
        )
        profile = None if engine.profile is None else engine.profile.id
        error = None if engine.profile is None else engine.profile.error
        cuts = None if engine.profile is None else engine.profile.genuineness
        # as in the file or in float32 the weights give the same bits
        rounded = "" if info.weights in ("", "file", "float32") else f"|{info.weights}"
        parts = f"{server_version()}|{info.source}|{info.dtype}|{profile}{rounded}"
        digest = hashlib.sha256(parts.encode()).hexdigest()[:8]
        fingerprint = f"entropick-{server_version()}-{digest}"
        names = tuple(dict.fromkeys((info.name, *others)))
        form = engine.tokenizer.reply_format
        if form.takes_tools and form.calling is None:
            _log.warning(
                "how this model writes calls of tools is not known (its tokenizer has no response_template, "
                "and its chat template writes them in no known form): they come back as text"
            )
        if form.telling is not None:
            _log.info(
                "this model's chat template has no place for tools: a request's tools are told as text in %s",
                form.telling.place,
            )
        grammars = GrammarCompiler(engine.tokenizer, info.vocab_size, info.eos_token_ids)
        known = (profile, fingerprint, error, engine.model_hash, cuts, names, form)
        return cls(info, vocabulary, encoder, grammars, *known)


class ServerState:
    """The engine with its life (loading, ready, draining, closed), and the counts and records of its work."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        on_failure: Callable[[BaseException], None] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.default_policy = settings.default_policy
        self.default_consensus = settings.default_consensus
        self.metrics = Metrics()
        self.recent = RecentRequests(settings.recent_requests)
        self.admission = Admission(settings.max_num_seqs, settings.max_queue)
        self.tokens_in_flight = TokensInFlight(settings.key_max_tokens_in_flight)
        self.offload = Offload()
        self.draining = False
        self._model: ServedModel | None = None
        self._clarifying: ClarifyingText | None = None
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
        settings = self.settings
        model = ServedModel.of(
            self.engine,
            (settings.served_model_name or ())[1:],
            special_tokens_in_messages=settings.special_tokens_in_messages,
        )
        facts = ServerFacts(
            server_version(), settings.engine, settings.max_num_seqs, settings.enable_prefix_caching
        )
        self.metrics.bind(model.info, self.engine.profile, facts, self.engine.gauges)
        self.engine.subscribe(self.metrics.on_step)
        self._model = model
        if settings.policy == "entropix" and (left := _overruled(model.info)):
            _log.info(
                "generation_config of the model: %s do not hold under policy entropix: its preset has other "
                "numbers; they hold under the other policies (--policy fixed, or a request's)",
                ", ".join(left),
            )

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
        self.offload.close()
        await self.engine.close()

    @property
    def model(self) -> ServedModel:
        """Returns the model that is served. Raises EngineDeadError before it is loaded."""
        if self._model is None:
            raise EngineDeadError("the engine has not been started")
        return self._model

    @property
    def clarifying(self) -> ClarifyingText:
        """Returns the clarifying text in force; it is tokenised once, when it is first asked for."""
        if self._clarifying is None:
            profile = self.engine.profile
            text = DEFAULT_CLARIFY_TEXT if profile is None else profile.clarify_text
            self._clarifying = ClarifyingText.of(text, self.engine.tokenizer)
        return self._clarifying

    @property
    def in_flight(self) -> int:
        """Returns the number of prompts that wait or run."""
        return self.admission.prompts

    @property
    def ready(self) -> bool:
        """True while new requests are taken."""
        return self._model is not None and self.engine.ready and not self.draining

    def check_ready(self) -> None:
        """Raises the 503 that says why no request is taken."""
        if self.draining:
            raise unavailable("The server is shutting down.", "shutting_down", retry_after=5)
        if self._model is None:
            raise unavailable("The model is still loading.", "model_loading", retry_after=2)
        if not self.engine.ready:
            raise unavailable("The engine has stopped.", "engine_stopped", retry_after=10)

    @property
    def served(self) -> str:
        """Returns a line for the operator: the model that is served, and how."""
        info, profile = self.model.info, self.model.profile_id
        preset = self.settings.preset if profile is not None else "seed"
        kept = f", weights {info.weights} ({info.weight_bytes / 1e6:.0f} MB)" if info.weights else ""
        return (
            f"{info.name} ({info.architecture}, {_count(info.parameters)} parameters, {info.dtype}{kept}, "
            f"{info.device}, context {info.max_model_len}), policy {self.settings.policy}, preset {preset}, "
            f"profile {profile or 'none'}"
        )


def _overruled(info: ModelInfo) -> list[str]:
    """Lists the numbers of a model's generation_config that policy entropix does not read."""
    defaults = info.defaults
    told = {
        "temperature": (defaults.temperature, 1.0),
        "top_p": (defaults.top_p, 1.0),
        "top_k": (defaults.top_k, 0),
        "min_p": (defaults.min_p, 0.0),
        "repetition_penalty": (defaults.repetition_penalty, 1.0),
    }
    return [f"{name} {value:g}" for name, (value, plain) in told.items() if value not in (None, plain)]


def _count(number: int) -> str:
    for size, unit in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def server_state(request: Request) -> ServerState:
    """Returns the app's state."""
    state: ServerState = request.app.state.server
    return state
