"""Loads the weights of a model into transformers' modules."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..base import ModelLoadError
from ..model_files import reading
from ..source import Source, read_source
from ..tokenizer import FastTokenizer
from ..types import EngineOptions, ModelInfo
from .modules_decoder import ATTENTION_NAME, register

_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory with everything that describes it."""

    model: PreTrainedModel
    source: Source
    info: ModelInfo
    kv_heads: int
    head_dim: int
    layers: int

    @property
    def tokenizer(self) -> FastTokenizer:
        """Returns the model's tokenizer."""
        return self.source.tokenizer


def load_model(options: EngineOptions) -> Loaded:
    """Loads the model that ``options`` names. Raises ModelLoadError."""
    device = _device(options.device)
    dtype = _dtype(options.dtype, device)
    source = read_source(options)
    if not source.monitored_layers:
        raise ModelLoadError("monitored layers []: name at least one of the model's layers")
    register()
    with reading(options.model):
        made: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=dtype,
            attn_implementation=ATTENTION_NAME,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, problems = made
    missing = sorted(problems["missing_keys"]) + sorted(str(key) for key in problems["mismatched_keys"])
    if missing:
        raise ModelLoadError(
            f"{options.model}: the weights lack {len(missing)} tensors, the first is {missing[0]}"
        )
    try:
        model = model.to(device).eval().requires_grad_(False)
    except RuntimeError as error:
        raise ModelLoadError(f"{options.model} cannot be moved to {device}: {error}") from error
    return describe(model, source, options)


def describe(model: PreTrainedModel, source: Source, options: EngineOptions) -> Loaded:
    """Collects all that the engine must know of a model in memory. Raises ModelLoadError."""
    config = source.config
    heads = int(config.num_attention_heads)
    parameter = next(model.parameters())
    info = source.info(
        options,
        max_model_len=_context(source, options.max_model_len),
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
    )
    return Loaded(
        model,
        source,
        info,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        layers=int(config.num_hidden_layers),
    )


def _context(source: Source, asked: int | None) -> int:
    """Returns the context in tokens: the model's own, or a shorter context that was asked for."""
    longest = source.max_position_embeddings
    if asked is None:
        return longest
    if asked < 2:
        raise ModelLoadError("max_model_len must be at least 2")
    if asked > longest:
        _log.warning("max_model_len %d is more than the model was made for: it is %d", asked, longest)
    return min(longest, asked)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelLoadError(f"device {name!r}: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("device 'cuda': this build of torch sees no CUDA device; use --device cpu")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        # bfloat16 is slower than float32 on CPUs without matrix units
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise ModelLoadError(f"dtype {name!r}: use auto or one of {', '.join(_DTYPES)}")
    return _DTYPES[name]
