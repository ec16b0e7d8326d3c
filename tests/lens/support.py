"""Small decoders in folders, with random weights that a test may change before it looks inside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from entropick_lens.command import open_model
from entropick_lens.section import Model, Options
from entropick_pico import calibration_path, model_path

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cases.json").read_text())
QUIET = Options(quiet=True, permutations=200, tokens=300, length=48, text=calibration_path())
Change = Callable[[dict[str, Tensor]], None]


def make(
    folder: Path, change: Change | None = None, *, kind: str = "llama", seed: int = 0, **sizes: Any
) -> Path:
    """Writes a decoder of pico's vocabulary with random weights (norms too) into a folder."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_path() / name, folder)
    given: dict[str, Any] = {
        "vocab_size": 1984,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **sizes,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2) if parameter.dim() > 1 else parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    if change is not None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})
    return folder


def opened(folder: Path) -> Model:
    return open_model(str(folder), allow_unvalidated=True)


def rows_of(layer: int, part: str, head: int, width: int = 8) -> tuple[str, slice]:
    """Returns a projection's name and the rows of one of its heads."""
    return f"model.layers.{layer}.self_attn.{part}_proj.weight", slice(head * width, (head + 1) * width)
