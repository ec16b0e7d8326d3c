"""The types of a forward: the decoder that runs a step, and the output that the sampler gets.

Every decoder takes a :class:`entropick_kernels.decoder.DecoderStep`, one row of T packed tokens: first the
tokens of prefill chunks, of which no logits are wanted, then the *rows*, one token a sequence, whose logits
and attention are wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from entropick_kernels.attention_stats import HeadStats, layer_signals
from entropick_kernels.decoder import Decoded, DecoderStep, LayerLens, PromptSurprisals

from .attention import LayerFigures
from .sequence import Sequence


class Decoder(Protocol):
    """A way to run the model over a step."""

    def __call__(self, step: DecoderStep) -> Decoded | None:
        """Runs the model. Returns logits and attention figures of the rows, None for a step without rows."""
        ...


@dataclass(frozen=True, slots=True)
class ForwardOutput:
    """The output of a forward for its B rows, ``sequences``.

    ``logits`` [B, V]; ``heads``: each field [L, B, H] over the monitored layers; ``by_layer`` [L, B, 7] and
    its mean over layers ``signals`` [B, 7], in the order of ATTENTION_SIGNALS. ``costs`` [L, B, H, 4]: as in
    :class:`entropick_kernels.attention_stats.TokenCosts`, None where no token cost was measured. ``lens``:
    entropies of layers of some rows, None where no row wants any.
    """

    sequences: tuple[Sequence, ...]
    logits: Tensor
    heads: HeadStats
    by_layer: Tensor
    signals: Tensor
    costs: Tensor | None = None
    lens: LayerLens | None = None


_LOG2_E: Final = 1.0 / math.log(2.0)


def rank_prompt(logits: Tensor, prompt: PromptSurprisals, some: slice) -> None:
    """Fills in the figures of the prompt tokens ``some`` from the logits [W, V] before them, in float32."""
    targets = prompt.targets[some, None].to(logits.device)
    chosen, log_z = logits.gather(-1, targets), logits.logsumexp(-1, keepdim=True)
    prompt.bits[some] = ((log_z - chosen) * _LOG2_E)[:, 0].to(prompt.bits.device)
    if prompt.ranks is None or prompt.top_ids is None or prompt.top_bits is None:
        return
    prompt.ranks[some] = (logits >= chosen).sum(-1).to(prompt.ranks.device)
    if count := prompt.top_ids.shape[1]:
        top, ids = logits.topk(count, -1)
        prompt.top_ids[some] = ids.to(prompt.top_ids)
        prompt.top_bits[some] = ((log_z - top) * _LOG2_E).to(prompt.top_bits)


def decoded(logits: Tensor, figures: Seq[LayerFigures]) -> Decoded:
    """Joins the logits of a step's rows with the figures of their attention, one a monitored layer."""
    stats = zip(*(of_layer.stats for of_layer in figures), strict=True)
    heads = HeadStats(*(torch.stack(of_layers) for of_layers in stats))
    by_layer = layer_signals(heads)
    costs = [of_layer.costs for of_layer in figures if of_layer.costs is not None]
    return Decoded(logits, heads, by_layer, by_layer.mean(0), torch.stack(costs) if costs else None)
