"""The features of a labelled reply: entropies of layers, and the signals that a server measures anyway.

All are means over the same positions of a reply, at most ``POSITIONS`` evenly spread ones (the source's tests
have 8 tokens). The reply is given, not generated: what is measured at a position is what the model saw there
when it wrote the token behind it, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor

from entropick_kernels.attention_stats import HeadStats, layer_signals

from ..forward import Attended, run_texts
from ..heads.attention import measure_text
from ..layers.entropies import Array, Entropies, windows
from ..layers.entropy import normed, spread_positions
from ..section import Model, Options, progress
from ..texts import Text
from .last_layer import LastLayer

POSITIONS: Final = 8
ORDERS: Final = (0.5, 5.0)
"""of Renyi's entropy, beside Shannon's: the source classifies by these three"""
_BATCH: Final = 8192
"""tokens that run through the model at a time"""
_ROWS: Final = 2048
"""distributions whose logits are in memory at a time"""


@dataclass(frozen=True, slots=True)
class Features:
    """The features of N texts; all are raw, in the units of their names."""

    layers: Array
    """[N, windows * layers]: Shannon's entropy by layer, nats"""
    orders: Array
    """[N, 3 * windows * layers]: the entropies of orders 0.5, 1 and 5"""
    signals: Array
    """[N, 10]: entropy, varentropy and surprisal of the last layer, and the seven attention signals, means
    over layers"""
    lengths: Array
    """[N, 2]: tokens of the prompt, tokens of the reply"""


class _Visitor:
    """The residuals and the attention signals of all layers at some positions."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self.residuals: list[Tensor] = []
        self.signals: list[Tensor] = []

    def attended(self, seen: Attended) -> None:
        """Measures the layer's attention with the kernels that serve."""
        stats = [measure_text(seen, first, stop) for first, stop in seen.bounds]
        whole = HeadStats(
            *(torch.cat([getattr(s, name) for s in stats])[self._rows] for name in HeadStats._fields)
        )
        self.signals.append(layer_signals(whole).double())

    def added(self, layer: int, residual: Tensor) -> None:
        """Keeps the layer's output at the positions."""
        self.residuals.append(residual[self._rows].clone())


def measure_features(model: Model, texts: Sequence[Text], options: Options) -> tuple[Features, int]:
    """Runs the texts through the model in batches; returns their features and the number of positions."""
    layers, orders, signals = [], [], []
    positions = 0
    batches = list(_batches(texts))
    for batch in progress(batches, "replies", options, len(batches)):
        starts = np.cumsum([0, *(len(text.ids) for text in batch)])
        of_text = [spread_positions(text, POSITIONS) for text in batch]
        rows = [int(start) + p for start, own in zip(starts, of_text, strict=False) for p in own]
        visitor = _Visitor(torch.tensor(rows))
        run_texts(model, batch, visitor, quiet=True)
        following = [text.ids[p + 1] for text, own in zip(batch, of_text, strict=True) for p in own]
        entropies, last = _distributions(model, torch.stack(visitor.residuals, 1), torch.tensor(following))
        attention = torch.stack(visitor.signals).mean(0).numpy()
        figures = np.concatenate([last, attention], axis=1)
        ends = np.cumsum([0, *(len(own) for own in of_text)])
        for lo, hi in pairwise(ends):
            by_order = [windows(entropies[order][lo:hi], options.windows) for order in (0.5, 1.0, 5.0)]
            layers.append(by_order[1])
            orders.append(np.concatenate(by_order))
            signals.append(np.nanmean(figures[lo:hi], axis=0))
        positions += len(rows)
    lengths = np.array([(text.start, len(text.ids) - text.start) for text in texts], dtype=np.float64)
    return Features(np.array(layers), np.array(orders), np.array(signals), lengths), positions


def _batches(texts: Sequence[Text]) -> Iterator[list[Text]]:
    batch: list[Text] = []
    for text in texts:
        if batch and sum(len(one.ids) for one in batch) + len(text.ids) > _BATCH:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _distributions(model: Model, residuals: Tensor, following: Tensor) -> tuple[dict[float, Array], Array]:
    """Measures what residuals [P, L, hidden] give through the final norm and the output matrix.

    Returns entropies by order, [P, L] in nats, and of the last layer entropy (bits), varentropy (bits^2) and
    the surprisal (bits) of the token ``following`` [P], as [P, 3].
    """
    count, layers, _ = residuals.shape
    x = normed(model, residuals).reshape(count * layers, -1)
    cap = getattr(model.config, "final_logit_softcapping", None)
    at_once = max(1, _ROWS // layers) * layers
    parts = [slice(lo, min(lo + at_once, len(x))) for lo in range(0, len(x), at_once)]
    found = [Entropies(p.stop - p.start, ORDERS) for p in parts]
    last = [LastLayer(following[p.start // layers : p.stop // layers]) for p in parts]
    for first, rows in model.weights.head_rows():
        for part, sums, ends in zip(parts, found, last, strict=True):
            logits = x[part] @ rows.T.to(x.dtype)
            if cap is not None:
                logits = torch.tanh(logits / cap) * cap
            sums.add(logits)
            ends.add(first, logits[layers - 1 :: layers])
    entropies = {
        order: torch.cat([f.renyi(order) for f in found]).view(count, layers).numpy()
        for order in (1.0, *ORDERS)
    }
    return entropies, torch.cat([one.figures() for one in last]).numpy()
