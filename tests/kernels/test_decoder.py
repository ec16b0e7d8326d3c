"""The native decoder against its float64 reference, and that neighbours and threads change no bit."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from entropick_kernels.attention_stats import layer_signals, reference
from entropick_kernels.decoder import (
    Decoded,
    DecoderShape,
    DecoderStep,
    LayerWeights,
    NativeDecoder,
    PrefillChunk,
    PromptSurprisals,
    numba_impl,
)
from entropick_kernels.decoder.reference import forward
from entropick_kernels.logits_stats.reference import surprisal as logits_surprisal

BLOCK = 4
close = partial(torch.testing.assert_close, equal_nan=True)
NAMES = (
    "attention_entropy",
    "attention_entropy_normalized",
    "attention_varentropy",
    "agreement",
    "agreement_seed",
    "interaction_strength",
    "attention_to_previous",
)
SHAPES = {
    "even": DecoderShape(hidden=32, heads=4, kv_heads=2, width=16, ffn=48, vocab=64, eps=1e-6),
    "odd": DecoderShape(hidden=37, heads=3, kv_heads=1, width=6, ffn=21, vocab=51, eps=1e-5),
    "alone": DecoderShape(hidden=9, heads=2, kv_heads=2, width=2, ffn=3, vocab=7, eps=1e-5),
    "own keys": DecoderShape(hidden=24, heads=2, kv_heads=2, width=64, ffn=16, vocab=32, eps=1e-5),
    "eight a key": DecoderShape(hidden=24, heads=8, kv_heads=1, width=40, ffn=16, vocab=32, eps=1e-5),
    "wide": DecoderShape(hidden=64, heads=4, kv_heads=2, width=16, ffn=96, vocab=70, eps=1e-5),
    "three a key": DecoderShape(hidden=24, heads=6, kv_heads=2, width=16, ffn=16, vocab=32, eps=1e-5),
}


@dataclass
class Model:
    shape: DecoderShape
    layers: list[LayerWeights]
    embed: Tensor
    norm: Tensor
    head: Tensor | None
    cos: Tensor
    sin: Tensor

    @property
    def parts(self) -> tuple[object, ...]:
        return self.shape, self.layers, self.embed, self.norm, self.head, self.cos, self.sin

    def native(self) -> NativeDecoder:
        return NativeDecoder(*self.parts)


def make_model(
    name: str, bias: bool = False, norms: bool = False, tied: bool = False, window: int = 5
) -> Model:
    s = SHAPES[name]
    rng = torch.Generator().manual_seed(3)

    def random(*size: int, by: float = 0.4) -> Tensor:
        return torch.randn(*size, generator=rng) * by

    wide, joined = s.heads * s.width, (s.heads + 2 * s.kv_heads) * s.width
    layers = [
        LayerWeights(
            norm_in=1 + random(s.hidden),
            w_qkv=random(joined, s.hidden),
            b_qkv=random(joined) if bias else None,
            norm_q=1 + random(s.width) if norms else None,
            norm_k=1 + random(s.width) if norms else None,
            w_out=random(s.hidden, wide),
            b_out=random(s.hidden) if bias else None,
            norm_post=1 + random(s.hidden),
            w_gate=random(s.ffn, s.hidden),
            b_gate=random(s.ffn) if bias else None,
            w_up=random(s.ffn, s.hidden),
            b_up=random(s.ffn) if bias else None,
            w_down=random(s.hidden, s.ffn),
            b_down=random(s.hidden) if bias else None,
            scale=0.3,
            window=last,
        )
        for last in (None, window, None)
    ]
    angle = torch.arange(256).unsqueeze(1) * 0.3 ** torch.arange(s.width // 2).unsqueeze(0)
    head = None if tied else random(s.vocab, s.hidden)
    return Model(s, layers, random(s.vocab, s.hidden), 1 + random(s.hidden), head, angle.cos(), angle.sin())


class Cache:
    """Blocks full of NaN, handed out in an order of their own."""

    def __init__(self, model: Model, blocks: int = 40, block: int = BLOCK) -> None:
        self.block = block
        size = (blocks, model.shape.kv_heads, block, model.shape.width)
        self.keys = [torch.full(size, math.nan) for _ in model.layers]
        self.values = [torch.full(size, math.nan) for _ in model.layers]
        self.free = torch.randperm(blocks, generator=torch.Generator().manual_seed(5)).tolist()

    def blocks(self, length: int) -> list[int]:
        return [self.free.pop() for _ in range(-(-length // self.block))]


def slot(blocks: list[int], at: int, block: int = BLOCK) -> int:
    return blocks[at // block] * block + at % block


def run(
    model: Model,
    native: NativeDecoder,
    texts: list[list[int]],
    monitored: frozenset[int] | None = None,
    bits: list[Tensor] | None = None,
) -> Decoded:
    """The last token of every text as a row, everything before it as one piece of a prompt each.

    ``bits``: surprisals of the texts' tokens, where token costs are wanted.
    """
    cache = Cache(model)
    owned = [cache.blocks(len(text)) for text in texts]
    surprisals = None
    if bits is not None:
        surprisals = torch.full((cache.keys[0].shape[0], BLOCK), math.nan)
        for of_text, blocks in zip(bits, owned, strict=True):
            for at, value in enumerate(of_text):
                surprisals[blocks[at // BLOCK], at % BLOCK] = value
    places = [(i, at) for i, text in enumerate(texts) for at in range(len(text) - 1)]
    places += [(i, len(text) - 1) for i, text in enumerate(texts)]
    table = torch.zeros(len(texts), max(len(p) for p in owned), dtype=torch.int32)
    for i, blocks in enumerate(owned):
        table[i, : len(blocks)] = torch.tensor(blocks)
    step = DecoderStep(
        ids=torch.tensor([texts[i][at] for i, at in places]),
        positions=torch.tensor([at for _, at in places]),
        cache_index=torch.tensor([slot(owned[i], at) for i, at in places], dtype=torch.int32),
        keys=cache.keys,
        values=cache.values,
        block_table=table,
        lengths=torch.tensor([len(text) for text in texts], dtype=torch.int32),
        rows=len(texts),
        chunks=[
            PrefillChunk(len(text) - 1, torch.tensor(blocks, dtype=torch.int32), len(text) - 1)
            for text, blocks in zip(texts, owned, strict=True)
            if len(text) > 1
        ],
        monitored=frozenset(range(len(model.layers))) if monitored is None else monitored,
        surprisals=surprisals,
    )

    decoded = native(step)
    # the same rows again, without the prompts: one call, the cache as it is
    before = len(places) - len(texts)
    again = native(
        replace(
            step,
            ids=step.ids[before:],
            positions=step.positions[before:],
            cache_index=step.cache_index[before:],
            chunks=(),
        )
    )
    same_bits(decoded, again)
    return decoded


def same_bits(one: Decoded, two: Decoded) -> None:
    """NaN included: the first token of a text has no attention to a previous one."""
    exact = {"rtol": 0, "atol": 0}
    close(one.logits, two.logits, **exact)
    close(one.by_layer, two.by_layer, **exact)
    assert (one.costs is None) == (two.costs is None)
    if one.costs is not None:
        close(one.costs, two.costs, **exact)
    for a, b in zip(one.heads, two.heads, strict=True):
        close(a, b, **exact)


def random_texts(model: Model, lengths: tuple[int, ...]) -> list[list[int]]:
    rng = torch.Generator().manual_seed(7)
    return [torch.randint(0, model.shape.vocab, (n,), generator=rng).tolist() for n in lengths]


@pytest.mark.parametrize(
    ("name", "bias", "norms", "tied"),
    [("even", False, False, False), ("odd", True, True, True), ("odd", False, True, False),
     ("alone", True, False, True)],
)  # fmt: skip
def test_logits_and_signals_equal_the_reference(name: str, bias: bool, norms: bool, tied: bool) -> None:
    model = make_model(name, bias, norms, tied)
    texts = random_texts(model, (1, 9, 4, 5, 13, 2, 8))
    decoded = run(model, model.native(), texts)
    for i, text in enumerate(texts):
        logits, scores, seen = forward(*model.parts, text)
        np.testing.assert_allclose(decoded.logits[i].double().numpy(), logits[-1], atol=5e-5)
        for at, signal in enumerate(NAMES):
            of_layers = [
                getattr(reference, signal)(scores[layer : layer + 1], seen[layer : layer + 1])
                for layer in range(len(model.layers))
            ]
            np.testing.assert_allclose(decoded.by_layer[:, i, at], of_layers, rtol=2e-5, atol=2e-5)
    close(decoded.signals, decoded.by_layer.mean(0))
    close(decoded.by_layer, layer_signals(decoded.heads), rtol=1e-5, atol=1e-5)
    # a text of one token has no previous one
    assert decoded.signals[:, -1].isnan().tolist() == [len(text) == 1 for text in texts]


@pytest.mark.parametrize("name", ["even", "odd"])
@pytest.mark.parametrize("threads", [1, 2])
def test_token_costs_equal_the_reference(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(name, window=5)
    texts = random_texts(model, (1, 9, 4, 13, 2, 16))
    rng = torch.Generator().manual_seed(2)
    bits = [torch.rand(len(text), generator=rng) * 9 for text in texts]
    bits[3][4] = -1.0
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: threads)
    native = model.native()
    plain = run(model, native, texts, frozenset({0, 1}))
    decoded = run(model, native, texts, frozenset({0, 1}), bits)
    same_bits(plain, decoded._replace(costs=None))
    assert decoded.costs is not None
    assert decoded.costs.shape == (2, len(texts), model.shape.heads, 4)
    for i, text in enumerate(texts):
        _, scores, seen = forward(*model.parts, text)
        for layer in (0, 1):
            of_keys = scores[layer], bits[i].double().numpy(), seen[layer]
            wanted = [
                reference.head_token_cost(*of_keys),
                reference.head_token_cost_relative(*of_keys),
                reference.head_sink_mass(scores[layer], seen[layer]),
            ]
            got = decoded.costs[layer, i].double().numpy()
            np.testing.assert_allclose(got[:, :3], np.stack(wanted, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "tied"), [("even", True), ("odd", False)])
@pytest.mark.parametrize("threads", [1, 2])
def test_surprisals_of_a_prompt_equal_the_reference(
    name: str, tied: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(name, tied=tied)
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: threads)
    native = model.native()
    (text,) = random_texts(model, (70,))
    logits = forward(*model.parts, text)[0]
    wanted = logits_surprisal(logits[:-1], text[1:])
    cache = Cache(model)
    blocks = torch.tensor(cache.blocks(len(text)), dtype=torch.int32)
    places = torch.arange(len(text) - 1)
    tokens = places[places % 3 != 1]
    bits = torch.full((len(tokens),), -1.0)
    step = DecoderStep(
        ids=torch.tensor(text[:-1]),
        positions=places,
        cache_index=torch.tensor([slot(blocks.tolist(), at) for at in places], dtype=torch.int32),
        keys=cache.keys,
        values=cache.values,
        block_table=torch.zeros(0, 1, dtype=torch.int32),
        lengths=torch.zeros(0, dtype=torch.int32),
        rows=0,
        chunks=[PrefillChunk(len(text) - 1, blocks, len(text) - 1)],
        monitored=frozenset({0}),
        prompt=PromptSurprisals(tokens, torch.tensor(text)[tokens + 1], bits),
    )
    assert native(step) is None
    np.testing.assert_allclose(bits.double().numpy(), wanted[tokens.numpy()], rtol=1e-4, atol=1e-4)
    check_ranks(native, step, logits)
    # a few at a time: the same bits
    one = torch.full((1,), -1.0)
    chosen = PromptSurprisals(tokens[40:41], torch.tensor(text)[tokens[40:41] + 1], one)
    native(replace(step, prompt=chosen))
    assert one[0] == bits[40]
    for bad in (chosen._replace(tokens=places[-1:] + 1), chosen._replace(targets=tokens[:1] - 1)):
        with pytest.raises(IndexError, match="prompt"):
            native(replace(step, prompt=bad))
    with pytest.raises(ValueError, match="prompt"):
        native(replace(step, prompt=chosen._replace(bits=one.double())))


def check_ranks(native: NativeDecoder, step: DecoderStep, logits: npt.NDArray[np.float64]) -> None:
    """Ranks and the most probable tokens against the reference's logits; surprisals keep their bits."""
    plain = step.prompt
    assert plain is not None
    count = len(plain.tokens)
    ranked = plain._replace(
        bits=torch.zeros(count),
        ranks=torch.zeros(count, dtype=torch.int64),
        top_ids=torch.zeros(count, 7, dtype=torch.int32),
        top_bits=torch.zeros(count, 7),
    )
    native(replace(step, prompt=ranked))
    assert torch.equal(ranked.bits, plain.bits)
    rows = logits[plain.tokens.numpy()]
    for i, (row, target) in enumerate(zip(rows, plain.targets.tolist(), strict=True)):
        assert ranked.ranks[i] == (row >= row[target]).sum()
        best = np.argsort(-row, kind="stable")[:7]
        assert ranked.top_ids[i].tolist() == best.tolist()
        wanted = [logits_surprisal(row[None], [token])[0] for token in best]
        np.testing.assert_allclose(ranked.top_bits[i].double().numpy(), wanted, rtol=1e-4, atol=1e-4)
    none = ranked._replace(top_ids=ranked.top_ids[:, :0], top_bits=ranked.top_bits[:, :0])
    native(replace(step, prompt=none))
    for bad in (
        {"ranks": ranked.ranks.int()},
        {"top_ids": ranked.top_ids[1:]},
        {"top_bits": ranked.top_bits[:, :3]},
        {"top_ids": torch.zeros(count, 9999, dtype=torch.int32), "top_bits": torch.zeros(count, 9999)},
    ):
        with pytest.raises(ValueError, match="prompt"):
            native(replace(step, prompt=ranked._replace(**bad)))


def feed(model: Model, native: NativeDecoder, text: list[int], ends: list[int], block: int) -> list[Decoded]:
    """A text step by step, each up to the next of ``ends``: what every step gives for its last token."""
    cache = Cache(model, 60, block)
    blocks = cache.blocks(len(text))
    decoded, begin = [], 0
    for end in ends:
        places = range(begin, end)
        owned = torch.tensor(blocks[: -(-end // block)], dtype=torch.int32)
        step = DecoderStep(
            ids=torch.tensor([text[at] for at in places]),
            positions=torch.tensor(list(places)),
            cache_index=torch.tensor([slot(blocks, at, block) for at in places], dtype=torch.int32),
            keys=cache.keys,
            values=cache.values,
            block_table=owned.unsqueeze(0),
            lengths=torch.tensor([end], dtype=torch.int32),
            rows=1,
            chunks=[PrefillChunk(end - begin - 1, owned, end - 1)] if end - begin > 1 else (),
            monitored=frozenset(range(len(model.layers))),
        )
        decoded.append(native(step))
        begin = end
    return decoded


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("window", [3, 21, 50])
def test_chunks_blocks_and_decoding_change_no_bit(name: str, window: int) -> None:
    model = make_model(name, norms=True, window=window)
    native = model.native()
    (text,) = random_texts(model, (150,))
    by_token = feed(model, native, text, list(range(1, 151)), 16)
    rng = random.Random(window)
    for block in (16, 4, 5, 32):
        for chunks in (1, 2, 6, 20):
            ends = sorted({*rng.sample(range(1, 150), chunks - 1), 150})
            for end, decoded in zip(ends, feed(model, native, text, ends, block), strict=True):
                same_bits(decoded, by_token[end - 1])


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("block", [5, 16])
def test_long_prompts_equal_the_reference(name: str, block: int) -> None:
    model = make_model(name, window=21)
    native = model.native()
    (text,) = random_texts(model, (150,))
    logits, scores, seen = forward(*model.parts, text)
    ends = [70, 71, 100, 150]
    chunked = feed(model, native, text, ends, block)
    for end, decoded in zip(ends, chunked, strict=True):
        np.testing.assert_allclose(decoded.logits[0].double().numpy(), logits[end - 1], atol=2e-4)
    for at, signal in enumerate(NAMES):
        of_layers = [
            getattr(reference, signal)(scores[layer : layer + 1], seen[layer : layer + 1])
            for layer in range(len(model.layers))
        ]
        np.testing.assert_allclose(chunked[-1].by_layer[:, 0, at], of_layers, rtol=5e-5, atol=5e-5)


def test_short_runs_of_a_prompt_equal_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("three a key", window=21)
    native = model.native()
    (text,) = random_texts(model, (150,))
    long = feed(model, native, text, [150], 16)[0]
    for rows in (1, 3, 15, 60):
        monkeypatch.setattr(numba_impl, "MOST_ROWS", 1)
        monkeypatch.setattr(numba_impl, "_QUERIES_AT_ONCE", rows)
        same_bits(feed(model, native, text, [150], 16)[0], long)
    monkeypatch.setattr(numba_impl, "_RUN_FLOATS", 300)
    same_bits(feed(model, native, text, [150], 16)[0], long)


def test_chunks_that_do_not_fit_are_refused() -> None:
    model = make_model("even")
    cache = Cache(model)
    blocks = torch.tensor([0, 1], dtype=torch.int32)
    step = DecoderStep(
        ids=torch.tensor([1, 2, 3]),
        positions=torch.arange(3),
        cache_index=torch.arange(3, dtype=torch.int32),
        keys=cache.keys,
        values=cache.values,
        block_table=torch.zeros(0, 1, dtype=torch.int32),
        lengths=torch.zeros(0, dtype=torch.int32),
        rows=0,
        chunks=[PrefillChunk(3, blocks, 3)],
        monitored=frozenset({0}),
    )
    native = model.native()
    assert native(step) is None
    for chunk in (PrefillChunk(2, blocks, 3), PrefillChunk(3, blocks, 2), PrefillChunk(0, blocks, 3)):
        with pytest.raises(ValueError, match="chunk"):
            native(replace(step, chunks=[chunk]))
    for chunk in (
        PrefillChunk(3, blocks[:0], 3),
        PrefillChunk(3, blocks, 9),
        PrefillChunk(3, blocks + 1000, 3),
        PrefillChunk(3, blocks - 1, 3),
    ):
        with pytest.raises(IndexError):
            native(replace(step, chunks=[chunk]))


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neighbours_and_threads_change_no_bit(
    name: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(name, bias=True)
    native = model.native()
    texts = random_texts(model, tuple(1 + i % 14 for i in range(0, 39, 3)))
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: threads)
    together = run(model, native, texts)
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: 1)
    for i, text in enumerate(texts):
        alone = run(model, native, [text])
        assert torch.equal(alone.logits[0], together.logits[i])
        close(alone.by_layer[:, 0], together.by_layer[:, i], rtol=0, atol=0)


def test_rows_in_blocks_equal_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("even")
    texts = random_texts(model, (3, 9, 4, 12, 1))
    at_once = run(model, model.native(), texts, frozenset({0, 2}))
    monkeypatch.setattr(numba_impl, "_SCRATCH_FLOATS", 2 * model.shape.heads * 12)
    in_blocks = run(model, model.native(), texts, frozenset({0, 2}))
    assert at_once.by_layer.shape == (2, 5, 7)
    same_bits(at_once, in_blocks)


def test_monitored_layers_are_picked() -> None:
    model = make_model("even")
    texts = random_texts(model, (3, 9))
    native = model.native()
    everything, some = run(model, native, texts), run(model, native, texts, frozenset({2, 1}))
    assert torch.equal(everything.by_layer[1:], some.by_layer)
    assert torch.equal(everything.heads.entropy[1:], some.heads.entropy)
    assert torch.equal(everything.heads.keys[1:], some.heads.keys)
    assert torch.equal(everything.logits, some.logits)


def test_a_bad_row_spoils_itself_alone() -> None:
    model = make_model("even")
    model.embed[0] = math.nan
    texts = [[1, 2], [1, 0], [3, 4]]
    native = model.native()
    cache = Cache(model)
    owned = [cache.blocks(1) for _ in texts]
    step = DecoderStep(
        ids=torch.tensor([text[-1] for text in texts]),
        positions=torch.zeros(3, dtype=torch.int64),
        cache_index=torch.tensor([slot(blocks, 0) for blocks in owned], dtype=torch.int32),
        keys=cache.keys,
        values=cache.values,
        block_table=torch.tensor(owned, dtype=torch.int32),
        lengths=torch.ones(3, dtype=torch.int32),
        rows=3,
        chunks=(),
        monitored=frozenset({0}),
    )
    decoded = native(step)
    assert decoded.logits.isfinite().all(-1).tolist() == [True, False, True]


@pytest.mark.parametrize("change", ["ids", "positions", "cache_index", "block_table", "lengths"])
@pytest.mark.parametrize("value", [-1, 1000])
def test_tokens_out_of_range_are_refused(change: str, value: int) -> None:
    model = make_model("even")
    cache = Cache(model)
    step = DecoderStep(
        ids=torch.tensor([1]),
        positions=torch.tensor([0]),
        cache_index=torch.tensor([0], dtype=torch.int32),
        keys=cache.keys,
        values=cache.values,
        block_table=torch.tensor([[0]], dtype=torch.int32),
        lengths=torch.tensor([1], dtype=torch.int32),
        rows=1,
        chunks=(),
        monitored=frozenset({0}),
    )
    bad = replace(step, **{change: torch.full_like(getattr(step, change), value)})
    native = model.native()
    with pytest.raises(IndexError):
        native(bad)
    assert native(step).logits.isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    model = make_model("even")
    with pytest.raises(ValueError, match="w_down"):
        replace(model, layers=[replace(model.layers[0], w_down=torch.zeros(3, 3))]).native()
    with pytest.raises(ValueError, match="float32"):
        replace(model, norm=model.norm.double()).native()
    with pytest.raises(ValueError, match="share"):
        replace(model.shape, kv_heads=3)
    with pytest.raises(ValueError, match="at least 1"):
        replace(model.shape, vocab=0)
