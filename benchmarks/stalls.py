"""Measures how long a large request or answer holds up the event loop, and with it every other client.

    python -m benchmarks.stalls [--rounds 5] [case ...]

A scripted engine (no model computes) serves the real app over HTTP in this process; a client in a process
of its own sends each case. A task in the server's event loop wakes every 5 ms and notes how late it woke:
the longest gap, up to the first byte of the answer and in the whole, is what a stream beside it would see.
Printed: the median over the rounds, the status, the bytes, and the seconds that the case took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from transformers import AutoTokenizer

from entropick_pico import model_path
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_sampler.strategy import Strategy
from entropick_server import serve
from entropick_server.app import create_app
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.tokenizer import FastTokenizer
from entropick_server.engine.types import (
    Candidate,
    EngineGauges,
    FinishReason,
    GenerationDefaults,
    ModelInfo,
    Request,
    RequestOutput,
    StepReport,
    Token,
    TokenDetail,
    TokenParameters,
)
from entropick_server.settings import Settings

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TICK: Final = 0.005
STEP: Final = 64
"""tokens of an engine step where nothing but their text is written; else a step is a token"""
_HEADS, _LAYERS = 16, 24
_CLIENT: Final = """
import http.client, json, sys, time
port, method, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
body = sys.stdin.buffer.read()
c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
begin = time.monotonic()
c.request(method, path, body or None, {"Content-Type": "application/json"})
r = c.getresponse()
first, size = time.monotonic(), 0
while part := r.read(1 << 20):
    size += len(part)
print(json.dumps([r.status, size, first, time.monotonic() - begin]))
"""


class ScriptedEngine:
    """An engine that answers every prompt with the same token, ``STEP`` at once."""

    def __init__(self) -> None:
        tokenizer = AutoTokenizer.from_pretrained(str(model_path()))
        self.tokenizer = FastTokenizer(tokenizer)
        self.profile = None
        self.model_hash = "stalls"
        self.ready = False
        self.held = False
        """requests wait for ever: the queue stays full"""
        self._token_id = self.tokenizer.encode("a", add_special_tokens=False)[0]
        self.info = ModelInfo(
            name="stalls",
            source="stalls",
            architecture="Scripted",
            max_model_len=1 << 22,
            vocab_size=self.tokenizer.size,
            eos_token_ids=(),
            monitored_layers=tuple(range(_LAYERS)),
            parameters=1,
            dtype="float32",
            device="cpu",
            defaults=GenerationDefaults(),
            created=1,
            prompt_logprobs=True,
        )

    async def start(self) -> None:
        """Is ready at once."""
        if not self._token_id:
            raise ModelLoadError("the tokenizer has no token for a letter")
        self.ready = True

    async def close(self) -> None:
        """Ends."""
        self.ready = False

    def gauges(self) -> EngineGauges:
        """Tells of an idle engine."""
        return EngineGauges(0, 0, 0, 1)

    def subscribe(self, listener: Callable[[StepReport], None]) -> None:
        """Tells nobody: the metrics of steps are not measured here."""

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Yields ``max_tokens`` tokens."""
        if self.held:
            await asyncio.Event().wait()
        most, token = request.sampling.max_tokens, self._token(request)
        step = 1 if token.detail is not None or token.top_logprobs else STEP
        for begin in range(0, most, step):
            if token.detail is not None and begin:
                # figures of its own, as an engine makes them: what they cost at the end is to be seen
                token = self._token(request)
            count = min(step, most - begin)
            reason = FinishReason.LENGTH if begin + count == most else None
            yield RequestOutput(request.request_id, (token,) * count, reason, None, 0)
            await asyncio.sleep(0)

    def _token(self, request: Request) -> Token:
        detail = None
        if request.policy.telemetry == "full":
            some = range(_LAYERS), range(_HEADS)
            figures = [
                tuple(tuple(0.1234 + 0.1 * n + k * _HEADS + h for h in some[1]) for k in some[0])
                for n in range(3)
            ]
            layers = tuple(float(k) + 0.5 for k in range(_LAYERS))
            named = dict.fromkeys(("agreement", "attention_entropy", "interaction_strength"), layers)
            candidate = Candidate(self._token_id, -1.0, 2.0)
            detail = TokenDetail(self.info.monitored_layers, *figures, named, (candidate,) * 4)
        tops = tuple((self._token_id, -1.0 - n) for n in range(request.sampling.logprobs or 0))
        signals = tuple(0.5 + k / 10 for k, _ in enumerate(SIGNAL_NAMES))
        parameters = TokenParameters(0.7, 0.95, 50, 0.02, 1)
        return Token(
            token_id=self._token_id,
            logprob=-0.5,
            signals=signals,
            strategy=Strategy(1),
            parameters=parameters,
            forced=False,
            top_logprobs=tops,
            detail=detail,
        )


@dataclass(frozen=True, slots=True)
class Case:
    """A request; ``full``: it comes while the queue is full."""

    path: str
    body: bytes
    full: bool = False


def _many(item: str, number: int) -> str:
    return "[" + ",".join([item] * number) + "]"


def _json(**fields: Any) -> bytes:
    return json.dumps({"max_tokens": 1, **fields}).encode()


def _chat(field: str = "", **fields: Any) -> bytes:
    whole = _json(messages=[{"role": "user", "content": "Hello"}], **fields).decode()
    return (whole[:-1] + field + "}").encode()


_WORDS = "The quick brown fox, [1] {2}, jumps over the lazy dog. "
_LONG = 2_300
"""tokens of 17 kB with full telemetry"""
CASES: Final[dict[str, Callable[[], Case]]] = {
    "idle": lambda: Case(CHAT, _chat()),
    "refuse: stop, 2 million numbers": lambda: Case(CHAT, _chat(f', "stop": {_many("1", 2_000_000)}')),
    "refuse: detokenize, a million strings": lambda: Case(
        "/detokenize", f'{{"tokens": {_many(chr(34) * 2, 1_000_000)}}}'.encode()
    ),
    "refuse: a million lists in an unknown field": lambda: Case(
        CHAT, _chat(f', "x": {_many("[]", 1_000_000)}')
    ),
    "refuse: a million messages": lambda: Case(CHAT, f'{{"messages": {_many("{}", 1_000_000)}}}'.encode()),
    "refuse: 64 prompts x n 16, the queue full": lambda: Case(
        TEXT, _json(prompt=[(_WORDS * 300)[:16_000]] * 64, n=16), full=True
    ),
    "prompt: 128k token ids": lambda: Case(TEXT, _json(prompt=[7] * 131_072)),
    "prompt: 3 MB of text": lambda: Case(TEXT, _json(prompt=_WORDS * 56_000)),
    "prompt: 64 of 16k characters": lambda: Case(TEXT, _json(prompt=[(_WORDS * 300)[:16_000]] * 64)),
    "prompt: 500 messages": lambda: Case(
        CHAT, _json(messages=[{"role": "user", "content": _WORDS * 20}] * 500)
    ),
    "answer: 40 MB of full telemetry": lambda: Case(
        CHAT, _chat(max_completion_tokens=_LONG, entropick={"telemetry": "full"})
    ),
    "answer: 40 MB on a stream's last chunk": lambda: Case(
        CHAT, _chat(max_completion_tokens=_LONG, stream=True, entropick={"telemetry": "full", "at_end": True})
    ),
    "answer: 20 log probabilities of 8k tokens": lambda: Case(
        CHAT, _chat(max_completion_tokens=8_192, logprobs=True, top_logprobs=20)
    ),
    "answer: the same of /v1/responses, a stream": lambda: Case(
        RESPONSES,
        json.dumps(
            {"input": "Hello", "max_output_tokens": 8_192, "top_logprobs": 20, "stream": True}
        ).encode(),
    ),
    "answer: 32k tokens": lambda: Case(CHAT, _chat(max_completion_tokens=32_768)),
    "answer: tokenize, 3 MB with token strings": lambda: Case(
        "/tokenize", _json(prompt=_WORDS * 56_000, return_token_strs=True)
    ),
    "answer: detokenize, 400k ids": lambda: Case("/detokenize", _json(tokens=[7] * 400_000)),
    "answer: /metrics": lambda: Case("/metrics", b""),
    "answer: /v1/requests": lambda: Case("/v1/requests", b""),
}


class Ticker:
    """A task that wakes every ``TICK`` seconds and notes how late."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, float]] = []
        """(when it woke, seconds since it was to wake)"""

    async def run(self) -> None:
        """Ticks until it is cancelled."""
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self.gaps.append((now, now - due))


async def _once(port: int, case: Case) -> tuple[float, float, int, int, float]:
    """Sends a case. Returns the longest gap before the first byte and in all, status, bytes, seconds."""
    ticker = Ticker()
    ticking = asyncio.create_task(ticker.run())
    method = "POST" if case.body else "GET"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CLIENT, str(port), method, case.path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    out, _ = await child.communicate(case.body)
    await asyncio.sleep(4 * TICK)  # what is freed afterwards counts too
    ticking.cancel()
    status, size, first, seconds = json.loads(out)
    before = max((gap for at, gap in ticker.gaps if at - gap <= first), default=0.0)
    return before, max(gap for _, gap in ticker.gaps), status, size, seconds


async def _measure(names: list[str], rounds: int) -> None:
    engine = ScriptedEngine()
    # as serve does
    app = create_app(engine, Settings(recent_requests=64), on_ready=getattr(serve, "freeze_start", None))
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not (server.started and app.state.server.ready):
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(f"{'longest gap, ms':44s} {'first byte':>10s} {'whole':>8s} {'status':>7s} {'MB':>6s} {'s':>6s}")
    for name in names:
        case = CASES[name]()
        held: list[Any] = []
        if case.full:
            engine.held = True
            settings = app.state.server.settings
            held = app.state.server.admission.admit(settings.max_num_seqs + settings.max_queue, 1)
        found = [await _once(port, case) for _ in range(rounds)]
        engine.held = False
        for prompt in held:
            prompt.leave()
        before, whole, seconds = (statistics.median(f[at] for f in found) for at in (0, 1, 4))
        _, _, status, size, _ = found[-1]
        print(
            f"{name:44s} {before * 1e3:10.1f} {whole * 1e3:8.1f} {status:7d} {size / 1e6:6.1f} "
            f"{seconds:6.2f}",
            flush=True,
        )
    server.should_exit = True
    await serving


def main() -> None:
    """Measures the named cases, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"beginnings of the names: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    names = [n for n in CASES if not given.cases or any(n.startswith(case) for case in given.cases)]
    asyncio.run(_measure(names, given.rounds))


if __name__ == "__main__":
    main()
