"""The fields of ``layer_entropy``, their limits and defaults, and the reference of the measured entropies.

The logit lens: the entropy of the next-token distribution that a layer's output would give, were it the last
layer's. Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

MOST_EVERY: Final = 4096
MOST_LAYERS: Final = 128
TOLERANCE_BITS: Final = 1e-6 / math.log(2.0)
"""a smaller change of entropy, 1e-6 nats, is neither expansion nor pruning"""


@dataclass(frozen=True, slots=True)
class LayerEntropy:
    """A request for the layers' entropies: of which layers, and how often.

    ``every``: 1 for each token of the reply, n for its tokens 0, n, 2n, ...; ``layers``: numbers from 0, in
    ascending order; none for all monitored layers.
    """

    every: int = 8
    layers: tuple[int, ...] = ()


FIELDS: Final = tuple(field.name for field in fields(LayerEntropy))


def layer_entropy(given: Mapping[str, Any], default: LayerEntropy | None = None) -> LayerEntropy:
    """Returns the request that some fields describe, over a default's.

    Raises ValueError that names the field.
    """
    for name in given:
        if name not in FIELDS:
            raise ValueError(f"layer_entropy.{name[:64]}: unknown field; known: {', '.join(FIELDS)}")
    base = default or LayerEntropy()
    every, layers = given.get("every", base.every), given.get("layers", base.layers)
    if not _whole(every) or not 1 <= every <= MOST_EVERY:
        raise ValueError(f"layer_entropy.every: must be a whole number from 1 to {MOST_EVERY}")
    if isinstance(layers, list | tuple) and len(layers) > MOST_LAYERS:
        raise ValueError(f"layer_entropy.layers: at most {MOST_LAYERS}")
    if not isinstance(layers, list | tuple) or not all(_whole(n) and n >= 0 for n in layers):
        raise ValueError("layer_entropy.layers: must be a list of layers' numbers, 0 and up")
    return LayerEntropy(every, tuple(sorted(set(layers))))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def expansion_count(bits: Sequence[float]) -> tuple[int, int]:
    """Counts the rises and the falls of a token's entropies (bits) from each of some layers to the next.

    Expansion and pruning of Entropy-Lens (arXiv 2502.16570), between the layers that are given.
    """
    changes = [after - before for before, after in pairwise(bits)]
    return sum(c > TOLERANCE_BITS for c in changes), sum(c < -TOLERANCE_BITS for c in changes)


def lens_entropy(
    residual: npt.ArrayLike, norm: npt.ArrayLike, head: npt.ArrayLike, eps: float
) -> npt.NDArray[np.float64]:
    """Computes the entropy (bits) of softmax(head @ RMSNorm(x)) for each residual x, in float64.

    ``residual`` [.., hidden], a layer's output before the final norm; ``norm`` [hidden]; ``head``
    [V, hidden]. Returns [..]. The reference of what the decoders measure.
    """
    x, weight, unembedding = (np.asarray(a, dtype=np.float64) for a in (residual, norm, head))
    normed = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight
    logits = normed @ unembedding.T
    logits -= logits.max(-1, keepdims=True)
    z = np.exp(logits).sum(-1, keepdims=True)
    p = np.exp(logits) / z
    return np.asarray((p * (np.log(z) - logits)).sum(-1) / np.log(2.0))
