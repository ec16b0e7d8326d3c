"""The whole engine: thread, queue, streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.signals import SIGNALS, STEP_SIGNALS
from entropick_sampler.strategy import Strategy
from entropick_server.engine.base import EngineDeadError, EngineError, ModelLoadError
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.embedded.model_runner import ModelRunner
from entropick_server.engine.profiles import cached_profile_path
from entropick_server.engine.types import (
    EngineOptions,
    FinishReason,
    Request,
    RequestOutput,
    StepReport,
    Token,
)

from .conftest import END, VOCAB, same_signals, tiny_model
from .test_loader import profile

Make = Callable[..., Request]
Open = Callable[..., contextlib.AbstractAsyncContextManager[EmbeddedEngine]]


@pytest.fixture
def open_engine(model_folder: Callable[[str], Path], tmp_path: Path) -> Open:
    @asynccontextmanager
    async def opened(
        name: str = "llama", calibrator: Any = None, **more: Any
    ) -> AsyncIterator[EmbeddedEngine]:
        options = EngineOptions(model=str(model_folder(name)), device="cpu", threads=1, **more)
        engine = EmbeddedEngine(options, calibrator, profile_cache=tmp_path / "profiles")
        await engine.start()
        try:
            yield engine
        finally:
            await engine.close()

    return opened


async def run(engine: EmbeddedEngine, request: Request) -> tuple[list[Token], RequestOutput]:
    """All tokens of a request, and its last output."""
    tokens: list[Token] = []
    last: RequestOutput | None = None
    async for last in engine.generate(request):
        tokens.extend(last.tokens)
    assert last is not None
    return tokens, last


def ids(tokens: list[Token]) -> list[int]:
    return [t.token_id for t in tokens]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def prompt(n: int, seed: int = 0) -> tuple[int, ...]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, VOCAB, (n,), generator=rng).tolist())


async def test_greedy_text_is_transformers_own(open_engine: Open, make_request: Make) -> None:
    model = tiny_model("llama")
    text = prompt(30)
    with torch.inference_mode():
        wanted = list(text)
        for _ in range(10):
            wanted.append(int(model(torch.tensor([wanted])).logits[0, -1].argmax()))
    async with open_engine(max_num_batched_tokens=17) as engine:
        tokens, last = await run(engine, make_request(text, temperature=0.0, max_tokens=10))
    assert ids(tokens) == wanted[30:]
    assert last.finish_reason is FinishReason.LENGTH
    assert all(len(t.signals) == len(SIGNALS) for t in tokens)
    assert all(None not in t.signals[: len(STEP_SIGNALS)] for t in tokens)


async def test_a_seeded_request_is_the_same_alone_and_in_a_batch(
    open_engine: Open, make_request: Make
) -> None:
    def request(i: int, name: str) -> Request:
        policy = PolicyConfig(preset="seed") if i % 2 else PolicyConfig(policy="fixed")
        return make_request(
            prompt(3 + 5 * i, i), seed=i, max_tokens=20, policy=policy, request_id=f"{name}{i}"
        )

    async with open_engine(max_num_batched_tokens=40) as engine:
        together = await asyncio.gather(*(run(engine, request(i, "t")) for i in range(16)))
        for i in (0, 1, 7, 15):
            alone, _ = await run(engine, request(i, "a"))
            assert ids(alone) == ids(together[i][0])
            for a, b in zip(alone, together[i][0], strict=True):
                same_signals(a, b, 1e-4, 1e-5)
                assert a.parameters == b.parameters or a.parameters.temperature == pytest.approx(
                    b.parameters.temperature, rel=1e-3
                )


async def test_closing_a_stream_frees_its_blocks(open_engine: Open, make_request: Make) -> None:
    async with open_engine() as engine:
        stream = engine.generate(make_request(max_tokens=200, stop_token_ids=()))
        await anext(stream)
        assert engine.gauges().running == 1
        assert engine.gauges().blocks_used > 0
        await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: engine.gauges().blocks_used == 0)
        assert engine.gauges().running == 0


async def test_cancelling_the_reader_cancels_the_request(open_engine: Open, make_request: Make) -> None:
    reports: list[StepReport] = []
    async with open_engine() as engine:
        engine.subscribe(reports.append)
        readers = [
            asyncio.create_task(run(engine, make_request(prompt(20, i), max_tokens=200))) for i in range(5)
        ]
        await until(lambda: engine.gauges().running == 5)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await until(lambda: engine.gauges().blocks_used == 0)
        await until(
            lambda: sum(o.finish_reason is FinishReason.CANCELLED for r in reports for o in r.outputs) == 5
        )


async def test_reports_reach_listeners(open_engine: Open, make_request: Make) -> None:
    reports: list[StepReport] = []
    async with open_engine() as engine:
        engine.subscribe(reports.append)
        await asyncio.gather(*(run(engine, make_request(request_id=str(i), max_tokens=3)) for i in range(3)))
    assert sorted(name for r in reports for name, _ in r.queued_seconds) == ["0", "1", "2"]
    assert sum(len(o.tokens) for r in reports for o in r.outputs) == 9
    assert all(len(r.slots) == len(r.outputs) for r in reports)
    assert {slot for r in reports for slot in r.slots} <= {0, 1, 2}
    assert all(r.duration > 0 for r in reports)
    assert reports[-1].gauges.blocks_used == 0


async def test_why_requests_end(open_engine: Open, make_request: Make) -> None:
    async with open_engine(max_model_len=32) as engine:
        tokens, last = await run(engine, make_request(temperature=0.0, max_tokens=4))
        assert (len(tokens), last.finish_reason) == (4, FinishReason.LENGTH)
        stop = tokens[2].token_id
        expected = ids(tokens).index(stop) + 1
        tokens, last = await run(engine, make_request(temperature=0.0, stop_token_ids=(stop, END)))
        assert (len(tokens), last.finish_reason) == (expected, FinishReason.STOP)
        tokens, last = await run(engine, make_request(prompt(30), max_tokens=50))
        assert (len(tokens), last.finish_reason) == (2, FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prompt": (1,) * 300}, "context"),
        ({"prompt": ()}, "empty"),
        ({"prompt": (VOCAB,)}, "token ids"),
        ({"forced": (-1,)}, "token ids"),
        ({"seed": 1 << 64}, "seed"),
        ({"policy": PolicyConfig(preset="calibrated")}, "profile"),
        ({"policy": PolicyConfig(preset="seed", overrides={"nonsense": 1.0})}, "nonsense"),
    ],
)
async def test_requests_that_cannot_run_end_with_an_error(
    more: dict[str, Any], message: str, open_engine: Open, make_request: Make
) -> None:
    async with open_engine() as engine:
        _, last = await run(engine, make_request(**more))
        assert last.finish_reason is FinishReason.ERROR
        assert message in (last.error or "")
        assert len((await run(engine, make_request(max_tokens=2)))[0]) == 2


async def test_without_measuring_the_text_is_the_same(open_engine: Open, make_request: Make) -> None:
    def request() -> Request:
        return make_request(prompt(20), policy=PolicyConfig(policy="fixed"), seed=4, max_tokens=12)

    async with open_engine() as engine:
        measured, _ = await run(engine, request())
    async with open_engine(measure=False) as engine:
        replies = await asyncio.gather(
            *(run(engine, replace(request(), request_id=str(i))) for i in range(4))
        )
        plain = replies[2][0]
        _, refused = await run(engine, make_request(policy=PolicyConfig(preset="seed")))
    assert ids(plain) == ids(measured)
    assert all(set(t.signals) == {None} for t in plain)
    assert [t.logprob for t in plain] == pytest.approx([t.logprob for t in measured], rel=1e-5, abs=1e-6)
    assert "measures nothing" in (refused.error or "")
    with pytest.raises(ModelLoadError, match="measure"):
        async with open_engine(measure=False, decoder="torch"):
            pass


async def test_teacher_forcing_measures_given_tokens(open_engine: Open, make_request: Make) -> None:
    given = (5, END, 9, 11)
    async with open_engine() as engine:
        tokens, last = await run(
            engine, make_request((1, 2), forced=given, max_tokens=1, logprobs=3, stop_token_ids=(END,))
        )
    assert tuple(ids(tokens)) == given
    assert last.finish_reason is FinishReason.LENGTH
    assert all(t.forced and t.strategy is None for t in tokens)
    model = tiny_model("llama")
    with torch.inference_mode():
        logprobs = model(torch.tensor([[1, 2, *given]])).logits[0].log_softmax(-1)
    for i, token in enumerate(tokens):
        assert token.logprob == pytest.approx(float(logprobs[1 + i, token.token_id]), abs=1e-4)
        best = logprobs[1 + i].topk(3)
        assert [t for t, _ in token.top_logprobs] == best.indices.tolist()
        assert [p for _, p in token.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)


async def test_the_clarifying_text_is_emitted_and_generation_goes_on(
    open_engine: Open, make_request: Make
) -> None:
    always = {
        "clarify_entropy": 0.0,
        "clarify_varentropy": 4096.0,
        "greedy_entropy": 0.0,
        "clarify_cooldown": 3,
    }
    policy = PolicyConfig(preset="seed", overrides={**always, "clarify_budget": 2})
    async with open_engine() as engine:
        text = "Could you tell me more about what you mean?"
        tokens, last = await run(engine, make_request((1,), policy=policy, max_tokens=120))
        forced = [t for t in tokens if t.forced]
        assert engine.tokenizer.decode(ids(forced), skip_special_tokens=False) == f"{text} {text}"
        assert all(t.strategy is Strategy.CLARIFY for t in forced)
        assert tokens[0].forced
        assert not tokens[len(text)].forced or tokens[len(text) + 3].forced
        assert len(tokens) == 120
        assert last.finish_reason is FinishReason.LENGTH
        cut, last = await run(engine, make_request((1,), policy=policy, max_tokens=10))
        assert engine.tokenizer.decode(ids(cut), skip_special_tokens=False) == text[:10]
        assert last.finish_reason is FinishReason.LENGTH


async def test_full_telemetry_is_for_those_who_ask(open_engine: Open, make_request: Make) -> None:
    async with open_engine(monitored_layers=(0, 2)) as engine:
        (full, _), (plain, _) = await asyncio.gather(
            run(engine, make_request(policy=PolicyConfig(preset="seed", telemetry="full"))),
            run(engine, make_request(policy=PolicyConfig(preset="seed", telemetry="tokens"))),
        )
    assert all(t.detail is None for t in plain)
    for token in full:
        assert token.detail is not None
        assert token.detail.layers == (0, 2)
        assert [len(row) for row in token.detail.attention_entropy] == [4, 4]
        by_name = dict(zip((s.name for s in SIGNALS), token.signals, strict=True))
        for name, layers in token.detail.per_layer.items():
            assert sum(layers) / 2 == pytest.approx(by_name[name], rel=1e-5, abs=1e-7)
        means = [sum(row) / 4 for row in token.detail.attention_entropy]
        assert means == pytest.approx(token.detail.per_layer["attention_entropy"], rel=1e-5)
        means = [sum(row) / 4 for row in token.detail.attention_to_previous]
        assert means == pytest.approx(token.detail.per_layer["attention_to_previous"], rel=1e-5)
        assert len(token.detail.candidates) == token.parameters.n_candidates


async def test_bad_logits_fail_their_request_alone(
    open_engine: Open, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ModelRunner.forward

    def poisoned(self: ModelRunner, batch: Any) -> Any:
        measured = forward(self, batch)
        for i, s in enumerate(measured.sequences if measured else ()):
            if s.request.request_id == "bad" and s.reply.length == 2:
                measured.logits[i, 5] = float("nan")
        return measured

    monkeypatch.setattr(ModelRunner, "forward", poisoned)
    async with open_engine() as engine:
        (bad, bad_end), (good, good_end) = await asyncio.gather(
            run(engine, make_request(request_id="bad")), run(engine, make_request(request_id="good"))
        )
        assert (len(bad), bad_end.finish_reason) == (2, FinishReason.ERROR)
        assert "not finite" in (bad_end.error or "")
        assert (len(good), good_end.finish_reason) == (8, FinishReason.LENGTH)
        assert engine.gauges().blocks_used == 0


async def test_a_step_that_raises_ends_its_requests_and_the_engine_goes_on(
    open_engine: Open, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ModelRunner.forward

    def failing(self: ModelRunner, batch: Any) -> Any:
        if any(s.request.request_id == "bad" for s in batch.sequences):
            raise RuntimeError("out of luck")
        return forward(self, batch)

    async with open_engine() as engine:
        monkeypatch.setattr(ModelRunner, "forward", failing)
        _, last = await run(engine, make_request(request_id="bad"))
        assert last.finish_reason is FinishReason.ERROR
        assert "log says why" in (last.error or "")
        assert "out of luck" not in (last.error or ""), "inner errors may hold paths"
        await until(lambda: engine.gauges().blocks_used == 0)
        assert engine.ready
        assert len((await run(engine, make_request()))[0]) == 8


async def test_a_lost_device_ends_the_engine(
    open_engine: Open, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: ModelRunner, batch: Any) -> Any:
        raise torch.AcceleratorError("the device is gone")

    async with open_engine() as engine:
        monkeypatch.setattr(ModelRunner, "forward", lost)
        with pytest.raises(EngineDeadError, match="device is gone"):
            await run(engine, make_request())
        assert not engine.ready
        with pytest.raises(EngineDeadError):
            await run(engine, make_request())


async def test_closing_ends_open_streams(open_engine: Open, make_request: Make) -> None:
    async with open_engine() as engine:
        stream = engine.generate(make_request(max_tokens=200))
        await anext(stream)
        await engine.close()
        with pytest.raises(EngineDeadError, match="stopped"):
            [output async for output in stream]
        with pytest.raises(EngineDeadError):
            await run(engine, make_request())
        assert not engine.ready
        await engine.close()


async def test_a_request_id_in_use_is_refused(open_engine: Open, make_request: Make) -> None:
    async with open_engine() as engine:
        stream = engine.generate(make_request(request_id="one", max_tokens=200))
        await anext(stream)
        with pytest.raises(EngineError, match="in use"):
            await run(engine, make_request(request_id="one"))
        await stream.aclose()  # type: ignore[attr-defined]
        # what the worker still has to say of the first is not taken for the second's
        tokens, last = await run(engine, make_request(request_id="one"))
        assert (len(tokens), last.finish_reason) == (8, FinishReason.LENGTH)


async def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    engine = EmbeddedEngine(EngineOptions(model=str(tmp_path)))
    with pytest.raises(EngineDeadError):
        _ = engine.info
    with pytest.raises(ModelLoadError):
        await engine.start()
    assert not engine.ready


def calibrator(layers: tuple[int, ...], seen: list[bool]) -> Callable[[EmbeddedEngine], Awaitable[Any]]:
    async def calibrate(engine: EmbeddedEngine) -> Any:
        seen.append(engine.ready)
        request = Request(
            "c", (1, 2), SamplingParams(), PolicyConfig(policy="fixed"), 0.0, replayed_token_ids=(3, 4)
        )
        assert ids((await run(engine, request))[0]) == [3, 4]
        return profile(layers, engine.model_hash)

    return calibrate


async def test_calibration_before_ready_and_only_once(
    open_engine: Open, make_request: Make, tmp_path: Path
) -> None:
    seen: list[bool] = []
    async with open_engine(calibrator=calibrator((0, 1, 2), seen)) as engine:
        assert seen == [False]
        assert engine.ready
        assert engine.profile is not None
        path = cached_profile_path(tmp_path / "profiles", engine.model_hash, (0, 1, 2))
        assert path.is_file()
        _, last = await run(engine, make_request(policy=PolicyConfig(preset="calibrated")))
        assert last.finish_reason is FinishReason.LENGTH
    async with open_engine(calibrator=calibrator((0, 1, 2), seen)) as engine:
        assert engine.profile is not None
    assert seen == [False]


async def test_calibration_on_other_layers_is_refused(open_engine: Open) -> None:
    with pytest.raises(ModelLoadError, match="calibrated on layers"):
        async with open_engine(calibrator=calibrator((0, 1), [])):
            pass


async def test_no_calibration(open_engine: Open) -> None:
    seen: list[bool] = []
    async with open_engine(calibrator=calibrator((0, 1, 2), seen), calibrate=False) as engine:
        assert engine.profile is None
    assert not seen


@pytest.mark.parametrize(
    ("name", "dtype"), [("gemma2", "auto"), ("qwen3", "auto"), ("llama", "bfloat16"), ("gemma", "bfloat16")]
)
async def test_other_architectures_and_dtypes_run_too(
    name: str, dtype: str, open_engine: Open, make_request: Make
) -> None:
    async with open_engine(name, dtype=dtype) as engine:
        tokens, _ = await run(engine, make_request(prompt(40), max_tokens=5))
        assert len(tokens) == 5


async def test_leaving_after_the_end_arrived_forgets_the_request(
    open_engine: Open, make_request: Make
) -> None:
    """A reader that goes while the end lies unread in its queue: nothing waits for another end."""
    async with open_engine() as engine:
        stream = engine.generate(make_request(request_id="twice", max_tokens=3))
        await anext(stream)
        await until(lambda: engine.gauges().running == 0)
        await asyncio.sleep(0)
        await stream.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            assert len((await run(engine, make_request(request_id="twice")))[0]) == 8
