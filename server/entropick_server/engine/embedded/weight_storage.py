"""The form in which the native decoder keeps each matrix of a model, as ``--weights`` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor

from entropick_kernels.decoder import Weight, storage

from ..base import ModelLoadError
from ..gguf_files.blocks import GgufBlocks
from ..source import Source
from ..types import WeightsChoice

Keep = Callable[[str, Tensor], Weight]
"""a function that returns what is kept of a matrix, which it gets by its name and in float32"""
VOCABULARY: Final = ("model.embed_tokens.weight", "lm_head.weight")
"""the matrices with a row for each token"""
_ROUNDED: Final[Mapping[str, Callable[[Tensor], Weight]]] = {
    "bf16": Tensor.bfloat16,
    "fp16": storage.in_float16,
    "int8": storage.in_int8,
    "int4": storage.in_int4,
}


def keeper(choice: WeightsChoice, source: Source) -> Keep:
    """Returns the function that keeps the matrices of a model in the form that was chosen.

    It raises ModelLoadError for a matrix that the form cannot hold. "auto" and "file" keep the numbers of the
    model's file: blocks of a GGUF file, else as few bits as hold them. In "int4" the matrices of the
    vocabulary have 8 bits.
    """
    if choice == "float32":
        return lambda name, matrix: matrix
    if choice in ("auto", "file"):
        blocks = None if source.gguf is None else GgufBlocks(source.gguf, source.folder, source.config)

        def as_in_file(name: str, matrix: Tensor) -> Weight:
            kept = None if blocks is None else blocks.weight(name)
            return storage.exact(matrix) if kept is None else kept

        return as_in_file

    def rounded(name: str, matrix: Tensor) -> Weight:
        form = "int8" if choice == "int4" and name in VOCABULARY else choice
        try:
            return _ROUNDED[form](matrix)
        except ValueError as error:
            raise ModelLoadError(
                f"--weights {choice}: {name} cannot be kept so ({error}); choose bf16 or float32"
            ) from error

    return rounded
