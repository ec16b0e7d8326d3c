"""A deterministic engine without a model, and an app around it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from entropick_sampler.most_probable import ProbableToken
from entropick_sampler.profile import Profile
from entropick_sampler.signals import POLICY_SIGNALS, SIGNAL_NAMES
from entropick_sampler.strategy import Strategy
from entropick_server.app import create_app
from entropick_server.engine.base import EngineDeadError, QueueFullError
from entropick_server.engine.types import (
    Candidate,
    EngineGauges,
    FinishReason,
    GenerationDefaults,
    ModelInfo,
    PromptToken,
    Request,
    RequestOutput,
    StepReport,
    Token,
    TokenDetail,
    TokenParameters,
)
from entropick_server.settings import Settings

from .support import EOS, VOCAB, ByteTokenizer, Watched

TEXT = "Grüße 🙂 from 北京, fine."


class FakeEngine:
    """Answers every prompt with ``script(request)``, token after token, then EOS."""

    def __init__(self, text: str = TEXT, *, delay: float = 0.0, per_step: int = 1) -> None:
        self.text = text
        self.tokenizer: ByteTokenizer = ByteTokenizer()
        self.script: Callable[[Request], list[int]] = lambda request: list(text.encode())
        self.delay = delay
        self.per_step = per_step
        self.profile: Profile | None = None
        self.model_hash = "h"
        self.ready = False
        self.load_error: Exception | None = None
        self.load_gate = asyncio.Event()
        self.load_gate.set()
        self.full = False
        self.fail_after: int | None = None
        self.cached = 4
        """tokens of every prompt that the KV cache has"""
        self.preempt_at = -1
        """the token before which a request is preempted"""
        self.requests: list[Request] = []
        self.running: dict[int, str] = {}
        self.closed: list[str] = []
        self.listeners: list[Callable[[StepReport], None]] = []
        self.info = ModelInfo(
            name="fake",
            source="fake",
            architecture="Fake",
            max_model_len=256,
            vocab_size=VOCAB,
            eos_token_ids=(EOS,),
            monitored_layers=(0, 1),
            parameters=1,
            dtype="float32",
            device="cpu",
            defaults=GenerationDefaults(),
            created=1,
        )

    async def start(self) -> None:
        await self.load_gate.wait()
        if self.load_error is not None:
            raise self.load_error
        self.ready = True

    async def close(self) -> None:
        self.ready = False

    def gauges(self) -> EngineGauges:
        return EngineGauges(len(self.running), 3, len(self.running), 8)

    def subscribe(self, listener: Callable[[StepReport], None]) -> None:
        self.listeners.append(listener)

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        self.requests.append(request)
        if self.full:
            raise QueueFullError("the queue is full")
        slot = next(i for i in range(64) if i not in self.running)
        self.running[slot] = request.request_id
        queued = [(request.request_id, time.monotonic() - request.arrival)]
        ids = [*self.script(request), EOS]
        limit = request.sampling.max_tokens
        prompt = self.prompt(request)
        try:
            if not limit:
                yield RequestOutput(
                    request.request_id, (), FinishReason.LENGTH, None, self.cached, prompt=prompt
                )
                return
            for start in range(0, len(ids), self.per_step):
                await asyncio.sleep(self.delay)
                if not self.ready:
                    raise EngineDeadError("the engine was closed")
                failed = self.fail_after is not None and start >= self.fail_after
                cut = ids[start : min(start + self.per_step, limit)]
                tokens = tuple(self.token(request, start + n, i) for n, i in enumerate(cut))
                reason = None
                if failed:
                    tokens, reason = (), FinishReason.ERROR
                elif cut[-1] in request.sampling.stop_token_ids:
                    reason = FinishReason.STOP
                elif start + len(cut) >= limit or start + len(cut) >= len(ids):
                    reason = FinishReason.LENGTH
                output = RequestOutput(
                    request.request_id,
                    tokens,
                    reason,
                    "logits were NaN" if failed else None,
                    self.cached,
                    prompt=() if start else prompt,
                )
                looked_up = (len(request.prompt_token_ids), self.cached) if queued else (0, 0)
                preempted = (request.request_id,) * (start == self.preempt_at)
                report = StepReport(
                    (output,), (slot,), self.gauges(), tuple(queued), 0.01, *looked_up, preempted
                )
                queued.clear()
                for listener in self.listeners:
                    listener(report)
                yield output
                if reason is not None:
                    return
        finally:
            del self.running[slot]
            self.closed.append(request.request_id)

    @staticmethod
    def prompt(request: Request) -> tuple[PromptToken, ...]:
        """Token i of a prompt has log probability -i, and stands behind all of its alternatives."""
        wanted = request.sampling.prompt_logprobs
        if wanted is None:
            return ()
        tops = tuple((65 + n, -0.25 - n) for n in range(wanted))
        return tuple(
            PromptToken(token_id, -float(i), wanted + 1, tops)
            for i, token_id in enumerate(request.prompt_token_ids[1:], start=1)
        )

    def token(self, request: Request, index: int, token_id: int) -> Token:
        """A token whose figures depend on seed and position alone; agreement is not measurable."""
        base = (request.sampling.seed + index * 7) % 50 / 10
        signals = tuple(None if n == "agreement" else base + k / 10 for k, n in enumerate(SIGNAL_NAMES))
        off = request.policy.policy != "entropix" or request.sampling.temperature == 0
        detail, probable = None, ()
        if request.policy.telemetry == "full":
            detail = TokenDetail(
                (0, 1),
                ((1.0, 2.0),) * 2,
                ((3.0, 4.0),) * 2,
                ((0.25, None),) * 2,
                {"agreement": (0.1, 0.2)},
                (Candidate(65, -1.0, 2.0),),
            )
            probable = (ProbableToken(65, 0.75, 1.0, None), ProbableToken(EOS, 0.25, 0.0, "min_p"))
        asked = request.sampling.logprobs or 0
        return Token(
            token_id=token_id,
            logprob=-0.5,
            signals=signals,
            strategy=None if off else Strategy(index % 5),
            parameters=TokenParameters(0.7, 0.95, 50, 0.02, 1),
            forced=not off and index == 1,
            top_logprobs=tuple((65 + n, -1.0 - n) for n in range(asked)),
            detail=detail,
            most_probable=probable,
        )


def make_profile() -> Profile:
    return Profile(
        model_hash="m",
        data_hash="d",
        layers=(0, 1),
        date="2026-01-01",
        tokens=10,
        quantiles={s.name: tuple(float(q) for q in range(9)) for s in POLICY_SIGNALS},
        thresholds={"greedy_entropy": 0.5},
    )


def make_settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)  # type: ignore[call-arg]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def watched(engine: FakeEngine) -> Watched:
    """The engine's tokenizer, with a context for large texts."""
    engine.tokenizer = Watched()
    engine.info = replace(engine.info, max_model_len=400_000)
    return engine.tokenizer


@pytest.fixture
def profile() -> Profile:
    return make_profile()


@asynccontextmanager
async def running(engine: FakeEngine, *, wait: bool = True, **given: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app around ``engine``; ``client.app`` is the app. The model is loaded if ``wait``."""
    app = create_app(engine, Settings(**given))
    async with app.router.lifespan_context(app):
        for _ in range(100 if wait else 0):
            await asyncio.sleep(0)
            if app.state.server.ready:
                break
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            client.app = app  # type: ignore[attr-defined]
            yield client


Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def serve() -> Serve:
    return running


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with running(engine) as client:
        yield client


@pytest.fixture
def openai(client: httpx.AsyncClient) -> AsyncOpenAI:
    """The official client, talking to the app."""
    return AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=client, max_retries=0)


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ENTROPICK_")]:
        monkeypatch.delenv(name)
