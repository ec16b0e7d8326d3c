"""Logits and signals of the packed, paged engine against eager transformers, architecture by architecture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from entropick_kernels.attention_stats import reference
from entropick_sampler.signals import ATTENTION_SIGNALS
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.embedded import native_decoder
from entropick_server.engine.embedded.block_pool import BlockPool
from entropick_server.engine.embedded.cache import CacheShape, KVCache
from entropick_server.engine.embedded.decoders import choose_decoder
from entropick_server.engine.embedded.llama_family import FAMILY, in_family
from entropick_server.engine.embedded.loader import Loaded
from entropick_server.engine.embedded.model_runner import ModelRunner
from entropick_server.engine.embedded.modules_decoder import ATTENTION_NAME, paged_attention, register
from entropick_server.engine.embedded.scheduler import Scheduler
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.types import DecoderChoice, EngineOptions, Request

from .conftest import VOCAB, take, tiny_config, tiny_model

ARCHITECTURES = ("llama", "llama-rope", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
STEPS = 5
REL, ABS = 1e-4, 1e-5
# the first token of a text has NaN for its attention to the previous one
close = partial(torch.testing.assert_close, equal_nan=True)

Row = tuple[Tensor, Tensor]


@dataclass
class Recorder:
    """Eager attention that keeps the newest query's scores, layer by layer, in float64."""

    scores: list[np.ndarray[Any, Any]] = field(default_factory=list)
    valid: list[np.ndarray[Any, Any]] = field(default_factory=list)

    def __call__(
        self, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, *, scaling: float, **kw: Any
    ) -> tuple[Tensor, None]:
        group, n = q.shape[1] // k.shape[1], k.shape[2]
        k, v = (x.repeat_interleave(group, 1).double() for x in (k, v))
        scores = q.double() @ k.transpose(-1, -2) * scaling
        cap, window = kw.get("softcap"), kw.get("sliding_window")
        if cap:
            scores = torch.tanh(scores / cap) * cap
        at = torch.arange(n)
        seen = at[None] <= at[:, None]
        if window:
            seen &= at[None] > at[:, None] - window
        self.scores.append(scores[0, :, -1].numpy())
        self.valid.append(seen[-1].numpy())
        out = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v
        return out.to(q.dtype).transpose(1, 2), None

    def signals(self) -> list[float]:
        scores, valid = np.stack(self.scores), np.stack(self.valid)
        return [getattr(reference, s.name)(scores, valid) for s in ATTENTION_SIGNALS]


def expected(model: PreTrainedModel, ids: list[int], prompt: int) -> list[Row]:
    """Logits of eager attention, and the reference's signals on recorded attention, for every reply token."""
    model.set_attn_implementation("eager")
    logits = model(torch.tensor([ids])).logits[0]
    rows: list[Row] = []
    for end in range(prompt, len(ids) + 1):
        recorder = Recorder()
        AttentionInterface.register("recorded", recorder)
        model.set_attn_implementation("recorded")
        recorded = model(torch.tensor([ids[:end]])).logits[0, -1]
        torch.testing.assert_close(recorded, logits[end - 1], rtol=0, atol=1e-4)
        rows.append((logits[end - 1], torch.tensor(recorder.signals())))
    return rows


def served(
    model: PreTrainedModel,
    texts: list[tuple[list[int], int]],
    make: Callable[..., Request],
    budget: int,
    decoder: DecoderChoice = "modules",
    block: int = 8,
) -> list[list[Row]]:
    """What the engine's own forward gives for the same texts, all in one run."""
    register()
    model.set_attn_implementation(ATTENTION_NAME)
    config = model.config
    pool = BlockPool(200)
    scheduler = Scheduler(pool, block, 16, budget)
    shape = CacheShape(config.num_hidden_layers, 2, 16, block, 201, torch.float32)
    cache = KVCache(shape, torch.device("cpu"))
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(math.nan)  # whatever is not written must not matter
    loaded = cast(Loaded, SimpleNamespace(model=model, source=SimpleNamespace(gguf=None)))
    chosen = choose_decoder(loaded, 256, EngineOptions(model="made", decoder=decoder))
    runner = ModelRunner(chosen, cache, range(config.num_hidden_layers))
    rows: dict[Sequence, list[Row]] = {}
    for ids, prompt in texts:
        sequence = Sequence.of(make(tuple(ids[:prompt]), forced=(*ids[prompt:], 0)), 256)
        rows[sequence] = []
        scheduler.add(sequence)
    while not scheduler.idle:
        batch = scheduler.schedule()
        measured = runner.forward(batch)
        scheduler.advance(batch)
        if measured is None:
            continue
        for i, s in enumerate(measured.sequences):
            rows[s].append((measured.logits[i], measured.signals[i]))
            if take(s, s.reply.pending[0]) is not None:
                scheduler.finish(s)
    assert pool.used == 0
    return list(rows.values())


def random_texts(prompts: tuple[int, ...]) -> list[tuple[list[int], int]]:
    rng = torch.Generator().manual_seed(1)
    return [(torch.randint(0, VOCAB, (n + STEPS,), generator=rng).tolist(), n) for n in prompts]


FUSED = [name for name in ARCHITECTURES if tiny_config(name).model_type in FAMILY]


@pytest.mark.parametrize(
    ("name", "decoder", "block"),
    [
        *((n, "modules", 8) for n in ARCHITECTURES),
        *((n, d, 8) for n in FUSED for d in ("torch", "auto")),
        *((n, "auto", 16) for n in FUSED),
    ],
)
def test_logits_and_signals_equal_eager_attention(
    name: str, decoder: DecoderChoice, block: int, make_request: Callable[..., Request]
) -> None:
    model = tiny_model(name)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases begin as ones and zeros, which would hide a mistake
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    assert in_family(model) == native_decoder.serves(model) == (name in FUSED)
    texts = random_texts((70, 5, 33, 1))
    with torch.inference_mode():
        wanted = [expected(model, ids, prompt) for ids, prompt in texts]
        got = served(model, texts, make_request, budget=23, decoder=decoder, block=block)
    for gs, ws in zip(got, wanted, strict=True):
        assert len(gs) == STEPS + 1
        for (logits, signals), (reference_logits, reference_signals) in zip(gs, ws, strict=True):
            torch.testing.assert_close(logits, reference_logits, rtol=0, atol=1e-4)
            close(signals.double(), reference_signals.double(), rtol=REL, atol=ABS)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_text"])
def test_neighbours_do_not_change_a_row(name: str, make_request: Callable[..., Request]) -> None:
    model = tiny_model(name)
    texts = random_texts(tuple(1 + 7 * i for i in range(16)))
    with torch.inference_mode():
        together = served(model, texts, make_request, budget=50)
        for index in (0, 3, 15):
            alone = served(model, [texts[index]], make_request, budget=500)[0]
            for (logits, signals), (alone_logits, alone_signals) in zip(together[index], alone, strict=True):
                torch.testing.assert_close(logits, alone_logits, rtol=0, atol=1e-4)
                close(signals, alone_signals, rtol=REL, atol=ABS)


@pytest.mark.parametrize("extra", [{"attention_mask": torch.ones(1)}, {"s_aux": torch.ones(1)}])
def test_what_the_kernels_do_not_know_is_refused(extra: dict[str, Tensor]) -> None:
    mask = extra.pop("attention_mask", None)
    with pytest.raises(ModelLoadError, match="sinks"):
        paged_attention(None, None, None, None, mask, entropick=None, **extra)  # type: ignore[arg-type]
