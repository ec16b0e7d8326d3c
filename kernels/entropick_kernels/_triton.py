"""The choice of the Triton kernels; the modules that hold them are imported at their first use."""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

from torch import Tensor


@functools.cache
def triton_impl(package: str) -> Any | None:
    """Returns ``package``'s module ``triton_impl``, None where triton is not installed."""
    # triton 3.9 says that its default will flip; our error figures are of fused multiply-adds
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    try:
        return importlib.import_module(f"{package}.triton_impl")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "triton":
            raise
        return None


def interpreting() -> bool:
    """Returns whether Triton's interpreter runs kernels here, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def chosen(package: str, kernels: str | None, *tensors: Tensor) -> Any | None:
    """Returns ``package``'s Triton module where it is to serve these tensors, else None.

    Unless an implementation is demanded, it serves CUDA tensors. Raises ValueError where "triton" is demanded
    and cannot: without triton, or on the CPU outside the interpreter.
    """
    if kernels not in (None, "triton"):
        return None
    on_gpu = all(t.is_cuda for t in tensors)
    if kernels is None and not on_gpu:
        return None
    module = triton_impl(package) if on_gpu or interpreting() else None
    if module is None and kernels == "triton":
        raise ValueError("the Triton kernels need triton and CUDA tensors (or TRITON_INTERPRET=1)")
    return module
