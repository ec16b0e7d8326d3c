"""What an engine holds of its batch from step to step: resident parameters, and the policy's memory.

One class for the two ways a step can go: as one native call on the CPU in float32, or as tensor operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from entropick_kernels.logits_stats import Implementation

from .packed import TokenRow, unpack
from .params import PolicyConfig, SamplingParams
from .policy import PolicyState
from .profile import Profile
from .step import SamplerRows, sample_step

try:
    from . import native_step as _native
except ImportError:  # numba is not installed: tensor operations serve everything
    _native = None  # type: ignore[assignment]


class SampledBatch:
    """B rows that are sampled together until the batch's composition changes."""

    def __init__(
        self,
        rows: Sequence[tuple[SamplingParams, PolicyConfig]],
        state: PolicyState,
        profile: Profile | None,
        device: torch.device | str = "cpu",
        branches: Sequence[int] | None = None,
        implementation: Implementation | None = None,
    ) -> None:
        """``state``: what the policy remembers of each row; ``branches``: the rows' branch numbers, else all
        0; ``implementation``: of the kernels, None for the fastest.

        Raises ValueError for a bad override, or preset ``calibrated`` without a profile.
        """
        self._rows = SamplerRows.build(rows, profile, device, branches)
        self._state = state
        self._implementation = implementation
        self._native = None
        if _native is not None and implementation in (None, "numba") and torch.device(device).type == "cpu":
            r = self._rows
            self._native = _native.NativeRows(r.policy, (r.seeds, r.draws, r.branch), r.candidates)

    @property
    def state(self) -> PolicyState:
        """What the policy remembers of each row, after the last step."""
        return self._state

    def step(
        self,
        logits: Tensor,
        attention: Tensor | None,
        attended: Tensor | None,
        positions: Tensor,
        forced: Tensor,
        clarify: Tensor,
        measure: bool = True,
    ) -> list[TokenRow]:
        """Measure, decide and draw: one line on the host for every row, whose memory is kept.

        Arguments as for :func:`~.step.sample_step`. ``measure`` False leaves the signals out, for batches of
        policy ``fixed`` on the native path: log probabilities and draws are as ever. Raises ValueError
        elsewhere.
        """
        rows = self._state.clarify_used.shape[0]
        if logits.shape[0] != rows or positions.shape[0] != rows:
            raise ValueError(
                f"expected {rows} rows, got {logits.shape[0]} of logits, {positions.shape[0]} positions"
            )
        columns = torch.stack((positions, forced, clarify, *self._state))
        packed, self._state = self.packed(logits, attention, attended, columns, measure)
        return unpack(packed, self._rows.candidates)

    @property
    def candidates(self) -> int:
        """Candidates of a row, for :func:`~.packed.unpack`."""
        return self._rows.candidates

    def packed(
        self,
        logits: Tensor,
        attention: Tensor | None,
        attended: Tensor | None,
        columns: Tensor,
        measure: bool = True,
    ) -> tuple[Tensor, PolicyState]:
        """:meth:`step` for who keeps the rows' memory: the packed lines on the host, and the state after.

        ``columns``: positions, forced, clarify and the two fields of the state, int64 [5, B], contiguous; it
        belongs to this call: the state after may stand in it.
        """
        native = self._native if logits.dtype == torch.float32 else None
        if not measure and (self._rows.any_enabled or native is None):
            raise ValueError("only the native step of rows of policy 'fixed' can leave measuring out")
        if native is not None:
            packed = native.step(logits, attention, attended, columns, measure)
            return packed, PolicyState(columns[3], columns[4])
        positions, forced, clarify, used, since = columns.unbind(0)
        result, state = sample_step(
            logits,
            attention,
            attended,
            self._rows,
            PolicyState(used, since),
            positions,
            forced,
            clarify,
            self._implementation,
        )
        return result.pack().cpu(), state


def warmup() -> None:
    """Compile the native step now (seconds, once a machine: cached on disk), so that no request waits."""
    if _native is not None:
        _native.warmup()
