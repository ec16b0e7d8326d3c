"""What a model's folder says of its ends, its context and its sampling, wherever it says it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.source import read_source
from entropick_server.engine.types import EngineOptions, GenerationDefaults, Request

from .conftest import CONTEXT, END, VOCAB, Room
from .test_prompt_logprobs import told

Folder = Callable[[str], Path]


def changed(
    source: Path,
    target: Path,
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
) -> Path:
    """A copy of a model folder; None in the place of a value takes it out."""
    shutil.copytree(source, target)
    files = {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer_config.json": tokenizer,
    }
    for name, changes in files.items():
        path = target / name
        known = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(known | (changes or {})))
    return target


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "wanted"),
    [
        ([1, 2], 3, None, (3, 1, 2)),
        (1, [2, 1], "<end>", (2, 1, END)),
        (5, None, None, (5,)),
        (None, None, "<end>", (END,)),
        # ids that no logits have
        (VOCAB, [-1, 7], "<end>", (7, END)),
        (None, None, None, ()),
    ],
)
def test_the_ends_of_a_reply_are_all_that_anything_names(
    config: Any, generation: Any, tokenizer: Any, wanted: Any, model_folder: Folder, tmp_path: Path
) -> None:
    folder = changed(
        model_folder("llama"),
        tmp_path / "m",
        {"eos_token_id": config},
        {"eos_token_id": generation},
        {"eos_token": tokenizer},
    )
    source = read_source(EngineOptions(model=str(folder), device="cpu"))
    info = source.info(source_options := EngineOptions(model=str(folder)), max_model_len=8, parameters=1,
                       dtype="float32", device="cpu")  # fmt: skip
    assert source_options.model == info.source
    assert info.eos_token_ids == wanted


def scaled(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **more}}


@pytest.mark.parametrize(
    ("name", "config", "wanted"),
    [
        ("llama", scaled("yarn"), 1024),
        ("llama", scaled("yarn", original_max_position_embeddings=CONTEXT), 1024),
        # the positions count the factor already
        ("llama", {**scaled("yarn", original_max_position_embeddings=64)}, CONTEXT),
        ("llama", scaled("linear"), 1024),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, 512),
        ("llama-rope", {}, CONTEXT),
        ("qwen3", {}, CONTEXT),
        ("gemma3_text", {}, CONTEXT),
    ],
)
def test_rope_scaling_extends_the_context(
    name: str, config: dict[str, Any], wanted: int, model_folder: Folder, tmp_path: Path
) -> None:
    if "rope_scaling" in config:
        config = {**config, "rope_parameters": None}
    folder = changed(model_folder(name), tmp_path / "m", config)
    assert read_source(EngineOptions(model=str(folder), device="cpu")).max_position_embeddings == wanted


@pytest.mark.parametrize("kind", ["yarn", "linear"])
@pytest.mark.parametrize("decoder", ["auto", "torch", "modules"])
def test_an_extended_context_is_served(
    kind: str, decoder: Any, model_folder: Folder, tmp_path: Path, make_request: Callable[..., Request]
) -> None:
    """Every log probability of a prompt beyond the positions is transformers' own."""
    folder = changed(model_folder("llama"), tmp_path / "m", scaled(kind))
    options = EngineOptions(model=str(folder), device="cpu", threads=1, decoder=decoder)
    prompt = tuple((11 * i * i + 5 * i) % 251 for i in range(500))
    with torch.inference_mode():
        core = EngineCore(load_model(options), options, None)
        assert core.info.max_model_len == 1024
        (found,) = told(Room(core), make_request(prompt, prompt_logprobs=0, max_tokens=2))
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        wanted = model(torch.tensor([prompt])).logits[0, :-1].double().log_softmax(-1)
    own = wanted.gather(-1, torch.tensor(prompt[1:])[:, None])[:, 0]
    assert [token.logprob for token in found] == pytest.approx(own.tolist(), abs=1e-4)


def test_sampling_of_the_generation_config(model_folder: Folder, tmp_path: Path) -> None:
    numbers = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    folder = changed(
        model_folder("llama"), tmp_path / "m", generation={**numbers, "max_new_tokens": 9, "do_sample": True}
    )
    info = load_model(EngineOptions(model=str(folder), device="cpu")).info
    assert info.defaults == GenerationDefaults(0.6, 0.9, 20, 9, 0.05, 1.1)
