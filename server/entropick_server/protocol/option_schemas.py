"""The JSON schemas of the free objects of the ``entropick`` block, made from the tables that check them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from entropick_sampler.branch_config import BRANCH_RANGES, BRANCH_STRATEGIES, MAX_UNTIL, SCORERS
from entropick_sampler.layer_entropy import MOST_EVERY, MOST_LAYERS
from entropick_sampler.params import INTEGER_PARAMS, PARAM_RANGES

from ..answers import MAX_PATTERN, NAMED, PATTERNED
from ..consensus.config import CHOICES, FLAGS, RANGES, SIMILAR

Schema = dict[str, Any]
_PATTERN: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_PATTERN}


def _object(properties: Mapping[str, Any], **more: Any) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}


def _number(limits: tuple[float, float], whole: bool) -> Schema:
    return {"type": "integer" if whole else "number", "minimum": limits[0], "maximum": limits[1]}


def _numbers(ranges: Mapping[str, tuple[float, float]], whole: Iterable[str] = ()) -> dict[str, Schema]:
    return {
        name: _number(limits, isinstance(limits[0], int) or name in whole) for name, limits in ranges.items()
    }


def _extractors(*more: str) -> Schema:
    patterned = [_object({name: _PATTERN}, required=[name]) for name in PATTERNED]
    return {"anyOf": [{"type": "string", "enum": [*NAMED, *more]}, *patterned]}


def _part_of_a_vote(part: str, key: str) -> Schema:
    """Returns the schema of ``weight`` or ``stop``: the name of its rule, or an object."""
    fields = _numbers({name: limits for name, limits in RANGES.items() if name.startswith(f"{part}.")})
    flags = {name: {"type": "boolean"} for name in FLAGS if name.startswith(f"{part}.")}
    names = {"type": "string", "enum": [*CHOICES[f"{part}.{key}"]]}
    inner = {name.partition(".")[2]: schema for name, schema in {**fields, **flags}.items()}
    return {"anyOf": [names, _object({key: names, **inner})]}


OVERRIDES: Final = _object(_numbers(PARAM_RANGES, INTEGER_PARAMS))
BRANCH: Final = _object(
    {
        **_numbers(BRANCH_RANGES),
        "depth": {"anyOf": [_number(BRANCH_RANGES["depth"], whole=True), {"type": "null"}]},
        "until": {"anyOf": [{"type": "string", "minLength": 1, "maxLength": MAX_UNTIL}, {"type": "null"}]},
        "scorer": {"type": "string", "enum": [*SCORERS]},
        "on": {"type": "array", "items": {"type": "string", "enum": [*BRANCH_STRATEGIES]}},
    }
)
LAYER_ENTROPY: Final = _object(
    {
        "every": {"type": "integer", "minimum": 1, "maximum": MOST_EVERY},
        "layers": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MOST_LAYERS},
    }
)
ANSWER: Final = _extractors()
CONSENSUS: Final = _object(
    {
        "k": _number(RANGES["k"], whole=True),
        "extract": _extractors(SIMILAR),
        "weight": _part_of_a_vote("weight", "by"),
        "stop": _part_of_a_vote("stop", "rule"),
        "first": {"type": "string", "enum": [*CHOICES["first"]]},
    }
)
