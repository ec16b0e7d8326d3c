"""The configuration of a model from a GGUF header.

Every key that changes the computation is used or refused: none is passed over.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from gguf import dequantize
from transformers import AutoConfig, PreTrainedConfig

from .header import ARCHITECTURES, GgufFile

_USED: Final = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
        "vocab_size",
        "tensor_data_layout",
    }
)
"""keys of an architecture that are read below, or that say nothing of the computation"""
FREQUENCIES: Final = "rope_freqs.weight"
"""the tensor with Llama 3's divisors of the rotary frequencies, which follow from four numbers"""
EMBEDDING: Final = "token_embd.weight"
OUTPUT: Final = "output.weight"
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192
"""those of the four numbers that all models of Llama 3.1 and later share"""
_TOLERANCE: Final = 1e-5


def model_config(file: GgufFile) -> PreTrainedConfig:
    """Builds the configuration of the model in a file.

    Raises ModelLoadError for a file that lacks a number, or that has a setting which is not known here.
    """
    _refuse_unknown(file)
    heads, width = _whole(file, "attention.head_count"), _whole(file, "embedding_length")
    head_dim = file.keys.get(f"{file.architecture}.attention.key_length", width // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if file.keys.get(f"{file.architecture}.{name}", head_dim) != head_dim:
            raise file.error(
                f"{file.architecture}.{name} is not the heads' width {head_dim}, which is not known"
            )
    if EMBEDDING not in file.tensors:
        raise file.error(f"it has no tensor {EMBEDDING}: it holds no weights, or not those of a model")
    kv_heads = file.architecture + ".attention.head_count_kv"
    return AutoConfig.for_model(
        ARCHITECTURES[file.architecture],
        architectures=[ARCHITECTURES[file.architecture].capitalize() + "ForCausalLM"],
        hidden_size=width,
        intermediate_size=_whole(file, "feed_forward_length"),
        num_hidden_layers=_whole(file, "block_count"),
        num_attention_heads=heads,
        num_key_value_heads=_whole(file, "attention.head_count_kv") if kv_heads in file.keys else heads,
        head_dim=int(head_dim),
        max_position_embeddings=_whole(file, "context_length"),
        rms_norm_eps=float(file.hyper("attention.layer_norm_rms_epsilon")),
        rope_parameters=_rope(file, int(head_dim)),
        vocab_size=int(file.tensors[EMBEDDING].shape[1]),
        tie_word_embeddings=OUTPUT not in file.tensors,
        bos_token_id=file.keys.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=file.keys.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=file.keys.get("tokenizer.ggml.padding_token_id"),
    )


def _refuse_unknown(file: GgufFile) -> None:
    """Raises ModelLoadError for a key of the architecture that may change the computation unknown to us."""
    prefix = f"{file.architecture}."
    for key, value in file.keys.items():
        name = key.removeprefix(prefix)
        if name != key and name not in _USED and value:  # of 0, false and nothing there is nothing to know
            raise file.error(f"its setting {key} = {str(value)[:40]} is not known")


def _whole(file: GgufFile, name: str) -> int:
    value = file.hyper(name)
    if not isinstance(value, int) or value < 1:
        raise file.error(f"{file.architecture}.{name} is {str(value)[:40]}; a number of at least 1 is known")
    return value


def _rope(file: GgufFile, head_dim: int) -> dict[str, Any]:
    """Returns the rotary embedding as Hugging Face describes it."""
    theta = float(file.keys.get(f"{file.architecture}.rope.freq_base", 10000.0))
    kind = file.keys.get(f"{file.architecture}.rope.scaling.type", "none")
    factor = float(file.keys.get(f"{file.architecture}.rope.scaling.factor", 0.0)) or 1.0
    if FREQUENCIES in file.tensors:
        if kind != "none":
            raise file.error(f"rope scaling {kind!r} together with {FREQUENCIES} is not known")
        return _llama3(file, theta, head_dim)
    if kind == "linear" and factor != 1.0:
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind in ("none", "linear"):
        return {"rope_type": "default", "rope_theta": theta}
    raise file.error(f"rope scaling {kind!r} is not known for GGUF files (known: none, linear, Llama 3's)")


def _llama3(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any]:
    """Finds the numbers that Llama 3's divisors of the rotary frequencies were computed from."""
    tensor = file.tensors[FREQUENCIES]
    stored = dequantize(tensor.data, tensor.tensor_type).astype(np.float64).reshape(-1)
    factor = float(stored.max(initial=1.0))
    known = llama3_divisors(theta, head_dim, factor)
    if stored.shape != known.shape or not np.allclose(stored, known, rtol=_TOLERANCE, atol=0):
        raise file.error(f"{FREQUENCIES} is not Llama 3's, and others are not known")
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _ORIGINAL,
    }


def llama3_divisors(theta: float, head_dim: int, factor: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Computes Llama 3's divisors of the rotary frequencies, [head_dim / 2], as llama.cpp's converter does.

    Short waves stay (1), long ones are stretched by ``factor``, and between them the divisor is blended.
    """
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    waves = 2 * math.pi / frequencies
    blend = np.clip((_ORIGINAL / waves - _LOW) / (_HIGH - _LOW), 0.0, 1.0)
    divisors: np.ndarray[Any, np.dtype[np.float64]] = 1.0 / ((1.0 - blend) / factor + blend)
    return divisors
