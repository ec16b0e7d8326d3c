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
"""inputs that share a scale, as in GGUF's blocks"""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """A form of weights: the bits of a number, and the figures that a group of inputs shares.

    With ``grouped`` a weight is scale * number + minimum, each a float16 of its output and group. Without
    ``minimum`` it is -``offset`` * scale. Numbers of 8 bits are signed, those of 4 are not.
    """

    name: str
    bits: int
    grouped: bool = False
    minimum: bool = False
    offset: int = 0

    @property
    def head_bytes(self) -> int:
        """Counts the bytes of the scales and minima of a group of a panel."""
        return LANES * 2 * (self.grouped + self.minimum)

    @property
    def group_bytes(self) -> int:
        """Counts the bytes of a group of a panel: of ``GROUP`` inputs, with their scales."""
        return self.head_bytes + GROUP * LANES * self.bits // 8

    def panel_bytes(self, inputs: int) -> int:
        """Counts the bytes of a panel. Raises ValueError for inputs that do not make whole groups."""
        if not self.grouped:
            return inputs * LANES * self.bits // 8
        if inputs % GROUP:
            raise ValueError(f"{self.name}: {inputs} inputs are not whole groups of {GROUP}")
        return inputs // GROUP * self.group_bytes


FLOAT32: Final = WeightFormat("float32", 32)
BFLOAT16: Final = WeightFormat("bfloat16", 16)
FLOAT16: Final = WeightFormat("float16", 16)
INT8: Final = WeightFormat("int8", 8, grouped=True)
"""GGUF's Q8_0, and what Q5_0 is"""
INT4: Final = WeightFormat("int4", 4, grouped=True, minimum=True)
"""GGUF's Q4_1"""
INT4_CENTRED: Final = WeightFormat("int4 centred", 4, grouped=True, offset=8)
"""GGUF's Q4_0"""
CODED: Final = (BFLOAT16, FLOAT16, INT8, INT4, INT4_CENTRED)
"""the forms that are decoded while they are multiplied"""
