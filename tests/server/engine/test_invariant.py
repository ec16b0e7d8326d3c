"""Bit for bit: a request's logits, signals and tokens are those it has alone, whatever runs beside it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.one_formula import ONE_FORMULA
from entropick_sampler.params import PolicyConfig
from entropick_sampler.strategy import Strategy
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.embedded import native_decoder
from entropick_server.engine.embedded.batch import Batch
from entropick_server.engine.embedded.forward import ForwardOutput
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.embedded.startup import build
from entropick_server.engine.types import EngineOptions, Request

from .conftest import BLOCK_BYTES, Room, several

Make = Callable[..., Request]
Open = Callable[..., Room]
Rows = dict[tuple[str, tuple[int, ...]], bytes]

FIXED = PolicyConfig(policy="fixed")
SEED = PolicyConfig(preset="seed", telemetry="full")
BRANCHES = PolicyConfig(
    preset="seed",
    overrides={"clarify_budget": 0},
    telemetry="full",
    branch=BranchConfig(width=3, depth=4, on=frozenset(set(Strategy) - {Strategy.CLARIFY}), budget=16.0),
)


def tapped(room: Room) -> Rows:
    """The bytes of every row that the model measures from now on, by request and the row's tokens."""
    rows: Rows = {}
    runner: Any = room.core._runner
    forward = runner.forward

    def forward_and_keep(batch: Batch) -> ForwardOutput | None:
        measured: ForwardOutput | None = forward(batch)
        if measured is not None:
            figures = torch.cat([*measured.heads[:4], measured.by_layer], -1).transpose(0, 1)
            for i, row in enumerate(measured.sequences):
                name = (row.request.request_id, tuple(row.tokens))
                data = measured.logits[i].numpy().tobytes() + figures[i].contiguous().numpy().tobytes()
                assert rows.setdefault(name, data) == data, "the same tokens, computed again"
        return measured

    runner.forward = forward_and_keep
    return rows


def assert_as_alone(busy: Room, rows: Rows, requests: list[Request], room: Open, **options: Any) -> None:
    for request in requests:
        name = request.request_id
        alone = room(**options)
        own = tapped(alone)
        alone.add(request)
        alone.finish()
        assert alone.tokens[name] == busy.tokens[name]
        assert own == {key: data for key, data in rows.items() if key[0] == name}
        assert alone.ends[name] is busy.ends[name]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_among_neighbours_in_chunks_and_over_known_blocks(name: str, room: Open, make_request: Make) -> None:
    requests = several(make_request, 32, random.Random(1), 90, (5, 30), (FIXED, SEED), (None, 3))
    busy = room(name=name, max_num_batched_tokens=37)
    rows = tapped(busy)
    rng = random.Random(2)
    for request in requests:
        busy.add(request)
        for _ in range(rng.randint(0, 6)):
            busy.step()
    busy.finish()
    assert busy.hits > 0
    assert_as_alone(busy, rows, requests, room, name=name, enable_prefix_caching=False)


def assert_as_alone_where_blocks_run_out(room: Open, requests: list[Request]) -> Room:
    """Runs requests in too few blocks, so that some are preempted, and returns where they ran."""
    busy = room(12, max_num_seqs=6, max_num_batched_tokens=29)
    rows = tapped(busy)
    for request in requests:
        busy.add(request)
        busy.step()
    busy.finish()
    assert len(set(busy.preempted)) > 2
    assert_as_alone(busy, rows, requests, room)
    return busy


def test_when_blocks_run_out(room: Open, make_request: Make) -> None:
    requests = several(make_request, 16, random.Random(3), 60, (5, 30), (FIXED, SEED), (None, 3))
    assert_as_alone_where_blocks_run_out(room, requests)


def test_policies_with_one_formula_where_blocks_run_out(room: Open, make_request: Make) -> None:
    """Mirostat's sum of surprisals outlives a preemption, and no row's formula sees another row."""
    policies = tuple(PolicyConfig(policy) for policy in ONE_FORMULA)
    requests = several(make_request, 18, random.Random(6), 60, (10, 30), policies, (None, 3))
    busy = assert_as_alone_where_blocks_run_out(room, requests)
    floors = set()
    for request in requests:
        tokens = busy.tokens[request.request_id]
        assert {token.strategy for token in tokens} == {None}
        if request.policy.policy == "mirostat":
            floors |= {token.parameters.min_p for token in tokens if token.parameters}
        # teacher forcing tells the same parameters
        again = replace(
            request,
            request_id=f"{request.request_id}-again",
            replayed_token_ids=tuple(t.token_id for t in tokens),
        )
        replayed = room()
        replayed.add(again)
        replayed.finish()
        assert [t.parameters for t in replayed.tokens[again.request_id]] == [t.parameters for t in tokens]
    assert len(floors) > 20


def test_with_branches(room: Open, make_request: Make) -> None:
    requests = several(make_request, 8, random.Random(4), 40, (5, 30), (BRANCHES, SEED), (None, 3))
    busy = room(12, max_num_seqs=8, max_num_batched_tokens=29)
    rows = tapped(busy)
    for request in requests:
        busy.add(request)
    busy.finish()
    assert any(token.branches for tokens in busy.tokens.values() for token in tokens)
    assert busy.preempted
    assert_as_alone(busy, rows, requests, room)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(
    threads: int, room: Open, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = several(make_request, 6, random.Random(5), 80, (5, 30), (FIXED, SEED), (None, 3))
    monkeypatch.setattr(native_decoder.decoder.numba_impl, "threads_for", lambda work: threads)
    busy = room(max_num_batched_tokens=37)
    rows = tapped(busy)
    for request in requests:
        busy.add(request)
    busy.finish()
    monkeypatch.setattr(native_decoder.decoder.numba_impl, "threads_for", lambda work: 1)
    assert_as_alone(busy, rows, requests, room)


def options(folder: Path, **more: Any) -> EngineOptions:
    return EngineOptions(model=str(folder), device="cpu", threads=1, batch_invariant=True, **more)


def test_the_mode_serves_the_family(model_folder: Callable[[str], Path], make_request: Make) -> None:
    chosen = options(model_folder("llama"), kv_cache_bytes=100 * BLOCK_BYTES)
    with torch.inference_mode():
        room = Room(build(load_model(chosen), chosen, None))
        request = make_request()
        room.add(request)
        room.finish()
    assert len(room.text(request.request_id)) == 8


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gemma2", {}, r"architecture is 'gemma2'; serve one of llama, mistral, qwen2, qwen3"),
        ("llama", {"dtype": "bfloat16"}, "bfloat16; use --dtype float32"),
        ("llama", {"kernels": "torch"}, "use --kernels auto or numba"),
        ("llama", {"decoder": "torch"}, "leave it at auto"),
    ],
)
def test_the_mode_is_refused_elsewhere(
    name: str, changes: dict[str, Any], message: str, model_folder: Callable[[str], Path]
) -> None:
    chosen = options(model_folder(name), **changes)
    loaded = load_model(chosen)
    with torch.inference_mode():
        with pytest.raises(ModelLoadError, match=message):
            build(loaded, chosen, None)
        build(loaded, replace(chosen, batch_invariant=False), None)


def test_the_mode_needs_numba(model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options(model_folder("llama"))
    loaded = load_model(chosen)
    monkeypatch.setattr(native_decoder.decoder, "available", lambda: False)
    with pytest.raises(ModelLoadError, match="numba is not installed"):
        build(loaded, chosen, None)
