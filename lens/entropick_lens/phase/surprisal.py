"""The surprisal of every token of some texts under the model itself, -log2 P(token | tokens before)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ..forward import Attended, run_texts
from ..section import Model, Options, progress
from ..texts import Text

_ROWS: Final = 2048
"""distributions whose logits are in memory at a time"""
_PIECES: Final = 4096
"""tokens of a piece of the output matrix"""


class _Last:
    """Keeps the output of the last layer."""

    def __init__(self, layers: int) -> None:
        self._last = layers - 1
        self.residual = torch.empty(0)

    def attended(self, seen: Attended) -> None:
        """Looks at nothing: attention is of no interest here."""

    def added(self, layer: int, residual: Tensor) -> None:
        """Keeps the output of the last layer alone."""
        if layer == self._last:
            self.residual = residual


def token_surprisals(
    model: Model, texts: Sequence[Text], options: Options, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Computes the surprisal (bits) of each token of texts that stand in a row, float64 [T].

    The first token of a text has none before it: 0, as the live figure counts it. The texts run through the
    model once; the vocabulary is taken in pieces by an online softmax.
    """
    last = _Last(model.shape.layers)
    run_texts(model, texts, last, dtype=dtype, what="surprisals", quiet=options.quiet)
    x = last.residual
    x = x / x.square().mean(-1, keepdim=True).add(float(model.config.rms_norm_eps)).sqrt()
    x = x * model.weights.final_norm().to(x.dtype)
    ids = torch.tensor([token for text in texts for token in text.ids])
    cap = getattr(model.config, "final_logit_softcapping", None)
    total = torch.full((len(ids),), -math.inf, dtype=torch.float64)
    chosen = torch.zeros(len(ids), dtype=torch.float64)
    after = torch.roll(ids, -1)
    pieces = -(-model.shape.vocabulary // _PIECES)
    for start, rows in progress(model.weights.head_rows(_PIECES), "surprisals", options, pieces):
        for lo in range(0, len(ids), _ROWS):
            part = slice(lo, lo + _ROWS)
            logits = x[part] @ rows.T.to(x.dtype)
            if cap is not None:
                logits = torch.tanh(logits / cap) * cap
            logits = logits.double()
            total[part] = torch.logaddexp(total[part], logits.logsumexp(1))
            here = after[part] - start
            inside = (here >= 0) & (here < len(rows))
            own = logits.gather(1, here.clamp(0, len(rows) - 1)[:, None])[:, 0]
            chosen[part] = torch.where(inside, own, chosen[part])
    bits = torch.roll((total - chosen) / math.log(2.0), 1)
    begins = torch.tensor([0, *(len(text.ids) for text in texts[:-1])]).cumsum(0)
    bits[begins] = 0.0
    return bits.clamp(min=0.0)
