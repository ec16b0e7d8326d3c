"""The singular values of a head's query-key form M = W_K^T W_Q, and seven figures of them.

The score of a query x_q and a key x_k is x_k^T M x_q / sqrt(D), with M [hidden, hidden] of rank at most D,
the head's width. With W^T = Q R for both projections, M = Q_K (R_K R_Q^T) Q_Q^T, so the singular values are
those of a D x D matrix. They are not those of W_Q W_K^T, which is D x D as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CLIP: Final = 1e-12
"""the least share in the spectral entropy, and the least singular value in the condition"""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The seven figures of a head's singular values; None where all of them are 0 and a figure has no
    meaning."""

    op: float
    """the largest: the operator norm; the factor 1/sqrt(D) is not in it"""
    fro: float
    """the root of the sum of squares: the Frobenius norm"""
    trace: float
    """the sum: the nuclear norm, which the source calls trace; M's own trace is another number"""
    rank_eff: float | None
    """sum / largest: the effective rank, 1 to D"""
    spec_ent: float | None
    """entropy (nats) of the shares of the squares; ln D at most"""
    anisotropy: float | None
    """largest / mean, which is D / rank_eff"""
    condition: float | None
    """largest / smallest, the smallest taken as at least 1e-12"""


NAMES: Final = tuple(field.name for field in fields(Descriptors))


def describe(singular_values: npt.ArrayLike) -> Descriptors:
    """Computes the seven figures of the singular values [D] of one head, in float64."""
    s = np.asarray(singular_values, dtype=np.float64)
    total, largest = float(s.sum()), float(s.max())
    fro = math.sqrt(float((s * s).sum()))
    if largest == 0.0:
        return Descriptors(0.0, 0.0, 0.0, None, None, None, None)
    shares = np.maximum(s * s / (s * s).sum(), CLIP)
    return Descriptors(
        op=largest,
        fro=fro,
        trace=total,
        rank_eff=total / largest,
        spec_ent=float(-(shares * np.log(shares)).sum()),
        anisotropy=largest / (total / len(s)),
        condition=largest / max(float(s.min()), CLIP),
    )


def triangle(projection: Tensor) -> Tensor:
    """Returns R of W^T = Q R in float64, for a projection W [.., D, hidden]: [.., min(D, hidden), D]."""
    found: Tensor = torch.linalg.qr(projection.double().transpose(-1, -2), mode="r").R
    return found


def singular_values(triangle_q: Tensor, triangle_k: Tensor) -> Tensor:
    """Returns the singular values of M, largest first, from both triangles [.., n, D]."""
    found: Tensor = torch.linalg.svdvals(triangle_k @ triangle_q.transpose(-1, -2))
    return found


def alignment(w_q: Tensor, w_k: Tensor, nuclear: Tensor) -> Tensor:
    """Returns M's trace by its nuclear norm, [..], of projections [.., D, hidden].

    It is about 0 for unrelated projections, 1 where W_K = W_Q, -1 where W_K = -W_Q; NaN where M is 0.
    """
    return (w_q.double() * w_k.double()).sum((-1, -2)) / nuclear
