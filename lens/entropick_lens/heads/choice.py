"""Chooses layers whose signals, averaged, follow the mean over all layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """The layers in the order in which they are to be monitored: the first n are the choice of n."""

    order: tuple[int, ...]
    correlation: tuple[float, ...]
    """for the first n layers: r of their mean signals with those of all layers, averaged over the signals"""


def choose_layers(signals: npt.NDArray[np.float64]) -> LayerChoice:
    """Orders layers by forward selection, from their signals [layers, queries, signals].

    Each step adds the layer that raises the mean over the signals of r most, where r compares, over the
    queries, the mean of the chosen layers with the mean of all. A signal that does not vary is left out. The
    server's thresholds are quantiles of the monitored layers' own signals, which a shift or a scale leaves
    where they are, so correlation counts, not distance.
    """
    x = signals - signals.mean(1, keepdims=True)
    whole = x.mean(0)
    scale = np.sqrt((whole**2).sum(0))
    varies = scale > 1e-9 * max(1.0, float(np.abs(signals).max())) * np.sqrt(signals.shape[1])
    x, whole, scale = x[:, :, varies], whole[:, varies], scale[varies]
    order: list[int] = []
    reached: list[float] = []
    total = np.zeros_like(whole)
    while len(order) < len(x):
        best, best_r = -1, -np.inf
        for layer in range(len(x)):
            if layer in order:
                continue
            candidate = total + x[layer]
            norm = np.sqrt((candidate**2).sum(0))
            r = (candidate * whole).sum(0) / np.where(norm > 0, norm * scale, np.inf)
            mean = float(r.mean()) if len(r) else 0.0
            if mean > best_r:
                best, best_r = layer, mean
        order.append(best)
        reached.append(best_r)
        total = total + x[best]
    return LayerChoice(tuple(order), tuple(reached))
