"""--weights: a file's own numbers give the bits of float32; rounded ones the same bits in any batch."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from entropick_kernels.decoder import GroupedWeight
from entropick_sampler.params import PolicyConfig
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.embedded.startup import build
from entropick_server.engine.embedded.weight_storage import VOCABULARY, keeper
from entropick_server.engine.gguf_files.block_types import kept_blocks
from entropick_server.engine.gguf_files.blocks import TABLE, GgufBlocks
from entropick_server.engine.source import read_source
from entropick_server.engine.types import EngineOptions, Request, WeightsChoice
from entropick_server.settings import SettingsError, load_settings

from .conftest import Room, several
from .gguf_models import write_model
from .test_invariant import Open, assert_as_alone, tapped

Make = Callable[..., Request]
KEPT_BITS = {
    **{Kind.Q8_0: 8.5, Kind.Q4_0: 4.5, Kind.Q4_1: 5, Kind.Q5_0: 8.5, Kind.Q5_1: 9},
    **{Kind.Q4_K: 6, Kind.Q5_K: 10, Kind.Q6_K: 10},
}
"""type of a GGUF file whose blocks are kept -> bits of a weight that is kept"""
BLOCK_TYPES = tuple(KEPT_BITS)
HALVES = {Kind.Q4_1: (0, 2), Kind.Q5_1: (0, 2), Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,)}
"""type -> the places of a block's numbers in half precision, where it is not the first alone"""
ROUNDED = ("bf16", "fp16", "int8", "int4")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: kind.name)
def test_blocks_stand_for_the_numbers_of_gguf(kind: Kind) -> None:
    rng = np.random.default_rng(1)
    width, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (40, 3 * size), dtype=np.uint8)
    # random halves, but for those that are infinite or no numbers
    blocks = data.reshape(40, 3, size)
    for at in HALVES.get(kind, (0,)):
        halves = rng.normal(size=(40, 3, 1)).astype(np.float16) * np.float16(0.1)
        blocks[..., at : at + 2] = halves.view(np.uint8)
    kept = kept_blocks(kind.name, data)
    assert kept is not None
    assert kept.shape == (40, 3 * width)
    assert np.array_equal(kept.floats().numpy(), gguf.dequantize(data, kind))


def test_other_blocks_are_not_kept() -> None:
    assert kept_blocks("Q3_K", np.zeros((2, 110), dtype=np.uint8)) is None
    assert kept_blocks("F32", np.zeros((2, 128), dtype=np.uint8)) is None


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_blocks_are_in_the_order_of_hugging_face(architecture: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", architecture, Kind.Q4_1, tied=False)
    loaded = load_model(EngineOptions(str(path), device="cpu"))
    folder = loaded.source.folder
    made = GgufBlocks(path, folder, loaded.source.config)
    read = GgufBlocks(path, folder, loaded.source.config)
    assert made._table == read._table
    (folder / TABLE).write_text("{}[")
    blocks = GgufBlocks(path, folder, loaded.source.config)
    assert blocks._table == read._table
    earlier = json.loads((folder / TABLE).read_text()) | {"types": ["Q8_0"]}
    (folder / TABLE).write_text(json.dumps(earlier | {"tensors": {}}))
    assert GgufBlocks(path, folder, loaded.source.config)._table == read._table
    matrices = [(name, p) for name, p in loaded.model.named_parameters() if p.dim() == 2]
    assert len(matrices) == 2 * 7 + 2
    for name, wanted in matrices:
        kept = blocks.weight(name)
        assert kept is not None, name
        assert torch.equal(kept.floats(), wanted), name
    assert blocks.weight("model.norm.weight") is None


def rows_of(options: EngineOptions, make_request: Make) -> tuple[Any, EngineCore]:
    """All rows of some requests, and the core that ran them."""
    with torch.inference_mode():
        room = Room(EngineCore(load_model(options), options, None))
        rows = tapped(room)
        for i in range(3):
            prompt = tuple(range(10 + i, 30 + 3 * i))
            room.add(make_request(prompt, temperature=0.8, seed=i, max_tokens=6, request_id=f"r{i}"))
        room.finish()
    return rows, room.core


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("kind", [*BLOCK_TYPES, Kind.F16, Kind.BF16, Kind.Q3_K], ids=lambda kind: kind.name)
def test_the_files_own_numbers_give_the_bits_of_float32(
    kind: Kind, tmp_path: Path, make_request: Make
) -> None:
    path = write_model(tmp_path / "model.gguf", kind=kind)
    options = EngineOptions(str(path), device="cpu", threads=1)
    as_file, core = rows_of(options, make_request)
    in_floats, plain = rows_of(replace(options, weights="float32"), make_request)
    assert as_file == in_floats
    assert len(as_file) == 18
    assert (core.info.weights, plain.info.weights) == ("file", "float32")
    bits = KEPT_BITS | {Kind.F16: 16, Kind.BF16: 16}
    assert core.info.weight_bytes == pytest.approx(plain.info.weight_bytes * bits.get(kind, 32) / 32)


@pytest.mark.parametrize("weights", ROUNDED)
def test_rounded_weights_give_the_same_bits_alone_and_in_a_batch(
    weights: str, room: Open, make_request: Make
) -> None:
    policies = (PolicyConfig(policy="fixed"), PolicyConfig(preset="seed", telemetry="full"))
    requests = several(make_request, 10, random.Random(1), 60, (5, 12), policies, (None, 3))
    busy = room(max_num_batched_tokens=37, weights=weights)
    rows = tapped(busy)
    for request in requests:
        busy.add(request)
        busy.step()
    busy.finish()
    assert busy.hits > 0
    assert_as_alone(busy, rows, requests, room, weights=weights, enable_prefix_caching=False)
    assert busy.core.info.weights == weights


def test_four_bits_keep_the_vocabulary_in_eight(model_folder: Callable[[str], Path]) -> None:
    source = read_source(EngineOptions(str(model_folder("llama")), device="cpu"))
    keep = keeper("int4", source)
    forms = [keep(name, torch.randn(4, 64)) for name in (*VOCABULARY, "model.layers.0.mlp.up_proj.weight")]
    assert [w.form.bits for w in forms if isinstance(w, GroupedWeight)] == [8, 8, 4]
    with pytest.raises(ModelLoadError, match=r"--weights fp16: lm_head.weight .* choose bf16 or float32"):
        keeper("fp16", source)("lm_head.weight", torch.full((2, 2), 1e6))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gemma2", {}, r"--weights int8 needs the native decoder .* architecture is 'gemma2'; serve one of"),
        ("llama", {"dtype": "bfloat16"}, "the weights are bfloat16; use --dtype float32"),
        ("llama", {"kernels": "torch"}, "use --kernels auto or numba"),
        ("llama", {"decoder": "torch"}, "leave it at auto"),
    ],
)
def test_what_cannot_keep_them_refuses(
    name: str, changes: dict[str, Any], message: str, model_folder: Callable[[str], Path]
) -> None:
    chosen = EngineOptions(str(model_folder(name)), device="cpu", threads=1, weights="int8", **changes)
    with torch.inference_mode():
        loaded = load_model(chosen)
        with pytest.raises(ModelLoadError, match=message):
            build(loaded, chosen, None)
        auto = replace(chosen, weights="auto")
        assert build(loaded, auto, None).info.weights == ""


def test_a_value_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"weights: .*'float32', 'bf16', 'fp16', 'int8' or 'int4'"):
        load_settings(weights="q3")
    for value in get_args(WeightsChoice):
        assert load_settings(weights=value).engine_options("m").weights == value
