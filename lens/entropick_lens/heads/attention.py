"""The section ``head_attention``: entropy and scores of each head's attention over text.

The entropies come from the kernels that serve (``measure_attention``): every query of a text is a row of its
own, with the text's keys up to it. The standard deviation of the scores is taken over the keys that a query
sees. Means are over all queries that see at least two keys, the same for every head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropick_kernels.attention_stats import HeadStats, layer_signals, measure_attention

from ..forward import Attended, run_texts
from ..grids import Grid, draw_grid, grid, shown_heads
from ..section import InspectError, Model, Options, Plot, Section
from ..texts import read_texts
from .choice import LayerChoice, choose_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCK: Final = 16
"""tokens of a block of keys, as the kernels read them"""
_SINK: Final = 0.5
"""the share of attention to the first token from which a head is said to rest on it"""
_PREVIOUS: Final = 0.5


@dataclass(frozen=True, slots=True)
class HeadAttention:
    """The attention of all heads over text; grids are by layer and query head."""

    texts: int
    tokens: int
    queries: int
    """queries that see at least two keys"""
    log2_keys: tuple[float, ...]
    """by layer: the mean over queries of log2 of the keys that they see, the entropy's ceiling (bits)"""
    entropy: Grid
    """mean over queries (bits)"""
    entropy_sd: Grid
    """standard deviation over queries (bits)"""
    score_std: Grid
    """mean over queries of the population standard deviation of the scores that enter the softmax"""
    score_std_predicted: Grid
    """the root of tr(E[q q^T] Cov(k)) times the scale, of queries and keys before their rotation"""
    to_first: Grid
    """mean attention to the text's first token"""
    to_previous: Grid
    """mean attention to the token before"""
    layer_choice: LayerChoice
    """layers that stand for all, in the order in which they are to be monitored"""


class AttentionVisitor:
    """The figures of each layer's heads, collected while texts run."""

    def __init__(self) -> None:
        self.layers: list[dict[str, Tensor]] = []
        self.signals: list[Tensor] = []
        """by layer: the seven signals [queries, 7] of the queries that see two keys"""
        self.queries = 0

    def attended(self, seen: Attended) -> None:
        """Measures a layer."""
        stats = [measure_text(seen, first, stop) for first, stop in seen.bounds]
        whole = HeadStats(*(torch.cat([getattr(s, name) for s in stats]) for name in HeadStats._fields))
        wide = whole.keys >= 2
        if not bool(wide.any()):
            raise InspectError("--text: no query sees two keys; longer texts are needed")
        self.queries = int(wide.sum())
        entropy = whole.entropy[wide].double()
        spread, first = score_figures(seen)
        self.signals.append(layer_signals(HeadStats(*(figure[wide] for figure in whole))).double())
        self.layers.append(
            {
                "log2_keys": whole.keys[wide].double().log2().mean(),
                "entropy": entropy.mean(0),
                "entropy_sd": entropy.std(0, unbiased=False),
                "score_std": spread[wide].mean(0),
                "to_first": first[wide].mean(0),
                "to_previous": whole.previous[wide].double().mean(0),
                "score_std_predicted": predicted_std(seen),
            }
        )

    def added(self, layer: int, residual: Tensor) -> None:
        """Looks at nothing: the residual is of no interest here."""


def in_blocks(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Lays the keys [n, Hk, D] of a text into blocks [P, Hk, BLOCK, D] as the kernels read them.

    Returns them with a block table int32 [n, P] in which each query of the text has all of them.
    """
    count = len(keys)
    blocks = -(-count // BLOCK)
    padded = torch.zeros(blocks * BLOCK, *keys.shape[1:], dtype=keys.dtype)
    padded[:count] = keys
    laid = padded.view(blocks, BLOCK, *keys.shape[1:]).transpose(1, 2).contiguous()
    return laid, torch.arange(blocks, dtype=torch.int32).expand(count, blocks).contiguous()


def measure_text(seen: Attended, first: int, stop: int) -> HeadStats:
    """Measures every query of one text with the kernels that serve; figures [tokens, H]."""
    count = stop - first
    laid, table = in_blocks(seen.keys[first:stop])
    return measure_attention(
        seen.queries[first:stop].contiguous(),
        laid,
        table,
        torch.arange(1, count + 1, dtype=torch.int32),
        scale=seen.scale,
        window=seen.window,
        softcap=seen.softcap,
    )


def score_figures(seen: Attended) -> tuple[Tensor, Tensor]:
    """Returns the standard deviation of each query's visible scores, and its attention to the first token.

    Both are [T, H], in float64.
    """
    shape = seen.queries.shape[:2]
    spread, first_key = (torch.empty(shape, dtype=torch.float64) for _ in range(2))
    for lo, hi, first in seen.pieces():
        scores = seen.scores(lo, hi, first)
        there = scores.isfinite()
        count = there.sum(-1)
        values = scores.masked_fill(~there, 0.0).double()
        mean = values.sum(-1) / count
        squares = (values - mean[..., None]).square_().masked_fill_(~there, 0.0)
        spread[lo:hi] = (squares.sum(-1) / count).sqrt().T
        first_key[lo:hi] = (scores[..., 0] - scores.logsumexp(-1)).exp().double().T
    return spread, first_key


def predicted_std(seen: Attended) -> Tensor:
    """Returns the standard deviation [H] that scores would have if queries and keys were independent.

    With s^2 = scale^2 tr(E[q q^T] Cov(k)), over the text's queries and keys before their rotation by
    position. For projections without biases that is tr(W_Q C W_Q^T W_K Cc W_K^T)/D, with C the second moment
    and Cc the covariance of the normed inputs.
    """
    q, k = seen.plain_queries.double(), seen.plain_keys.double()
    second = torch.einsum("thi,thj->hij", q, q) / len(q)
    centred = k - k.mean(0)
    covariance = torch.einsum("thi,thj->hij", centred, centred) / len(k)
    covariance = covariance.repeat_interleave(q.shape[1] // k.shape[1], 0)
    return (second * covariance).sum((-1, -2)).clamp(min=0.0).sqrt() * seen.scale


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> HeadAttention:
    """Runs the texts through the model and measures every head."""
    texts = read_texts(model, options)
    visitor = AttentionVisitor()
    run_texts(model, texts, visitor, what="head attention", quiet=options.quiet)

    def by_head(name: str) -> Grid:
        return grid([layer[name].tolist() for layer in visitor.layers])

    signals: npt.NDArray[np.float64] = torch.stack(visitor.signals).numpy()
    return HeadAttention(
        texts=len(texts),
        tokens=sum(len(text.ids) for text in texts),
        queries=visitor.queries,
        log2_keys=tuple(float(layer["log2_keys"]) for layer in visitor.layers),
        entropy=by_head("entropy"),
        entropy_sd=by_head("entropy_sd"),
        score_std=by_head("score_std"),
        score_std_predicted=by_head("score_std_predicted"),
        to_first=by_head("to_first"),
        to_previous=by_head("to_previous"),
        layer_choice=choose_layers(signals),
    )


def sentences(found: HeadAttention) -> tuple[str, ...]:
    """Describes heads that rest on one token, the spread of entropy, and the layers that stand for all."""
    said: list[str] = []
    entropy = np.array(found.entropy)
    for name, values, least in (
        ("the text's first token", found.to_first, _SINK),
        ("the token before", found.to_previous, _PREVIOUS),
    ):
        share = np.array(values)
        places = [(int(i), int(j)) for i, j in np.argwhere(share > least)]
        if places:
            said.append(
                f"{len(places)} of {share.size} heads give more than {least:.0%} of their attention to "
                f"{name}: {shown_heads(sorted(places, key=lambda p: -share[p]))}."
            )
    ceiling = np.array(found.log2_keys)
    said.append(
        f"Over {found.texts} texts ({found.tokens} tokens) a head's mean entropy runs from "
        f"{entropy.min():.2f} to {entropy.max():.2f} bits; attention that is even over all keys would have "
        f"{ceiling.mean():.2f}."
    )
    share = (entropy / np.maximum(ceiling[:, None], 1e-12)).mean(1)
    said.append(
        f"The most focused layer is {int(share.argmin())} ({share.min():.0%} of the even entropy), the least "
        f"focused {int(share.argmax())} ({share.max():.0%})."
    )
    choice = found.layer_choice
    half = len(choice.order) // 2
    if half:
        quarter = max(1, len(choice.order) // 4)
        said.append(
            f"Layers {', '.join(map(str, sorted(choice.order[:half])))} (half of them) give signals that "
            f"follow those of all layers with r = {choice.correlation[half - 1]:.3f} (mean over the "
            f"signals), layers {', '.join(map(str, sorted(choice.order[:quarter])))} with "
            f"{choice.correlation[quarter - 1]:.3f}."
        )
    return tuple(said)


def plots(found: HeadAttention) -> tuple[Plot, ...]:
    """Returns maps over layers and heads, and the entropy against the prediction from the scores."""

    def maps(figure: Figure) -> None:
        shown = (
            (found.entropy, "attention entropy (bits)"),
            (found.score_std, "standard deviation of scores"),
            (found.to_first, "attention to the first token"),
        )
        for axes, (values, title) in zip(figure.subplots(1, 3), shown, strict=True):
            draw_grid(figure, axes, values, title)

    def gaussian(figure: Figure) -> None:
        axes = figure.subplots()
        spread = np.array(found.score_std)
        lost = np.array(found.log2_keys)[:, None] - np.array(found.entropy)
        layers = np.repeat(np.arange(len(spread)), spread.shape[1])
        points = axes.scatter(spread.ravel(), lost.ravel(), c=layers, s=18)
        x = np.linspace(0.0, min(2.0, float(spread.max())), 50)
        axes.plot(x, x * x / (2.0 * math.log(2.0)), color="0.4", lw=1, label="Gaussian scores: s²/2 nats")
        axes.set(xlabel="standard deviation of scores s", ylabel="entropy below even attention (bits)")
        axes.legend()
        figure.colorbar(points, ax=axes, label="layer")

    return (
        Plot(
            "maps",
            "Mean entropy, spread of scores and attention to the first token, by layer and head.",
            maps,
            (12, 4.5),
        ),
        Plot(
            "gaussian",
            "How far each head's entropy lies below even attention, against the spread of its scores. The "
            "line holds for Gaussian scores; heads above it look at few keys with outlying scores.",
            gaussian,
        ),
    )


SECTION: Final = Section(
    name="head_attention",
    title="Heads: attention over text",
    version=1,
    result=HeadAttention,
    measure=measure,
    sentences=sentences,
    plots=plots,
    uses=("text", "tokens", "length", "seed"),
)
