"""Calibration through the engine: what is read, what is measured, what is written, and the first start."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entropick_sampler.calibrate import MIN_LABELLED, fit
from entropick_sampler.calibrate_opening import KINDS
from entropick_sampler.genuineness import reference
from entropick_sampler.params import PolicyConfig
from entropick_sampler.profile import PROFILE_FILE, Profile
from entropick_sampler.signals import POLICY_SIGNALS, SIGNALS
from entropick_server.calibration import (
    CalibrationDataError,
    Sample,
    calibrate_first,
    calibrate_model,
    collect,
    measure,
    read_samples,
    token_indices,
)
from entropick_server.calibration.cuts import MOST_TOKENS, _replay, measure_cuts, replies_of
from entropick_server.calibration.run import ENOUGH_TOKENS, measure_openings
from entropick_server.calibration.samples import BUILT_IN_PROMPTS, BUILT_IN_TOKENS
from entropick_server.engine.base import Engine, EngineError, ModelLoadError
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.gguf_files import gguf_identity
from entropick_server.engine.named_models import NAMED_MODELS
from entropick_server.engine.profiles import SHIPPED, cached_profile_path, calibrated_path, find_profile
from entropick_server.engine.types import EngineOptions, Request, Token

from .conftest import byte_tokenizer, tiny_model
from .test_loader import profile

Folder = Callable[[str], Path]
END = 256


def unprofiled(folder: Path, **more: Any) -> EmbeddedEngine:
    """An engine for calibration, which serves without a profile."""
    return EmbeddedEngine(EngineOptions(str(folder), threads=1, calibrate=False, use_profile=False, **more))


@pytest.fixture
async def engine(model_folder: Folder, tmp_path: Path) -> Any:
    options = EngineOptions(str(model_folder("llama")), calibrate=False, threads=1)
    running = EmbeddedEngine(options, profile_cache=tmp_path)
    await running.start()
    yield running
    await running.close()


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def chat(question: str, answer: str, *ambiguous_at: int) -> dict[str, object]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "ambiguous_at": list(ambiguous_at)}


async def test_the_three_shapes_of_a_line(engine: EmbeddedEngine, tmp_path: Path) -> None:
    path = lines(
        tmp_path / "data.jsonl",
        chat("Hi?", "Is it so?", 3),
        {"prompt": "ab", "completion": "cd"},
        {"text": "xyz"},
    )

    def ids(text: str) -> tuple[int, ...]:
        return tuple(engine.tokenizer.encode(text, add_special_tokens=False))

    first, second, third = read_samples(path, engine.tokenizer, (END,), 200)
    assert first.reply == (*ids("Is it so?"), END)
    assert first.ambiguous == {3}
    assert first.prompt == ids("user: Hi?\n")
    assert (second.prompt, second.reply) == (ids("ab"), ids("cd"))
    assert (third.prompt, third.reply) == (ids("x"), ids("yz"))


@pytest.mark.parametrize(
    ("row", "needle"),
    [
        ({"nothing": 1}, "line 1: expected one of the keys"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 1: the last message"),
        ({"messages": []}, "line 1"),
        ({"prompt": "x"}, "line 1: 'completion'"),
        ([1], "line 1"),
        ({"text": ""}, "line 1: the prompt has no tokens"),
        ({"text": "x"}, "no usable line"),
    ],
)
async def test_bad_lines_are_named(engine: EmbeddedEngine, tmp_path: Path, row: object, needle: str) -> None:
    with pytest.raises(CalibrationDataError, match=needle):
        read_samples(lines(tmp_path / "data.jsonl", row), engine.tokenizer, (END,), 200)


def asked(text: str, kind: str, template: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "kind": kind, "template": template}


async def test_labelled_prompts_are_read_and_their_first_distribution_is_measured(
    engine: EmbeddedEngine, tmp_path: Path
) -> None:
    path = lines(
        tmp_path / "data.jsonl",
        asked("Fix it.", "ambiguous", "fix/ambiguous"),
        {"prompt": "Once", "kind": "other", "id": "text-1/0"},
        {**chat("Hi?", "Yes."), "kind": "die"},
    )
    samples = read_samples(path, engine.tokenizer, (END,), 200)
    assert [(s.kind, s.group) for s in samples] == [("ambiguous", "fix"), ("other", "text-1"), (None, "")]
    assert samples[0].prompt == tuple(engine.tokenizer.encode("user: Fix it.\n", add_special_tokens=False))
    measured = await measure_openings(engine, samples[:2], 2)
    assert measured.kinds == ("ambiguous", "other")
    assert measured.groups == ("fix", "text-1")
    assert measured.logprobs.shape == (2, engine.info.vocab_size)
    assert np.exp(measured.logprobs.astype(float)).sum(1) == pytest.approx(1.0, abs=1e-4)
    (one,) = await measure(engine, [Sample(samples[0].prompt, (65,))], 1)
    assert measured.logprobs[0, 65] == pytest.approx(one[0].logprob, abs=1e-5)
    wrong = lines(tmp_path / "data.jsonl", asked("Fix it.", "die", "fix/die"))
    with pytest.raises(
        CalibrationDataError, match=r"line 1: kind must be one of ambiguous, look-alike, other"
    ):
        read_samples(wrong, engine.tokenizer, (END,), 200)


def test_labelled_prompts_become_opening_weights_and_other_prompts_are_answered(
    model_folder: Folder, tmp_path: Path
) -> None:
    rows = [
        asked(f"{kind} {i % 9} of {i}?", kind, f"{kind}{i % 9}")
        for kind in KINDS
        for i in range(MIN_LABELLED)
    ]
    data = lines(tmp_path / "data.jsonl", *rows)
    _, made = calibrate_model(unprofiled(model_folder("llama")), data, tmp_path / "p.toml")
    assert Profile.load(tmp_path / "p.toml") == made
    assert made.opening_weights
    assert all(0 <= token < 512 for token in made.opening_weights)
    assert made.clarify_weights == {}
    assert 100 <= made.tokens <= MIN_LABELLED * BUILT_IN_TOKENS
    assert any(f"of {MIN_LABELLED} ambiguous prompts" in note for note in made.notes)


async def test_only_line_feeds_end_a_line(engine: EmbeddedEngine, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert len(read_samples(path, engine.tokenizer, (END,), 200)) == 1


class Prefixing:
    """A tokenizer that puts a space before every text, as SentencePiece's do."""

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])


def test_offsets_where_a_space_is_put_before_the_text() -> None:
    ids = list(b" a b, c")
    assert token_indices(ids, "a b, c", [0, 2], Prefixing()) == {1, 3}  # type: ignore[arg-type]


async def test_built_in_prompts_are_measured_up_to_the_end_of_the_answer(engine: EmbeddedEngine) -> None:
    """What comes behind the end of sequence is nothing a server ever emits."""
    (tokens,) = await measure(engine, [Sample((1, 2, 3), ())], 1)
    ends = [i for i, token in enumerate(tokens) if token.token_id == END]
    assert len(tokens) == BUILT_IN_TOKENS or ends == [len(tokens) - 1]


async def test_offsets_are_characters_and_tokens_are_bytes(engine: EmbeddedEngine) -> None:
    text = "é ü?"
    ids = engine.tokenizer.encode(text, add_special_tokens=False)
    assert token_indices(ids, text, [0, 2, 3], engine.tokenizer) == {0, 3, 5}


def test_a_file_becomes_a_profile_beside_the_weights(model_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model_folder("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    rows = [chat(f"What is {i}?", f"It is the number {i}, of course.", 0) for i in range(30)]
    data = lines(tmp_path / "data.jsonl", *rows)
    written, profile = calibrate_model(unprofiled(folder), data, clarify_text="Which of them?")
    assert written == folder / PROFILE_FILE
    assert Profile.load(written) == profile
    assert profile.clarify_text == "Which of them?"
    assert profile.layers == (0, 1, 2)
    assert set(profile.quantiles) == {signal.name for signal in POLICY_SIGNALS}
    replies = [row["messages"][1]["content"] for row in rows]  # type: ignore[index]
    assert profile.tokens == sum(len(reply) + 1 for reply in replies)
    # with the weights' own hash it is found again, and the text in force is kept
    _, again = calibrate_model(unprofiled(folder), data, tmp_path / "other.toml")
    assert Profile.load(tmp_path / "other.toml") == again
    assert again.clarify_text == "Which of them?"
    assert again.model_hash == profile.model_hash
    assert again.thresholds == pytest.approx(dict(profile.thresholds), rel=1e-3, abs=1e-4)


def test_a_profile_that_no_engine_would_take_is_replaced(model_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model_folder("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    data = lines(tmp_path / "data.jsonl", *({"text": f"number {i} of some"} for i in range(20)))
    calibrate_model(unprofiled(folder), data, clarify_text="Which?")
    written, fewer = calibrate_model(unprofiled(folder, monitored_layers=(0, 2)), data)
    assert Profile.load(written) == fewer
    assert fewer.layers == (0, 2)
    assert fewer.clarify_text == "Which?"
    (folder / PROFILE_FILE).write_text("not a profile")
    calibrate_model(unprofiled(folder), data)
    assert Profile.load(folder / PROFILE_FILE).layers == (0, 1, 2)


def test_what_was_not_measured_is_no_zero() -> None:
    """Tokens without any figure, and tokens without those of attention."""
    blind = (None,) * len(SIGNALS)
    logits_only = tuple(1.5 if signal.group == "logits" else None for signal in SIGNALS)
    tokens = [Token(5, 0.0, signals, None, None) for signals in (blind, logits_only, (2.0,) * len(SIGNALS))]
    measured = collect([Sample((1,), (5, 5, 5))], [tokens])
    assert measured.valid.sum(1).tolist() == [0, 2, len(POLICY_SIGNALS)]
    with pytest.raises(ValueError, match="got 2"):
        fit(measured, model_hash="m", data_hash="d", layers=(0,), date="2026-01-01")


def test_an_engine_that_does_not_start_leaves_nothing(tmp_path: Path) -> None:
    data = lines(tmp_path / "data.jsonl", {"text": "a b"})
    with pytest.raises(ModelLoadError):
        calibrate_model(EmbeddedEngine(EngineOptions("/nowhere/model")), data, tmp_path / "out.toml")
    assert not (tmp_path / "out.toml").exists()


def test_a_calibration_lies_where_serving_looks(tmp_path: Path) -> None:
    """Beside the weights of a local model; for a hub id, which is no folder, in the user's cache."""
    cache, layers = tmp_path / "cache", (0, 1)
    assert calibrated_path(str(tmp_path), cache, "hash", layers) == tmp_path / PROFILE_FILE
    kept = calibrated_path("someone/model", cache, "hash", layers)
    assert kept == cached_profile_path(cache, "hash", layers)


def test_a_shipped_profile_serves_the_model_that_it_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes after the user's own, and is none for other layers."""
    cache, shipped, layers = tmp_path / "cache", tmp_path / "shipped", (0, 1, 2)

    def found(model_hash: str, layers: tuple[int, ...] = layers) -> Profile | None:
        return find_profile(None, tmp_path, cache, model_hash, layers, shipped)

    assert found("one") is None  # none are shipped
    profile(layers, "one").save(shipped / "one.toml")
    profile(layers, "two").save(shipped / "two.toml")
    (shipped / "bad.toml").write_text("model_hash = ")
    assert found("two") == profile(layers, "two")
    assert "bad.toml cannot be used" in caplog.text
    assert found("three") is None
    assert found("two", (0, 1)) is None
    users = replace(profile(layers, "two"), clarify_text="My own?")
    users.save(cached_profile_path(cache, "two", layers))
    assert found("two") == users


def test_a_shipped_profile_is_of_the_model_of_its_name() -> None:
    for path in SHIPPED.glob("*.toml"):
        assert Profile.load(path).model_hash == gguf_identity(NAMED_MODELS[path.stem].file_sha256)


async def test_calibration_limits_its_requests_itself(model_folder: Folder, tmp_path: Path) -> None:
    """An engine without a queue is never asked for more than it runs at once."""
    options = EngineOptions(str(model_folder("llama")), threads=1, max_num_seqs=2)
    seen: list[int] = []

    async def calibrate(engine: Engine) -> Profile:
        engine.subscribe(lambda report: seen.append(report.gauges.running + report.gauges.waiting))
        return await calibrate_first(engine, concurrency=2)

    engine = EmbeddedEngine(options, calibrate, profile_cache=tmp_path)
    await engine.start()
    assert engine.profile is not None
    assert max(seen) == 2
    await engine.close()


def folder_with(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model folder with another config."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


async def test_a_model_is_not_served_with_the_cached_profile_of_another(
    model_folder: Folder, tmp_path: Path
) -> None:
    """Weights that differ in the middle of their file alone, and the same weights with another context."""
    first = tmp_path / "first"
    model = tiny_model("llama")
    model.resize_token_embeddings(40_000)  # more than the 2 MiB at both ends
    model.save_pretrained(first)
    byte_tokenizer().save_pretrained(first)
    second = folder_with(first, tmp_path / "second")
    with (second / "model.safetensors").open("r+b") as file:
        file.seek(file.seek(0, 2) // 2)
        file.write(bytes(64))
    third = folder_with(first, tmp_path / "third", max_position_embeddings=128)
    asked: list[str] = []

    async def calibrate(engine: Engine) -> Profile:
        asked.append(engine.info.name)
        return profile((0, 1, 2), engine.model_hash)

    for folder in (first, second, third, first):
        options = EngineOptions(str(folder), threads=1)
        engine = EmbeddedEngine(options, calibrate, profile_cache=tmp_path / "profiles")
        await engine.start()
        await engine.close()
    assert asked == ["first", "second", "third"]


async def test_a_cached_profile_that_cannot_be_read_is_made_anew(
    model_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a full disk the server never started again."""
    options = EngineOptions(str(model_folder("llama")), threads=1)
    asked = 0

    async def calibrate(engine: Engine) -> Profile:
        nonlocal asked
        asked += 1
        return profile((0, 1, 2), engine.model_hash)

    async def started() -> Profile | None:
        engine = EmbeddedEngine(options, calibrate, profile_cache=tmp_path)
        await engine.start()
        await engine.close()
        return engine.profile

    made = await started()
    (kept,) = tmp_path.glob("*.toml")
    kept.write_text(kept.read_text()[:100])
    assert await started() == made
    assert "cannot be used" in caplog.text
    assert Profile.load(kept) == made
    assert await started() == made
    assert asked == 2


async def test_a_profile_that_the_engine_thread_cannot_take_ends_the_start(
    model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("inside")

    async def calibrate(engine: Engine) -> Profile:
        return profile((0, 1, 2), engine.model_hash)

    monkeypatch.setattr(EngineCore, "set_profile", fails)
    engine = EmbeddedEngine(EngineOptions(str(model_folder("llama")), threads=1), calibrate, tmp_path)
    with pytest.raises(EngineError, match="UseProfile"):
        await engine.start()
    assert not engine.ready


async def test_first_start_calibrates_and_the_next_one_does_not(
    model_folder: Folder, tmp_path: Path, make_request: Callable[..., Request]
) -> None:
    options = EngineOptions(str(model_folder("qwen2")), threads=1)
    first = EmbeddedEngine(options, calibrate_first, profile_cache=tmp_path)
    await first.start()
    made = first.profile
    calibrated = make_request(policy=PolicyConfig(preset="calibrated"))
    outputs = [output async for output in first.generate(calibrated)]
    await first.close()
    assert made is not None
    assert ENOUGH_TOKENS <= made.tokens <= len(BUILT_IN_PROMPTS) * BUILT_IN_TOKENS
    assert all(t.strategy is not None for output in outputs for t in output.tokens)

    second = EmbeddedEngine(replace(options), None, profile_cache=tmp_path)
    await second.start()
    assert second.profile == made
    await second.close()


async def test_cut_points_are_tertiles_over_the_ends_and_full_windows_of_replies(
    engine: EmbeddedEngine,
) -> None:
    """Against the float64 definitions, from each step's attention entropies."""
    rng = np.random.default_rng(4)
    replies = [Sample((1, 2, 3), tuple(rng.integers(0, 250, n).tolist())) for n in (70, 9, 128, 20)]
    cuts = await measure_cuts(engine, replies, 4)
    assert cuts is not None
    scores, costs, falls = [], [], []
    for number, reply in enumerate(replies):
        tokens = await _replay(engine, 100 + number, reply)
        bits = np.array([t.detail.attention_entropy for t in tokens if t.detail is not None])
        keys = np.arange(3, 3 + len(tokens))[:, None, None]
        z = reference.normalised_entropy(bits, keys)
        series = [reference.genuineness(bits[:n], keys[:n, :, 0]) for n in range(8, len(tokens) + 1)]
        if (pull := reference.elaboration_pull(series)) is not None:
            falls.append(pull.delta)
        for n in {70: (64, 70), 9: (9,), 128: (64, 128), 20: (20,)}[len(tokens)]:
            scores.append(reference.head_genuineness(z[:n]).ravel())
            detail = tokens[n - 1].detail
            assert detail is not None
            costs.append(np.array(detail.token_cost).ravel())
    low, high = np.quantile(np.concatenate(scores), (1 / 3, 2 / 3))
    assert (cuts.mechanical, cuts.genuine) == pytest.approx((low, high), rel=1e-4)
    assert cuts.cost == pytest.approx(np.median(np.concatenate(costs)), rel=1e-6)
    assert (cuts.window, cuts.form) == (64, "normalised")
    fall = float(np.quantile(falls, 0.05))
    assert cuts.pull == (pytest.approx(fall, rel=1e-3) if fall < 0 else None)


async def test_short_replies_and_none_give_no_cut_points(engine: EmbeddedEngine) -> None:
    samples = [Sample((1, 2), ()), Sample((3,), ())]
    measured = await measure(engine, [Sample((1, 2), (5, 6, 7)), Sample((3,), tuple(range(40, 60)))], 2)
    (reply,) = replies_of(samples, measured)
    assert (reply.prompt, reply.reply) == ((3,), tuple(range(40, 60)))
    assert await measure_cuts(engine, [], 2) is None
    many = replies_of([Sample((1,), ())] * 1000, [measured[1]] * 1000)
    assert len(many) * 20 <= MOST_TOKENS
    assert len(many) > 100
