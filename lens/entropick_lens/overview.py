"""The section ``overview``: the model's sizes and where its parameters are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .section import Model, Options, Section


@dataclass(frozen=True, slots=True)
class Overview:
    """The sizes of a model and the number of its parameters by kind."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    inner: int
    vocabulary: int
    tied: bool
    """whether the output matrix is the embedding"""
    rotary: bool
    embedding_parameters: int
    attention_parameters: int
    feed_forward_parameters: int
    other_parameters: int

    @property
    def parameters(self) -> int:
        """Returns the number of all parameters."""
        return (
            self.embedding_parameters
            + self.attention_parameters
            + self.feed_forward_parameters
            + self.other_parameters
        )


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> Overview:
    """Counts the parameters of a model by the names of its tensors; reads no weight."""
    counts = dict.fromkeys(("embedding", "attention", "feed_forward", "other"), 0)
    for name, numbers in model.weights.sizes():
        if name.startswith("lm_head.") or "embed_tokens" in name:
            kind = "embedding"
        elif ".self_attn." in name:
            kind = "attention"
        else:
            kind = "feed_forward" if ".mlp." in name else "other"
        counts[kind] += numbers
    shape = model.shape
    return Overview(
        architecture=str(model.config.model_type),
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        hidden=shape.hidden,
        inner=shape.inner,
        vocabulary=shape.vocabulary,
        tied=model.weights.tied,
        rotary=getattr(model.config, "rope_parameters", None) is not None,
        embedding_parameters=counts["embedding"],
        attention_parameters=counts["attention"],
        feed_forward_parameters=counts["feed_forward"],
        other_parameters=counts["other"],
    )


def sentences(found: Overview) -> tuple[str, ...]:
    """Tells how large the model is and where its parameters are."""
    total = found.parameters
    said = [
        f"A {found.architecture} of {total:,} parameters: {found.layers} layers of {found.heads} query heads "
        f"({found.kv_heads} key heads) of width {found.head_dim}, hidden size {found.hidden}, {found.inner} "
        f"neurons a layer, {found.vocabulary:,} tokens.",
        f"Embeddings hold {found.embedding_parameters / total:.1%} of the parameters, attention "
        f"{found.attention_parameters / total:.1%}, the feed-forward parts "
        f"{found.feed_forward_parameters / total:.1%}; the output matrix is "
        + ("the embedding." if found.tied else "stored beside the embedding."),
    ]
    return tuple(said)


SECTION: Final = Section(
    name="overview",
    title="The model",
    version=1,
    result=Overview,
    measure=measure,
    sentences=sentences,
)
