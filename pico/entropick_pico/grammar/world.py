"""The fixed world of the grammar: its vocabulary and its facts.

Everything is drawn once from a constant seed, so every process sees the same world.
"""

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


def words(text: str) -> tuple[str, ...]:
    """Splits ``text`` at blanks."""
    return tuple(text.split())


_TOWN_STARTS = words("Bal Mor Kel Tan Ash Wes Nor Sut Har Lin Gar Oak Red Fen Dun Mil")
_TOWN_ENDS = words("den wick ford ton ham bury dale mere gate port stead field wood brook cliff moor")
_LAND_STARTS = words("Ar Bel Cor Dal Er Fal Gor Hel Il Jor")
_LAND_ENDS = words("nia dova land mark stan via")

TOWNS: Final = tuple(start + end for start in _TOWN_STARTS for end in _TOWN_ENDS)
COUNTRIES: Final = tuple(start + end for start in _LAND_STARTS for end in _LAND_ENDS)
GIRLS: Final = words(
    "Anna Mia Ella Ruth Jane Lucy Nora Ivy Rose Clara Maya Zoe Lily Emma Kate Sara "
    "Tina Vera Gwen Hana June Amy Beth Cora Dora Edna Faye Gina Hope Iris Joan Lola"
)
BOYS: Final = words(
    "Tom Ben Sam Max Leo Jack Finn Omar Paul Hugo Carl Dan Eric Fred Gus Hank "
    "Ian Joe Karl Luke Mark Ned Otto Pete Ray Seth Theo Vic Walt Adam Bill Cole"
)
NAMES: Final = GIRLS + BOYS
COLORS: Final = words(
    "red blue green yellow black white brown pink gray maroon purple gold silver violet teal tan"
)
ANIMALS: Final = words("cat dog fox hawk bear frog duck goat hen mouse wolf lamb crow bee seal deer")
OBJECTS: Final = words("ball hat cup book kite lamp box coat drum key bell boat ring spoon chair rope")
MOODS: Final = words("little young happy brave quiet clever lazy kind")
PLACES: Final = words("forest garden river hill farm market lake barn")
SEASONS: Final = ("spring", "summer", "autumn", "winter")
COIN: Final = ("heads", "tails")
DIE: Final = tuple("123456")

_rng = random.Random(20240917)
CAPITAL: Final[Mapping[str, str]] = MappingProxyType(
    dict(zip(COUNTRIES, _rng.sample(TOWNS, len(COUNTRIES)), strict=True))
)
FLAG: Final[Mapping[str, str]] = MappingProxyType({land: _rng.choice(COLORS) for land in COUNTRIES})
RESIDENTS: Final = tuple(_rng.sample(NAMES, 32))
HOME: Final[Mapping[str, str]] = MappingProxyType({name: _rng.choice(TOWNS) for name in RESIDENTS})
SIGHTS: Final = tuple(_rng.sample(TOWNS, 4))
# Two colors make the one whose place here is the sum of theirs, counted round the table.
PALETTE: Final = tuple(_rng.sample(COLORS, len(COLORS)))
del _rng
