"""The rolling windows of a reply beside vLLM: they live in the server, which takes every token once.

A worker sends the entropies of a row's heads with its figures, and their token costs where the request wants
them. A token that vLLM threw away, a preempted row that is computed again and a branch that lost never reach
a window. Knows nothing of vLLM.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from entropick_sampler.genuineness.quadrants import Cuts
from entropick_sampler.signals import SIGNAL_NAMES, STEP_SIGNALS

from ..reply import Drawn, Reply
from ..tokens import HeadEntropies, with_windows
from ..types import Request

if TYPE_CHECKING:
    from entropick_sampler.genuineness.batch import WatchedBatch

_ENTROPY = SIGNAL_NAMES.index("logits_entropy")


class ReplyWatch:
    """The watch over one reply, or over one branch of it."""

    def __init__(self, request: Request, cuts: Cuts | None) -> None:
        """Begins a watch. ``cuts``: the cut points of the profile."""
        self._asked = request.policy.genuineness
        self._kept = request.kept
        self._cuts = cuts
        self._batch: WatchedBatch | None = None

    def push(self, reply: Reply, drawn: Drawn, heads: HeadEntropies | None) -> Drawn:
        """Pushes a step into the windows of a reply, and returns its token with their figures.

        It must come before the reply takes the token. ``heads`` None: nothing is pushed, and nothing added.
        """
        if heads is None or self._asked is False:
            return drawn
        # numba comes with them, which must not be there before vLLM's processes are
        from entropick_sampler.genuineness.batch import WatchedBatch
        from entropick_sampler.genuineness.reply import ReplyWindows

        layers, width = heads.entropy.shape
        if reply.windows is None:
            reply.windows = ReplyWindows.begin(
                layers * width, costs=self._asked != "scores", seed=self._asked == "seed", cuts=self._cuts
            )
        windows = reply.windows
        # another branch may have become the reply
        if self._batch is None or self._batch.windows != [windows]:
            self._batch = WatchedBatch([windows], [0], layers, width)
        token = drawn.token
        logits = token.signals[_ENTROPY]
        (step,) = self._batch.push(
            torch.from_numpy(heads.entropy[:, None]),
            torch.from_numpy(heads.keys[:, None]),
            torch.tensor([np.nan if logits is None else logits], dtype=torch.float64),
            None if heads.costs is None else torch.from_numpy(heads.costs[:, None]),
            # vLLM tells the log probabilities of a prompt behind the step that ends it
            [0] if reply.length == self._kept else (),
        )
        token = replace(
            token,
            signals=token.signals[: len(STEP_SIGNALS)] + step.values,
            counts=step.counts,
            collapsed=step.collapsed,
            detail=token.detail and with_windows(token.detail, windows),
        )
        return drawn._replace(token=token)
