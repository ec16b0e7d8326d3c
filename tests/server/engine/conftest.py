"""Small random models with a small tokenizer, saved as folders that the engine loads like any other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.tokenizer import byte_map
from entropick_server.engine.types import EngineOptions, FinishReason, Request, StepReport, Token

VOCAB = 300
END = 256
CONTEXT = 256
BLOCK = 8
BLOCK_BYTES = 2 * 3 * 2 * 16 * BLOCK * 4
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def tiny_config(name: str) -> PreTrainedConfig:
    """A configuration by name; wide initial weights, so that attention is far from uniform."""
    base: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.15,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": None,
    }
    window = {"sliding_window": 16}
    match name:
        case "llama":
            return LlamaConfig(**base)
        case "llama-rope":
            rope = {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
            return LlamaConfig(**base, rope_parameters=rope)
        case "mistral":
            return MistralConfig(**base, **window)
        case "qwen2":
            return Qwen2Config(**base)
        case "qwen3":
            return Qwen3Config(**base, **window, use_sliding_window=True, max_window_layers=1)
        case "gemma":
            return GemmaConfig(**base)
        case "gemma2":
            caps = {
                "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 5.0,
                "query_pre_attn_scalar": 20,
            }
            return Gemma2Config(**base, **window, **caps)
        case "gemma3_text":
            kinds = ["sliding_attention", "full_attention", "sliding_attention"]
            return Gemma3TextConfig(**base, **window, layer_types=kinds, query_pre_attn_scalar=20)
    raise ValueError(name)


def tiny_model(name: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(name), attn_implementation="eager")
    return model.eval().requires_grad_(False)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is the token of its number; then one token for the end."""
    backend = Tokenizer(models.BPE(vocab=byte_map(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over tensors this small cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model, saved once a session."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("models") / name
            tiny_model(name).save_pretrained(made[name])
            byte_tokenizer().save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture
def make_request() -> Callable[..., Request]:
    """A request with a name of its own; fields of SamplingParams and PolicyConfig by keyword."""
    count = 0

    def make(
        prompt: tuple[int, ...] = (1, 2, 3),
        forced: tuple[int, ...] = (),
        policy: PolicyConfig | None = None,
        request_id: str | None = None,
        **sampling: Any,
    ) -> Request:
        nonlocal count
        count += 1
        params = SamplingParams(**{"temperature": 1.0, "max_tokens": 8, **sampling})
        policy = policy or PolicyConfig(policy="fixed")
        return Request(
            request_id or f"request-{count}",
            prompt,
            params,
            policy,
            time.monotonic(),
            replayed_token_ids=forced,
        )

    return make


def several(
    make: Callable[..., Request],
    count: int,
    rng: random.Random,
    longest: int,
    tokens: tuple[int, int],
    policies: tuple[PolicyConfig, ...],
    logprobs: tuple[int | None, ...] = (),
) -> list[Request]:
    """Requests of all kinds; every other one begins like the one before.

    Prompts of 1 to ``longest`` tokens, replies within ``tokens``, ``policies`` in turn, one of ``logprobs``.
    """
    requests: list[Request] = []
    for i in range(count):
        prompt = [rng.randrange(256) for _ in range(rng.randint(1, longest))]
        if i % 2:
            before = requests[-1].prompt_token_ids
            prompt = [*before[: rng.randint(0, len(before))], *prompt][:longest]
        requests.append(
            make(
                tuple(prompt),
                policy=policies[i % len(policies)],
                seed=rng.randrange(1 << 40),
                max_tokens=rng.randint(*tokens),
                temperature=rng.choice([0.7, 1.0]),
                logprobs=rng.choice(logprobs) if logprobs else None,
            )
        )
    return requests


class _NoText:
    """A tokenizer whose tokens are whole characters."""

    def token_bytes(self, token_id: int) -> bytes:
        return b"x"


def take(sequence: Sequence, token: int) -> FinishReason | None:
    """Gives a sequence a token, as the commit of a step does."""
    sequence.tokens.append(token)
    return sequence.reply.take(token, cast(Any, _NoText()))


class Room:
    """An engine core with what it has told so far."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.tokens: dict[str, list[Token]] = {}
        self.ends: dict[str, FinishReason] = {}
        self.cached: dict[str, int] = {}
        self.preempted: list[str] = []
        self.queries = self.hits = 0

    def add(self, request: Request) -> None:
        self.tokens[request.request_id] = []
        self.core.add(request)

    def step(self) -> StepReport:
        report = self.core.step()
        self.preempted += report.preempted
        self.queries += report.prefix_queries
        self.hits += report.prefix_hits
        for output in report.outputs:
            assert output.request_id not in self.ends, "an output after the end"
            self.tokens[output.request_id] += output.tokens
            self.cached[output.request_id] = output.cached_tokens
            if output.finish_reason is not None:
                self.ends[output.request_id] = output.finish_reason
        return report

    def finish(self) -> Room:
        while not self.core.idle:
            self.step()
        return self

    def row(self, request_id: str) -> Sequence:
        row = self.core.find(request_id)
        assert row is not None
        return row

    def text(self, request_id: str) -> list[int]:
        return [t.token_id for t in self.tokens[request_id]]


@pytest.fixture
def room(model_folder: Callable[[str], Path]) -> Iterator[Callable[..., Room]]:
    """``room(blocks)``: a fresh engine."""

    def opened(blocks: int = 400, name: str = "llama", **more: Any) -> Room:
        options = EngineOptions(
            model=str(model_folder(name)),
            device="cpu",
            threads=1,
            kv_cache_bytes=(blocks + 1) * BLOCK_BYTES,
            **{"block_size": BLOCK, **more},
        )
        return Room(EngineCore(load_model(options), options, None))

    with torch.inference_mode():
        yield opened


def same_signals(got: Token, wanted: Token, rel: float = 1e-3, within: float = 1e-4) -> None:
    """Equal figures up to rounding, absent in the same places."""
    assert [x is None for x in got.signals] == [x is None for x in wanted.signals]
    known = [x for x in got.signals if x is not None]
    assert known == pytest.approx([x for x in wanted.signals if x is not None], rel=rel, abs=within)


def same(got: list[Token], wanted: list[Token]) -> None:
    """Equal tokens and decisions; figures up to rounding."""
    assert [t.token_id for t in got] == [t.token_id for t in wanted]
    for a, b in zip(got, wanted, strict=True):
        assert (a.strategy, a.forced, a.parameters.top_k) == (b.strategy, b.forced, b.parameters.top_k)
        # the first token of a text has no attention to a previous one
        same_signals(a, b)
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
