"""The tensors of a GGUF file as Hugging Face has them: their names, their order of rows, dequantised."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from .config import EMBEDDING, FREQUENCIES, OUTPUT
from .header import GgufFile

_TOP: Final = {"model.embed_tokens": EMBEDDING, "model.norm": "output_norm.weight", "lm_head": OUTPUT}
_LAYER: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_IN_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_KEPT: Final = {"F16": torch.float16, "BF16": torch.bfloat16}
"""types of tensors that are stored as they are; every other type becomes float32, which holds it exactly"""
_PAIRED: Final = frozenset({"llama"})
"""architectures whose GGUF rotates neighbouring pairs of a head's rows, where Hugging Face rotates halves"""


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor to make: its name and shape as Hugging Face has them, and the file's tensor behind it."""

    name: str
    shape: tuple[int, ...]
    source: gguf.ReaderTensor
    heads: int
    """heads whose rows have to be reordered; 0 where all rows stay"""

    @property
    def dtype(self) -> torch.dtype:
        """Returns the dtype in which the tensor is stored."""
        return _KEPT.get(self.source.tensor_type.name, torch.float32)

    @property
    def size(self) -> int:
        """Returns the bytes of the tensor as it is stored."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def plan(file: GgufFile, config: PreTrainedConfig) -> list[Planned]:
    """Lists the tensors of a model in the order of its modules.

    Raises ModelLoadError for a file that lacks a tensor, has one of another shape, or one without a place.
    """
    with torch.device("meta"):
        build: Any = AutoModelForCausalLM.from_config
        model = build(config)
    # transformers keeps tied weights under both names
    left_out = {"lm_head.weight"} if config.tie_word_embeddings else set()
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    paired = file.architecture in _PAIRED
    planned, used = [], {FREQUENCIES}
    for name, wanted in model.state_dict().items():
        if name in left_out:
            continue
        theirs = _gguf_name(name)
        shape = tuple(wanted.shape)
        if theirs not in file.tensors:
            raise file.error(f"it has no tensor {theirs}")
        source = file.tensors[theirs]
        found = tuple(int(n) for n in reversed(source.shape))
        if found != shape:
            raise file.error(f"tensor {theirs} has shape {list(found)}, not {list(shape)}")
        used.add(theirs)
        planned.append(Planned(name, shape, source, heads.get(theirs.split(".")[-2], 0) if paired else 0))
    if unused := sorted(file.tensors.keys() - used):
        raise file.error(
            f"tensor {unused[0]} has no place in a model of type {config.model_type} ({len(unused)} such "
            "tensors)"
        )
    return planned


def _gguf_name(name: str) -> str:
    """Returns the name in a GGUF file of a tensor that has ``name`` in Hugging Face's format."""
    found = _IN_LAYER.fullmatch(name)
    if found is None:
        return _TOP[name.rpartition(".")[0]]
    layer, part, suffix = found.groups()
    return f"blk.{layer}.{_LAYER[part]}.{suffix}"


def load(tensor: Planned) -> Tensor:
    """Reads a tensor from its file: dequantised, in Hugging Face's order of rows."""
    values = gguf.dequantize(tensor.source.data, tensor.source.tensor_type)
    if tensor.heads:
        pairs = values.reshape(tensor.heads, -1, 2, *values.shape[1:])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    # a copy: an array over the file may not be written, which torch warns of
    return torch.from_numpy(np.array(values, dtype=np.float32)).reshape(tensor.shape).to(tensor.dtype)
