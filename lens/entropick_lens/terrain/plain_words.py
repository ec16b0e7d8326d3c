"""Common English words by category: the categories of the lift, and a graph where there is no other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_WORDS: Final = {
    "living/animal": "cat dog horse cow pig sheep goat bird fish lion tiger bear wolf fox mouse rabbit "
    "monkey snake "
    "frog duck hen chicken eagle hawk owl bee ant deer elephant whale seal crow lamb",
    "living/plant": "tree flower grass rose oak pine leaf bush wheat corn rice bean apple orange banana "
    "grape lemon",
    "living/person/family": "mother father brother sister son daughter uncle aunt cousin wife husband "
    "parent child "
    "baby grandmother grandfather",
    "living/person/profession": "doctor teacher lawyer nurse engineer farmer soldier artist writer actor "
    "singer judge "
    "chef pilot priest",
    "living/body": "head hand foot arm leg eye ear nose mouth heart brain bone skin blood finger tooth neck "
    "knee",
    "thing/tool": "hammer knife fork spoon saw axe pen pencil brush rope key lock lamp bell drum",
    "thing/clothing": "shirt coat hat shoe dress jacket boot belt glove scarf ring sock",
    "thing/furniture": "table chair bed desk sofa shelf bench lamp couch",
    "thing/vehicle": "car bus train truck ship boat plane bicycle bike van taxi kite",
    "place/nature": "river mountain lake forest hill valley island desert beach ocean sea garden",
    "place/building": "house school church hospital hotel office bank market farm barn store shop castle "
    "tower",
    "quality/color": "red blue green yellow black white brown pink gray purple gold silver violet",
    "quality/emotion": "joy fear anger love hate hope pride shame grief happiness sadness",
    "number": "one two three four five six seven eight nine ten eleven twelve twenty thirty hundred thousand",
    "time/month": "January February March April May June July August September October November December",
    "time/day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "time/season": "spring summer autumn winter",
    "place/country": "France Germany Italy Spain China Japan India Brazil Canada Mexico Russia Egypt Greece "
    "Poland",
}
PLAIN_WORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {category: tuple(dict.fromkeys(words.split())) for category, words in _WORDS.items()}
)
