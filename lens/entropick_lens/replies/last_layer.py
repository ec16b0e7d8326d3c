"""Entropy, varentropy and surprisal of distributions whose logits come in pieces of the vocabulary."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

_BITS: Final = 1.0 / math.log(2.0)


class LastLayer:
    """The figures of rows of logits, by an online softmax in float64.

    Kept are z, the sum of exp(x - m) over the logits x with the largest so far m, and the sums weighted with
    x - m and its square. A larger m, d above the old one, makes them (z2 - 2 d z1 + d^2 z) exp(-d) and so on.
    """

    def __init__(self, following: Tensor) -> None:
        """Begins with a row for each of the tokens [P] whose surprisal is wanted."""
        self._following = following
        rows = len(following)
        self._top = torch.full((rows,), -math.inf, dtype=torch.float64)
        self._sums = torch.zeros(3, rows, dtype=torch.float64)
        self._chosen = torch.full((rows,), -math.inf, dtype=torch.float64)

    def add(self, first: int, logits: Tensor) -> None:
        """Takes the logits [P, n] of the tokens ``first`` to first + n - 1."""
        x = logits.double()
        here = (self._following >= first) & (self._following < first + x.shape[1])
        self._chosen[here] = x[here, self._following[here] - first]
        top = torch.maximum(self._top, x.amax(1))
        moved = torch.where(self._top == -math.inf, 0.0, self._top - top)
        z, z1, z2 = self._sums
        scale = moved.exp()
        below = x - top[:, None]
        powers = below.exp()
        self._sums = torch.stack(
            (
                z * scale + powers.sum(1),
                (z1 + moved * z) * scale + (powers * below).sum(1),
                (z2 + 2.0 * moved * z1 + moved.square() * z) * scale + (powers * below.square()).sum(1),
            )
        )
        self._top = top

    def figures(self) -> Tensor:
        """Returns entropy (bits), varentropy (bits^2) and surprisal (bits), [P, 3]."""
        z, z1, z2 = self._sums
        log_z, mean = z.log(), z1 / z
        entropy = log_z - mean
        variance = (z2 / z - mean.square()).clamp(min=0.0)
        surprisal = self._top + log_z - self._chosen
        return torch.stack((entropy * _BITS, variance * _BITS**2, surprisal * _BITS), 1)
