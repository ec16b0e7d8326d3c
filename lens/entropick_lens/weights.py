"""Reads a model's weights from safetensors files, one matrix at a time in float32, by Llama's names.

No model is built. A weight is [out, in], as it is stored. Projections are given with the scale of the norm in
front of them folded in, W diag(gamma), since that is the matrix that meets a normed vector of unit scale;
with ``raw`` they are given as stored. Rotary embedding, biases and the norms of single heads (qwen3) are no
part of a matrix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
Part = Literal["q", "k", "v", "o", "gate", "up", "down"]
"""a matrix of a layer: the attention's query, key, value and output, the feed-forward's gate, up and down"""
PARTS: Final[tuple[Part, ...]] = ("q", "k", "v", "o", "gate", "up", "down")
_PLACES: Final[dict[Part, str]] = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_NORMS: Final = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}
# gemma 2 and 3 norm the attention's output as well, and name the feed-forward's norm by its place
_BEFORE_MLP: Final = "pre_feedforward_layernorm"
_FOLDED: Final[dict[Part, str]] = {
    p: "attention" if p in "qkv" else "mlp" for p in ("q", "k", "v", "gate", "up")
}
_CHUNK: Final = 4096


class WeightsError(ValueError):
    """An error in a model's files: no safetensors, or a tensor that is missing or of another shape."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder, from its configuration."""

    layers: int
    heads: int
    """query heads"""
    kv_heads: int
    head_dim: int
    hidden: int
    inner: int
    """neurons of a layer's feed-forward part"""
    vocabulary: int
    norm_offset: float = 0.0
    """what is added to a stored norm's scale: 1 for the Gemma family"""
    embedding_scale: float = 1.0
    """what an input embedding is multiplied by: the root of the hidden size for the Gemma family"""

    @property
    def group(self) -> int:
        """Returns the number of query heads that share a key head."""
        return self.heads // self.kv_heads

    def kv_head(self, head: int) -> int:
        """Returns the key head of a query head."""
        return head // self.group

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Reads the sizes from a transformers configuration of a language model."""
        heads = int(config.num_attention_heads)
        gemma = str(config.model_type).startswith("gemma")
        return cls(
            layers=int(config.num_hidden_layers),
            heads=heads,
            kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
            hidden=int(config.hidden_size),
            inner=int(config.intermediate_size),
            vocabulary=int(config.vocab_size),
            norm_offset=1.0 if gemma else 0.0,
            embedding_scale=float(config.hidden_size) ** 0.5 if gemma else 1.0,
        )


class Weights:
    """The tensors of a model folder, each read from its file when it is asked for."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        """Finds the tensors' files. Raises WeightsError for a folder without safetensors."""
        self.shape = shape
        self._files = _files(folder)
        self._prefix = _prefix(self._files)

    def names(self) -> tuple[str, ...]:
        """Returns the names of all stored tensors, sorted."""
        return tuple(sorted(self._files))

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Yields the name of each stored tensor with the count of its numbers, from the files' headers."""
        for path in sorted(set(self._files.values())):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    yield name, math.prod(file.get_slice(name).get_shape())

    def has(self, name: str) -> bool:
        """Tells whether a tensor is stored, by its name behind the model's prefix."""
        return self._full(name) in self._files

    def stored(self, name: str) -> Tensor:
        """Returns a tensor in float32, by its name behind the model's prefix. Raises WeightsError."""
        full = self._full(name)
        path = self._files.get(full)
        if path is None:
            raise WeightsError(f"the weights have no tensor {full}")
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(full)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path.name}: {full} cannot be read: {error}") from error
        return tensor.float()

    def norm(self, layer: int, of: Literal["attention", "mlp"]) -> Tensor:
        """Returns the scale [hidden] of the norm before a layer's attention or feed-forward part."""
        name = _NORMS[of]
        if of == "mlp" and self.has(f"layers.{layer}.{_BEFORE_MLP}.weight"):
            name = _BEFORE_MLP
        return self.stored(f"layers.{layer}.{name}.weight") + self.shape.norm_offset

    def final_norm(self) -> Tensor:
        """Returns the scale [hidden] of the norm before the output matrix."""
        return self.stored("norm.weight") + self.shape.norm_offset

    def matrix(self, layer: int, part: Part, *, raw: bool = False) -> Tensor:
        """Returns a matrix [out, in] of a layer; the scale of the norm before it is folded in unless ``raw``.

        ``o`` and ``down`` have no norm before them. Raises WeightsError for a matrix that is missing or has
        another shape than the configuration says.
        """
        weight = self.stored(f"layers.{layer}.{_PLACES[part]}.weight")
        wanted = self._shape_of(part)
        if tuple(weight.shape) != wanted:
            raise WeightsError(
                f"layer {layer}, {part}: the weights have shape {list(weight.shape)}, the configuration says "
                f"{list(wanted)}"
            )
        if raw or part not in _FOLDED:
            return weight
        return weight * self.norm(layer, "attention" if _FOLDED[part] == "attention" else "mlp")

    def heads(self, layer: int, part: Literal["q", "k", "v"], *, raw: bool = False) -> Tensor:
        """Returns a projection by head, [heads or kv_heads, head_dim, hidden]."""
        weight = self.matrix(layer, part, raw=raw)
        return weight.view(-1, self.shape.head_dim, self.shape.hidden)

    def embedding_rows(self, rows: int = _CHUNK) -> Iterator[tuple[int, Tensor]]:
        """Yields the input embedding in pieces: the first token's id, and rows [at most ``rows``, hidden]."""
        yield from self._rows(self._full("embed_tokens.weight"), rows)

    def head_rows(self, rows: int = _CHUNK) -> Iterator[tuple[int, Tensor]]:
        """Yields the output matrix in pieces, as ``embedding_rows`` does; of a tied model the embedding."""
        yield from self._rows("lm_head.weight" if not self.tied else self._full("embed_tokens.weight"), rows)

    @property
    def tied(self) -> bool:
        """Tells whether the output matrix is the input embedding."""
        return "lm_head.weight" not in self._files

    def _rows(self, name: str, rows: int) -> Iterator[tuple[int, Tensor]]:
        path = self._files.get(name)
        if path is None:
            raise WeightsError(f"the weights have no tensor {name}")
        with safe_open(path, framework="pt") as file:
            piece = file.get_slice(name)
            count = int(piece.get_shape()[0])
            for start in range(0, count, rows):
                yield start, piece[start : min(count, start + rows)].float()

    def _full(self, name: str) -> str:
        return name if name.startswith("lm_head.") else self._prefix + name

    def _shape_of(self, part: Part) -> tuple[int, int]:
        s = self.shape
        queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
        return {
            "q": (queries, s.hidden),
            "k": (keys, s.hidden),
            "v": (keys, s.hidden),
            "o": (s.hidden, queries),
            "gate": (s.inner, s.hidden),
            "up": (s.inner, s.hidden),
            "down": (s.hidden, s.inner),
        }[part]


def _files(folder: Path) -> dict[str, Path]:
    """Returns the file of each tensor. Raises WeightsError."""
    index = folder / INDEX
    try:
        if index.is_file():
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {str(name): folder / str(file) for name, file in places.items()}
        with safe_open(folder / SINGLE, framework="pt") as file:
            return dict.fromkeys(file.keys(), folder / SINGLE)
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise WeightsError(f"{folder}: the weights cannot be read: {error}") from error


def _prefix(files: dict[str, Path]) -> str:
    """Returns what stands before ``embed_tokens`` and ``layers``: ``model.`` for every model of the class."""
    ends = [name for name in files if name.endswith("embed_tokens.weight")]
    if len(ends) != 1:
        raise WeightsError("the weights have no single embed_tokens.weight: not a decoder of Llama's class")
    return ends[0].removesuffix("embed_tokens.weight")
