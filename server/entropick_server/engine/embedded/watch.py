"""The rolling windows of the rows of a step: genuineness, beside the sampling of their tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from torch import Tensor

from entropick_kernels import native_code
from entropick_sampler.genuineness.batch import WatchedBatch
from entropick_sampler.genuineness.counts import WindowStep
from entropick_sampler.genuineness.quadrants import Cuts
from entropick_sampler.genuineness.reply import ReplyWindows

from ..tokens import NO_WINDOW
from ..types import WatchedLayers
from ..watched_layers import LayerGauges
from .forward import ForwardOutput
from .sequence import Sequence


class Watch:
    """The watched rows of the engine's steps: requests that want genuineness.

    What is remembered of a reply lies in the reply alone; this class keeps how a batch is laid out.
    """

    def __init__(self, cuts: Cuts | None) -> None:
        """Begins without rows. ``cuts``: the cut points of the profile."""
        self._cuts = cuts
        self._gauges = LayerGauges()
        self._batch = WatchedBatch((), (), 0, 0)
        self._numbers: list[int] = []
        self._nothing: list[WindowStep] = []
        self._pushed: tuple[Seq[Sequence], Seq[WindowStep]] = (), ()
        """the rows that were pushed last in this step, with their figures"""
        self._known: dict[Sequence, WindowStep] = {}
        """rows of a step that is run again, which were pushed before it failed"""

    def lay_out(self, sequences: Seq[Sequence]) -> None:
        """Notes the rows of the steps to come."""
        self._numbers = [i for i, s in enumerate(sequences) if s.request.policy.genuineness is not False]
        self._nothing = [NO_WINDOW] * len(sequences)
        self._batch = WatchedBatch((), (), 0, 0)

    def begin(self) -> None:
        """Begins a step."""
        self._pushed = (), ()
        if self._known:
            self._known = {}

    def recover(self) -> None:
        """Keeps the figures of the rows that this step has pushed, for when it runs again."""
        self._known.update(zip(*self._pushed, strict=True))
        self._pushed = (), ()
        self.lay_out(())

    def push(self, output: ForwardOutput, logits: Tensor) -> list[WindowStep]:
        """Pushes a step into the windows of its rows' replies, and returns their figures, a row each.

        Each row's step must be told once, before its reply takes the token or is forked; of a step that runs
        again, a row that was pushed before has the figures that it got then. ``logits``: the rows' logits
        entropies, float64 [B] on the host. A row whose request wants no genuineness has no figures.
        """
        numbers, known = self._numbers, self._known
        if known:
            numbers = [i for i in numbers if output.sequences[i] not in known]
        # the windows are counted natively alone
        if not (numbers or known) or not len(output.heads.entropy) or not native_code.usable():
            return self._nothing
        rows = output.sequences
        if len(numbers) < len(rows):
            rows = tuple([rows[i] for i in numbers])
        steps = self._push(output, logits, rows, numbers) if numbers else []
        self._pushed = rows, steps
        if len(numbers) == len(self._nothing):
            return steps
        found = self._nothing.copy()
        for i, step in zip(numbers, steps, strict=True):
            found[i] = step
        if known:
            found = [known.get(s, step) for s, step in zip(output.sequences, found, strict=True)]
        return found

    def _push(
        self, output: ForwardOutput, logits: Tensor, rows: Seq[Sequence], numbers: list[int]
    ) -> list[WindowStep]:
        """Pushes a step into the windows of ``rows``, the rows ``numbers`` of an output."""
        layers, _, heads = output.heads.entropy.shape
        windows = [s.reply.windows or self._begin(s, layers * heads) for s in rows]
        # a fork, an adopted branch: the same sequence with other windows
        if windows != self._batch.windows:
            self._batch = WatchedBatch(windows, numbers, layers, heads)
        costs, first = output.costs, []
        if costs is not None:
            # the surprisals of a prompt are known behind the forward that ends it, if in one piece
            first = [at for at, s in enumerate(rows) if s.reply.length == s.request.kept]
            costs = costs.cpu()
        return self._batch.push(output.heads.entropy.cpu(), output.heads.keys.cpu(), logits, costs, first)

    def layers(self, monitored: tuple[int, ...], now: float) -> WatchedLayers | None:
        """Returns the means by layer over the rows that were last watched, at most once a second.

        ``monitored``: the numbers of the layers; ``now``: time.monotonic(). None where nothing is watched.
        """
        return self._gauges.now(monitored, now, lambda: self._batch.windows)

    def _begin(self, sequence: Sequence, heads: int) -> ReplyWindows:
        """Begins the windows of a sequence's reply, with its first step."""
        asked = sequence.request.policy.genuineness
        windows = ReplyWindows.begin(heads, costs=asked != "scores", seed=asked == "seed", cuts=self._cuts)
        sequence.reply.windows = windows
        return windows
