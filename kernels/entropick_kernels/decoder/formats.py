"""The forms in which a packed matrix keeps its weights, and how many bytes each takes.

Every form is decoded in registers into the float32 numbers that it stands for: a product gives the bits that
the same numbers give as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LANES: Final = 16
"""outputs of a panel, or of a column"""
GROUP: Final = 32
"""inputs that share a scale in most forms, as in GGUF's blocks"""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """A form of weights: the bits of a number, and the figures that a group of inputs shares.

    With ``grouped`` a weight is scale * number + minimum, each a float16 of its output and group, or a
    float32 where the form is ``wide``. Without ``minimum`` it is -``offset`` * scale. ``group``: the inputs
    that share them. Numbers of 8 bits are signed, those of 4 are not.
    """

    name: str
    bits: int
    grouped: bool = False
    minimum: bool = False
    offset: int = 0
    wide: bool = False
    group: int = GROUP

    @property
    def scale_bytes(self) -> int:
        """Counts the bytes of a scale, or of a minimum."""
        return 4 if self.wide else 2

    @property
    def head_bytes(self) -> int:
        """Counts the bytes of the scales and minima of a group of a panel."""
        return LANES * self.scale_bytes * (self.grouped + self.minimum)

    @property
    def group_bytes(self) -> int:
        """Counts the bytes of a group of a panel: of ``group`` inputs, with their scales."""
        return self.head_bytes + self.group * LANES * self.bits // 8

    def panel_bytes(self, inputs: int) -> int:
        """Counts the bytes of a panel. Raises ValueError for inputs that do not make whole groups."""
        if not self.grouped:
            return inputs * LANES * self.bits // 8
        if inputs % self.group:
            raise ValueError(f"{self.name}: {inputs} inputs are not whole groups of {self.group}")
        return inputs // self.group * self.group_bytes


FLOAT32: Final = WeightFormat("float32", 32)
BFLOAT16: Final = WeightFormat("bfloat16", 16)
FLOAT16: Final = WeightFormat("float16", 16)
INT8: Final = WeightFormat("int8", 8, grouped=True)
"""GGUF's Q8_0, and what Q5_0 is"""
INT4: Final = WeightFormat("int4", 4, grouped=True, minimum=True)
"""GGUF's Q4_1"""
INT4_CENTRED: Final = WeightFormat("int4 centred", 4, grouped=True, offset=8)
"""GGUF's Q4_0"""
INT8_MINIMUM: Final = WeightFormat("int8 minimum", 8, grouped=True, minimum=True)
"""what Q5_1 is"""
INT4_WIDE: Final = WeightFormat("int4 wide", 4, grouped=True, minimum=True, wide=True)
"""what Q4_K is: its scales, numbers of 6 bits times a float16, need a float32"""
INT8_WIDE: Final = WeightFormat("int8 wide", 8, grouped=True, minimum=True, wide=True)
"""what Q5_K is"""
INT8_SIXTEEN: Final = WeightFormat("int8 sixteen", 8, grouped=True, wide=True, group=16)
"""what Q6_K is"""
CODED: Final = (
    BFLOAT16, FLOAT16, INT8, INT4, INT4_CENTRED, INT8_MINIMUM, INT4_WIDE, INT8_WIDE, INT8_SIXTEEN
)  # fmt: skip
"""the forms that are decoded while they are multiplied"""
