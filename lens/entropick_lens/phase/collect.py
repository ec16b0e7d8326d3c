"""Collects, while texts run, the figures of each head's attention at every position, and its known habits.

Entropy and token cost come from the kernels that serve (``decode_attention``), where every query of a text is
a row of its own. A text's first position is left out: it sees one key.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropick_kernels.attention_stats import HeadStats, TokenCosts, decode_attention
from entropick_kernels.attention_stats.costs import COST_FIGURES
from entropick_sampler.genuineness.reference import normalised_entropy

from ..forward import Attended
from ..heads.attention import BLOCK, in_blocks
from ..section import InspectError, Model
from ..texts import Text

Array = npt.NDArray[np.float64]
REPEATED: Final = 64
"""random tokens that stand twice in a row, to see whether a head looks at what followed the first time"""


INDUCTION_CHANCE: Final = sum(1 / (2 + REPEATED + i) for i in range(REPEATED)) / REPEATED
"""the same attention of a head that looks evenly at all it sees: about .010"""


@dataclass(frozen=True, slots=True)
class HeadSeries:
    """The figures of all heads, position by position, of the texts without their first positions.

    Series are float32 [T, layers x heads]; ``bounds`` are the rows of each text in them.
    """

    bounds: tuple[tuple[int, int], ...]
    layers: int
    heads: int
    entropy: npt.NDArray[np.float32]
    """bits"""
    normalised: npt.NDArray[np.float32]
    """entropy over log2 of the visible keys"""
    cost: npt.NDArray[np.float32]
    """token cost, bits; NaN where it is absent"""
    relative: npt.NDArray[np.float32]
    """token cost over the mean surprisal of the visible keys"""
    sink: npt.NDArray[np.float32]
    """attention to the text's first token, NaN where it is out of sight"""
    previous: npt.NDArray[np.float32]
    """attention to the token before"""
    log2_keys: npt.NDArray[np.float32]
    """log2 of the visible keys [T, layers]: the entropy of even attention"""
    induction: Array
    """[layers x heads]: mean attention, in the second of two equal runs of random tokens, to the token that
    followed the first time"""


def repeated_texts(model: Model, first: int, count: int, seed: int) -> list[Text]:
    """Makes texts of a first token and two equal runs of different random tokens, none of them special.

    Raises InspectError for a vocabulary of too few tokens.
    """
    known = [
        i
        for i in range(min(model.tokenizer.size, model.shape.vocabulary))
        if model.tokenizer.token_bytes(i) is not None
    ]
    if len(known) < REPEATED:
        raise InspectError(f"the vocabulary has {len(known)} tokens of text, fewer than {REPEATED}")
    rng = random.Random(seed)
    runs = [tuple(rng.sample(known, REPEATED)) for _ in range(count)]
    return [Text((first, *run, *run), 0) for run in runs]


class SeriesVisitor:
    """The series of each layer, collected while texts run; behind them stand texts of repeated tokens."""

    def __init__(self, surprisals: Tensor, texts: int) -> None:
        """Takes the surprisals [T] (bits) of the first ``texts`` texts."""
        self._surprisals = surprisals.float()
        self._texts = texts
        self._layers: list[dict[str, Tensor]] = []
        self._induction: list[Tensor] = []
        self._bounds: tuple[tuple[int, int], ...] = ()

    def attended(self, seen: Attended) -> None:
        """Measures a layer."""
        own, repeated = seen.bounds[: self._texts], seen.bounds[self._texts :]
        parts = [_measured(seen, lo, hi, self._surprisals[lo:hi]) for lo, hi in own if hi - lo > 1]
        if not parts:
            raise InspectError("--text: no text has two tokens; longer texts are needed")
        lengths = [len(stats.keys) for stats, _ in parts]
        ends = np.cumsum([0, *lengths]).tolist()
        self._bounds = tuple(pairwise(ends))
        keys = torch.cat([stats.keys for stats, _ in parts])
        figures = torch.cat([figures for _, figures in parts])
        entropy = torch.cat([stats.entropy for stats, _ in parts])
        self._layers.append(
            {
                "entropy": entropy,
                "normalised": torch.from_numpy(normalised_entropy(entropy.numpy(), keys.numpy()[:, None])),
                "cost": figures[..., 0],
                "relative": figures[..., 1],
                "sink": figures[..., 2],
                "previous": torch.cat([stats.previous for stats, _ in parts]),
                "log2_keys": keys.double().log2()[:, None],
            }
        )
        if repeated:
            self._induction.append(torch.stack([_induction(seen, lo, hi) for lo, hi in repeated]).mean(0))

    def added(self, layer: int, residual: Tensor) -> None:
        """Looks at nothing: the residual is of no interest here."""

    def series(self) -> HeadSeries:
        """Returns the series of all layers."""

        def stacked(name: str) -> npt.NDArray[np.float32]:
            return torch.cat([layer[name].float() for layer in self._layers], 1).numpy()

        entropy = stacked("entropy")
        names = ("normalised", "cost", "relative", "sink", "previous", "log2_keys")
        return HeadSeries(
            bounds=self._bounds,
            layers=len(self._layers),
            heads=entropy.shape[1] // len(self._layers),
            entropy=entropy,
            **{name: stacked(name) for name in names},
            induction=torch.cat(self._induction).double().numpy(),
        )


def _measured(seen: Attended, first: int, stop: int, surprisals: Tensor) -> tuple[HeadStats, Tensor]:
    """Measures the queries of a text behind its first: statistics, and cost figures [n, H, 4]."""
    count = stop - first
    laid, table = in_blocks(seen.keys[first:stop])
    beside = torch.zeros(laid.shape[0] * BLOCK)
    beside[:count] = surprisals
    figures = torch.empty(count - 1, seen.queries.shape[1], COST_FIGURES)
    costs = TokenCosts(beside.view(-1, BLOCK), figures)
    # the values do not matter: what attention brings home is not looked at
    _, stats = decode_attention(
        seen.queries[first + 1 : stop].contiguous(),
        laid,
        laid,
        table[1:].contiguous(),
        torch.arange(2, count + 1, dtype=torch.int32),
        scale=seen.scale,
        window=seen.window,
        softcap=seen.softcap,
        costs=costs,
    )
    return stats, figures


def _induction(seen: Attended, first: int, stop: int) -> Tensor:
    """Returns each head's mean attention [H] from the second run to what followed in the first."""
    second = first + 1 + REPEATED
    weights = seen.scores(second, stop, first).softmax(-1)
    at = torch.arange(REPEATED)
    return weights[:, at, at + 2].mean(1)


def by_text(series: HeadSeries, values: npt.NDArray[np.float32]) -> list[Array]:
    """Returns the rows of each text in float64."""
    return [values[lo:hi].astype(np.float64) for lo, hi in series.bounds]


def text_means(series: HeadSeries, values: npt.NDArray[np.float32]) -> Array:
    """Returns the mean over each text's positions [texts, channels]; NaN where a text has no figure."""
    return np.stack([nan_mean(rows) for rows in by_text(series, values)])


def nan_mean(values: Array | Sequence[Array]) -> Array:
    """Returns the mean over the first axis of the numbers that are known, NaN where none is."""
    x = np.asarray(values, dtype=np.float64)
    known = np.isfinite(x)
    count = known.sum(0)
    return np.where(count > 0, np.where(known, x, 0.0).sum(0) / np.maximum(count, 1), np.nan)
