"""Runs texts through a model layer by layer: the weights of one layer are in memory at a time.

The modules are transformers' own, made without weights; before a layer runs its weights are read, and behind
it they are dropped. All texts run at once, one behind the other in a row, so that each weight is read once. A
visitor sees the queries and keys of each layer and what each layer adds up to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AttentionInterface, AutoModel

from .section import InspectError, Model
from .texts import Text

ATTENTION_NAME: Final = "entropick_lens"
_QUERIES: Final = 256
"""queries that attend at a time"""


@dataclass(frozen=True, slots=True)
class Attended:
    """The queries and keys of a layer for all texts in a row."""

    layer: int
    bounds: tuple[tuple[int, int], ...]
    """the first token of each text and the token behind its last"""
    queries: Tensor
    """[T, H, D] as they meet the keys"""
    keys: Tensor
    """[T, Hk, D]"""
    plain_queries: Tensor
    """[T, H, D] before the rotation by position"""
    plain_keys: Tensor
    """[T, Hk, D]"""
    scale: float
    window: int | None
    softcap: float | None

    def scores(self, lo: int, hi: int, first: int) -> Tensor:
        """Returns the scores that enter the softmax, [H, hi - lo, hi - first], -inf where a query does not
        look.

        Queries ``lo`` to ``hi`` belong to the text that begins at token ``first``.
        """
        group = self.queries.shape[1] // self.keys.shape[1]
        keys = self.keys[first:hi].repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", self.queries[lo:hi], keys) * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        at, key = torch.arange(lo, hi)[:, None], torch.arange(first, hi)[None]
        hidden = key > at
        if self.window is not None:
            hidden = hidden | (key <= at - self.window)
        return scores.masked_fill_(hidden, -torch.inf)

    def pieces(self) -> list[tuple[int, int, int]]:
        """Returns runs of queries to take at a time: first query, the query behind the last, text's first
        token."""
        return [
            (lo, min(lo + _QUERIES, stop), first)
            for first, stop in self.bounds
            for lo in range(first, stop, _QUERIES)
        ]


class Visitor(Protocol):
    """A measurement that sees a model run."""

    def attended(self, seen: Attended) -> None:
        """Takes the queries and keys of a layer."""

    def added(self, layer: int, residual: Tensor) -> None:
        """Takes the output [T, hidden] of a layer, before the final norm."""


class _Run:
    """The state of one run, which the modules pass on to the attention."""

    def __init__(self, bounds: tuple[tuple[int, int], ...], visitor: Visitor, heads_first: bool) -> None:
        self.bounds = bounds
        self.heads_first = heads_first
        """whether the norms of heads see [1, H, T, D], not [1, T, H, D]"""
        self.visitor = visitor
        self.plain: dict[str, Tensor] = {}
        """queries and keys of the layer that runs, before the rotation"""

    def unrotated(self, name: str, like: Tensor) -> Tensor:
        """Returns queries or keys before the rotation as [T, heads, D], from a product's or a norm's
        output."""
        plain = self.plain.pop(name)
        if plain.dim() == 4 and self.heads_first:
            return plain[0].transpose(0, 1)
        return plain.reshape(like.shape)


def run_texts(
    model: Model,
    texts: Sequence[Text],
    visitor: Visitor,
    *,
    dtype: torch.dtype = torch.float32,
    what: str = "layers",
    quiet: bool = True,
    fired: Callable[[int, Tensor], None] | None = None,
) -> None:
    """Runs all texts through the model once and shows the visitor every layer, in order.

    ``fired`` takes the layer and the activations [T, inner] of the neurons of its feed-forward part: the
    input of the matrix that writes to the residual stream.

    Raises InspectError for an architecture with a mask of its own, and WeightsError for missing weights.
    """
    AttentionInterface.register(ATTENTION_NAME, _attention)
    modules = _empty(model, dtype)
    ends = list(accumulate(len(text.ids) for text in texts))
    run = _Run(tuple(pairwise([0, *ends])), visitor, str(model.config.model_type).startswith("gemma"))
    ids = torch.tensor([token for text in texts for token in text.ids])
    positions = torch.cat([torch.arange(len(text.ids)) for text in texts])
    embedded = embed(model, ids).to(dtype)
    with (
        torch.inference_mode(),
        ExitStack() as hooks,
        tqdm(total=model.shape.layers, desc=what, leave=False, disable=True if quiet else None) as bar,
    ):
        for number, layer in enumerate(modules.layers):
            hooks.callback(layer.register_forward_pre_hook(_filling(model, number, dtype)).remove)
            hooks.callback(layer.register_forward_hook(_emptying(run, number, bar)).remove)
            for name in ("q", "k"):
                hooks.callback(
                    _plain(layer.self_attn, name).register_forward_hook(_keeping(run, name)).remove
                )
            if fired is not None:
                hooks.callback(layer.mlp.down_proj.register_forward_pre_hook(_firing(fired, number)).remove)
        modules(
            inputs_embeds=embedded.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            entropick_lens=run,
        )


def embed(model: Model, ids: Tensor) -> Tensor:
    """Returns the input embeddings [T, hidden] of tokens, reading the matrix in pieces."""
    found = torch.empty(len(ids), model.shape.hidden)
    for start, rows in model.weights.embedding_rows():
        here = (ids >= start) & (ids < start + len(rows))
        found[here] = rows[ids[here] - start]
    return found * model.shape.embedding_scale


def _empty(model: Model, dtype: torch.dtype) -> Any:
    """Makes the modules without weights; what they compute from the configuration is there."""
    with torch.device("meta"):
        modules: Any = AutoModel.from_config(  # type: ignore[no-untyped-call]
            model.config, attn_implementation=ATTENTION_NAME, dtype=dtype
        )
    modules.rotary_emb = type(modules.rotary_emb)(config=model.config)
    modules.norm = nn.Identity()  # the visitor sees the last layer's output before the norm as well
    return modules.eval()


def _plain(attention: Any, name: str) -> nn.Module:
    """Returns the module whose output is the queries or keys before the rotation: a norm of heads, or the
    product."""
    module: nn.Module | None = getattr(attention, f"{name}_norm", None)
    return getattr(attention, f"{name}_proj") if module is None else module


def _filling(model: Model, number: int, dtype: torch.dtype) -> Any:
    def fill(layer: nn.Module, _: Any) -> None:
        stored = {
            name: model.weights.stored(f"layers.{number}.{name}").to(dtype) for name in layer.state_dict()
        }
        layer.load_state_dict(stored, assign=True)

    return fill


def _emptying(run: _Run, number: int, bar: Any) -> Any:
    def empty(layer: nn.Module, _: Any, output: Any) -> None:
        layer.to("meta")
        run.visitor.added(number, (output[0] if isinstance(output, tuple) else output)[0])
        bar.update()

    return empty


def _firing(fired: Callable[[int, Tensor], None], number: int) -> Any:
    def fire(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        fired(number, given[0].reshape(-1, given[0].shape[-1]))

    return fire


def _keeping(run: _Run, name: str) -> Any:
    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        run.plain[name] = output

    return keep


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    entropick_lens: _Run,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attends within each text, for a module that transformers calls: query [1, H, T, D], key and value [1,
    Hk, T, D].

    Returns the attention's output [1, T, H, D].
    """
    if attention_mask is not None or unused.get("s_aux") is not None:
        raise InspectError(
            "this architecture needs a mask of its own or attention sinks, which are not known here"
        )
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    run = entropick_lens
    seen = Attended(
        layer=int(module.layer_idx),
        bounds=run.bounds,
        queries=q,
        keys=k,
        plain_queries=run.unrotated("q", q),
        plain_keys=run.unrotated("k", k),
        scale=float(q.shape[2] ** -0.5 if scaling is None else scaling),
        window=sliding_window,
        softcap=softcap,
    )
    out = torch.empty_like(q)
    group = q.shape[1] // k.shape[1]
    for lo, hi, first in seen.pieces():
        values = v[first:hi].repeat_interleave(group, 1)
        out[lo:hi] = torch.einsum("hqk,khd->qhd", seen.scores(lo, hi, first).softmax(-1), values)
    run.visitor.attended(seen)
    return out.unsqueeze(0), None
