"""The batch that an engine samples: its composed parameters, and the step in native or tensor form.

One class for the two ways a step can go: as one native call on the CPU in float32, or as tensor operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from entropick_kernels.logits_stats import Kernels
from entropick_kernels.native_code import wanted

from .adjustments import Adjustments
from .columns import StepColumns, StepRow
from .compose import compose
from .params import PolicyConfig, SamplingParams
from .profile import Profile
from .step import SamplerRows, sample_step

try:
    from . import native as _native
    from .genuineness import batch as _watched
except ImportError:  # numba is not installed: tensor operations serve everything
    _native = None  # type: ignore[assignment]


class SampledBatch:
    """The rows of a batch, which are sampled together until a row joins or leaves."""

    def __init__(
        self,
        rows: Sequence[tuple[SamplingParams, PolicyConfig]],
        profile: Profile | None,
        device: torch.device | str = "cpu",
        streams: Sequence[int] | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        """Composes the rows; ``streams``: their Philox streams, None for 0 in every row.

        ``kernels``: the kernels, None for the fastest. Raises ValueError for a bad override, and for
        preset ``calibrated`` without a profile.
        """
        self._composition = compose(rows, profile, streams)
        self.candidates = self._composition.candidates
        """candidates of a row, for :func:`.packed.unpack`"""
        self._profile, self._device, self._implementation = profile, torch.device(device), kernels
        self._tensors: SamplerRows | None = None
        self._native = None
        if _native is not None and wanted(kernels) and self._device.type == "cpu":
            self._native = _native.NativeStep(self._composition)

    def step(
        self,
        logits: Tensor,
        attention: Tensor | None,
        attended: Tensor | None,
        columns: StepColumns,
        measure: bool = True,
        adjustments: Adjustments | None = None,
    ) -> Tensor:
        """Measures, decides and draws: returns the packed lines on the host, for :func:`.packed.unpack`.

        Arguments as for :func:`.step.sample_step`, which tells when the logits change. The caller must keep
        the rows' policy memory, see :class:`.columns.StepRow`. ``measure`` False leaves the signals out, for
        batches of policy ``fixed`` on the native path: log probabilities and draws are as ever. Raises
        ValueError elsewhere, for logits or columns of another number of rows, and for adjustments that do not
        fit, or whose logits are not contiguous.
        """
        rows = len(self._composition.records)
        inputs = columns.data
        if (
            logits.shape[0] != rows
            or inputs.shape != (rows, len(StepRow._fields))
            or inputs.dtype != torch.int64
        ):
            raise ValueError(
                f"expected logits and int64 columns of {rows} rows, got {tuple(logits.shape)} and "
                f"{tuple(inputs.shape)} of {inputs.dtype}"
            )
        if adjustments is not None:
            adjustments.check(*logits.shape)
            if not logits.is_contiguous():
                raise ValueError("adjustments change logits in place: they must be contiguous")
        native = self._native if logits.dtype == torch.float32 else None
        if not measure and (self._composition.measured or native is None):
            raise ValueError("only the native step of rows of policy 'fixed' can leave measuring out")
        if native is not None:
            return native.step(logits, attention, attended, columns, measure, adjustments)
        if self._tensors is None:
            self._tensors = SamplerRows.of(self._composition, self._profile, self._device)
        result = sample_step(
            logits, attention, attended, self._tensors, columns, self._implementation, adjustments
        )
        return result.pack().cpu()


def warmup() -> None:
    """Compiles the native steps now (seconds, once a machine: cached on disk), so that no request waits."""
    if _native is not None:
        _native.warmup()
        _watched.warmup()
