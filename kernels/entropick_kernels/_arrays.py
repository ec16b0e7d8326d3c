"""The conversion from torch or numpy that the float64 references share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
ArrayLike = npt.ArrayLike | torch.Tensor
"""a torch tensor on any device, a numpy array, or nested lists: any argument of a reference"""


def as_numpy(values: ArrayLike) -> npt.NDArray[Any]:
    """Returns the same values as a numpy array (bf16 included, which numpy does not know)."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return np.asarray((values.double() if values.is_floating_point() else values).numpy())
    return np.asarray(values)


def as_float64(values: ArrayLike) -> FloatArray:
    """Returns the same values as a float64 numpy array."""
    return np.asarray(as_numpy(values), dtype=np.float64)
