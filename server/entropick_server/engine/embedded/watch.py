"""The rolling windows of the rows of a step: genuineness, beside the sampling of their tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt
from torch import Tensor

from entropick_sampler.genuineness.quadrants import Cuts
from entropick_sampler.genuineness.reply import ReplyWindows, WindowStep, push_step
from entropick_sampler.packed import TokenRow
from entropick_sampler.signals import SIGNAL_NAMES

from ..tokens import NO_WINDOW
from .forward import ForwardOutput
from .sequence import Sequence

_ENTROPY = SIGNAL_NAMES.index("logits_entropy")


def watch(output: ForwardOutput, rows: Seq[TokenRow], cuts: Cuts | None = None) -> list[WindowStep]:
    """Pushes a step into the windows of its rows' replies, and returns their figures, a row each.

    Each row's step must be pushed once, before its reply takes the token or is forked. ``rows``: the measured
    rows, in the order of ``output.sequences``; ``cuts``: the profile's cut points. A row whose request wants
    no genuineness has no figures.
    """
    heads = output.heads
    layers, count, width = heads.entropy.shape
    watched = [i for i, s in enumerate(output.sequences) if s.request.policy.genuineness is not False]
    if not layers or not watched:
        return [NO_WINDOW] * count
    windows = [_windows(output.sequences[i], layers * width, cuts) for i in watched]
    normalised = _by_row(heads.entropy_normalized, watched, count)
    keys = _by_row(heads.keys, watched, count)
    if keys.min() < 2:
        # such a step is left out
        normalised = np.where(keys.repeat(width, axis=1) > 1, normalised, np.float32(np.nan))
    wants_bits = any(w.seed is not None for w in windows)
    entropy = _by_row(heads.entropy, watched, count) if wants_bits else normalised
    # None becomes NaN
    logits = np.array([rows[i].signals[_ENTROPY] for i in watched], dtype=np.float32)
    costs = None
    if output.costs is not None:
        costs = _by_row(output.costs, watched, count).reshape(len(watched), layers * width, -1)
        for at, i in enumerate(watched):
            if not output.sequences[i].reply.length:
                # the surprisals of a prompt are known behind the forward that ends it, if in one piece
                costs[at] = np.nan
    steps = [NO_WINDOW] * count
    for i, step in zip(watched, push_step(windows, normalised, entropy, logits, costs), strict=True):
        steps[i] = step
    return steps


def _windows(sequence: Sequence, heads: int, cuts: Cuts | None) -> ReplyWindows:
    """Returns the windows of a sequence's reply, which begin with its first step."""
    reply = sequence.reply
    if reply.windows is None:
        asked = sequence.request.policy.genuineness
        reply.windows = ReplyWindows.begin(heads, costs=asked != "scores", seed=asked == "seed", cuts=cuts)
    return reply.windows


def _by_row(figures: Tensor, watched: Seq[int], count: int) -> npt.NDArray[np.float32]:
    """Returns figures [L, B, ..] of the watched rows on the host, float32 [rows, L * ..]."""
    # numpy's small operations cost a fraction of torch's
    of_rows = figures.cpu().numpy().swapaxes(0, 1)
    if len(watched) != count:
        of_rows = of_rows[list(watched)]
    return of_rows.reshape(len(watched), -1).astype(np.float32, copy=False)
