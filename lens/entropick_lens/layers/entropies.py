"""Entropies of distributions over a vocabulary whose logits come in pieces, and figures of their profiles.

All entropies are in nats here, as in the source (Entropy-Lens, arXiv 2502.16570). Renyi's entropy of order a
is ln(sum p^a) / (1 - a); orders 0, 1 and infinity are its limits: ln V, Shannon's entropy, and -ln of the
largest probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
TOLERANCE: Final = 1e-6
"""a smaller change of entropy (nats) is neither expansion nor pruning"""


class Entropies:
    """The entropies of rows of logits that are given piece by piece: an online softmax.

    Sums are kept over exp(x - m) with the largest logit m so far, and rescaled where a piece has a larger
    one.
    """

    def __init__(self, rows: int, orders: Sequence[float], of: Tensor | None = None) -> None:
        """Begins with ``rows`` rows.

        ``orders``: the orders of Renyi's entropy. ``of`` [rows]: for each row the row whose distribution q a
        divergence sum q ln(q / p) is measured from; None for no divergence.
        """
        self._orders = tuple(orders)
        self._of = of
        self._top = torch.full((rows,), -math.inf, dtype=torch.float64)
        self._sums = {order: torch.zeros(rows, dtype=torch.float64) for order in {1.0, *self._finite()}}
        self._weighted = torch.zeros(rows, dtype=torch.float64)
        """sum of exp(x - m) (x - m)"""
        self._crossed = torch.zeros(rows, dtype=torch.float64)
        """sum of exp(y - n) x, for the logits y of the row that is compared with, whose largest so far is
        n"""
        self._seen = 0

    def _finite(self) -> list[float]:
        return [order for order in self._orders if order not in (0.0, math.inf)]

    def add(self, logits: Tensor) -> None:
        """Takes the next piece [rows, n] of the logits, float32 or float64; sums are kept in float64."""
        x = logits
        before = self._top
        top = torch.maximum(before, x.amax(1).double())
        moved = torch.where(
            before == -math.inf, -math.inf, before - top
        )  # exp(-inf) is 0: nothing to rescale
        scale = moved.exp()
        shifted = x - top[:, None].to(x.dtype)
        powers = shifted.exp()
        if self._of is not None:
            # by the distribution that is compared with, rescaled by its own largest logit
            self._crossed = self._crossed * scale[self._of] + _sum(powers[self._of] * x)
        whole = self._sums[1.0]
        extra = torch.where(whole > 0, whole * torch.nan_to_num(moved, neginf=0.0), 0.0)
        self._weighted = (self._weighted + extra) * scale + _sum(powers * shifted)
        for order, total in self._sums.items():
            piece = _sum(powers if order == 1.0 else _power(powers, order))
            self._sums[order] = total * (scale if order == 1.0 else torch.exp(order * moved)) + piece
        self._top = top
        self._seen += x.shape[1]

    def renyi(self, order: float) -> Tensor:
        """Returns the entropy [rows] of an order, in nats. Raises KeyError for one that was not asked for."""
        whole = self._sums[1.0]
        if order == 0.0:
            return torch.full_like(whole, math.log(self._seen))
        if order == math.inf:
            return whole.log()
        if order == 1.0:
            return whole.log() - self._weighted / whole
        return (self._sums[order].log() - order * whole.log()) / (1.0 - order)

    def divergence(self) -> Tensor:
        """Returns sum q ln(q / p) [rows] from the distribution q of the row that each row is compared
        with."""
        if self._of is None:
            raise ValueError("no divergence was asked for")
        whole = self._sums[1.0]
        log_z = self._top + whole.log()
        of = self._of
        mean_logit = self._crossed / whole[of]
        entropy = self.renyi(1.0)[of]
        return (log_z - mean_logit - entropy).clamp(min=0.0)


def _sum(values: Tensor) -> Tensor:
    return values.sum(1, dtype=torch.float64)


def _power(values: Tensor, order: float) -> Tensor:
    """Returns values in [0, 1] to a power; the orders that the report has without a call of pow."""
    if order == 0.5:
        return values.sqrt()
    if order == 2.0:
        return values.square()
    if order == 5.0:
        return values.square().square_().mul_(values)
    return values.pow(order)


def resample(profile: npt.ArrayLike, depth: int) -> Array:
    """Returns a profile [.., layers] at ``depth`` evenly spaced places, linearly interpolated.

    So profiles of models with different numbers of layers can be compared.
    """
    values = np.asarray(profile, dtype=np.float64)
    count = values.shape[-1]
    at = np.linspace(0.0, count - 1.0, depth)
    low = np.minimum(at.astype(int), max(count - 2, 0))
    share = at - low
    found = values[..., low] * (1.0 - share) + values[..., np.minimum(low + 1, count - 1)] * share
    return np.asarray(found, dtype=np.float64)


def windows(entropies: Array, count: int) -> Array:
    """Returns the means [count * layers] over ``count`` runs of tokens of entropies [tokens, layers].

    The runs are as equal as can be, in order; a text of fewer tokens than runs repeats its last.
    """
    edges = np.linspace(0, len(entropies), count + 1).astype(int)
    last = len(entropies) - 1
    rows = []
    for lo, hi in pairwise(edges):
        begin = min(lo, last)
        rows.append(entropies[begin : max(hi, begin + 1)].mean(0))
    return np.concatenate(rows)


def expansion(profile: Array) -> tuple[Array, Array, Array, Array]:
    """Returns counts and sums of the rises and of the falls of profiles [.., layers].

    Expansion is a rise of entropy from one layer to the next, pruning a fall, by more than the tolerance.
    Four arrays [..]: layers that expand, layers that prune, the sum of rises, the sum of falls (positive), in
    nats.
    """
    delta = np.diff(profile, axis=-1)
    up, down = delta > TOLERANCE, delta < -TOLERANCE
    return (
        up.sum(-1).astype(np.float64),
        down.sum(-1).astype(np.float64),
        np.where(up, delta, 0.0).sum(-1),
        -np.where(down, delta, 0.0).sum(-1),
    )
