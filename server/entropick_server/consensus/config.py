"""The fields of ``entropick.consensus``, their limits and defaults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, get_args

from ..answers import Extractor, ExtractorError, extractor, whole_text

WeightName = Literal["none", "mean_logprob", "answer_logprob", "median_entropy"]
RuleName = Literal["all", "esc", "beta", "weighted_beta", "cascade"]
FirstReply = Literal["greedy", "sample"]
WEIGHTS: Final[tuple[str, ...]] = get_args(WeightName)
RULES: Final[tuple[str, ...]] = get_args(RuleName)
FIRSTS: Final[tuple[str, ...]] = get_args(FirstReply)
MAX_REPLIES: Final = 32
SIMILAR: Final = "similar"
"""the word for ``extract`` where replies are compared as wholes, by likeness"""
_PLAIN_THRESHOLD: Final = 0.95
_WEIGHTED_THRESHOLD: Final = 0.55


@dataclass(frozen=True, slots=True)
class WeightConfig:
    """The weight of a reply's vote.

    ``scale``: the weight is 2^(scale x the figure in bits). ``cut``: the most weight of a reply that was cut
    by max_tokens.
    """

    by: WeightName = "answer_logprob"
    scale: float = 1.0
    cut: float = 0.3


@dataclass(frozen=True, slots=True)
class StopConfig:
    """The rule that ends the drawing of replies.

    ``threshold``: of the Beta rules, None for the rule's own. ``window``: replies of ``esc`` that must agree.
    ``answer_bits``: ``cascade`` stops at a first reply whose answer has less surprisal; ``ended``: only where
    that reply came to its own end.
    """

    rule: RuleName = "cascade"
    threshold: float | None = None
    window: int = 3
    answer_bits: float = 1.6
    ended: bool = True

    @property
    def confidence(self) -> float:
        """Returns the threshold in force."""
        plain = _PLAIN_THRESHOLD if self.rule == "beta" else _WEIGHTED_THRESHOLD
        return plain if self.threshold is None else self.threshold


@dataclass(frozen=True, slots=True)
class ConsensusConfig:
    """The consensus of a request.

    ``k``: the most replies; ``extract``: how an answer is taken from a reply, in the words of
    :mod:`entropick_server.answers`, or SIMILAR; ``first``: whether reply 0 is greedy or drawn like the rest.
    """

    extract: str | Mapping[str, str]
    k: int = 6
    weight: WeightConfig = WeightConfig()
    stop: StopConfig = StopConfig()
    first: FirstReply = "greedy"

    @property
    def similar(self) -> bool:
        """True where the reply that is most like the others wins, unless equal texts decide earlier."""
        return self.extract == SIMILAR

    @property
    def extractor(self) -> Extractor:
        """Makes the extractor of answers."""
        return whole_text if self.similar else extractor(self.extract)

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a request would send them."""
        return {**asdict(self), "stop": {**asdict(self.stop), "threshold": self.stop.confidence}}


RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "k": (2, MAX_REPLIES),
    "weight.scale": (0.0, 64.0),
    "weight.cut": (0.0, 1.0),
    "stop.threshold": (0.5, 1.0),
    "stop.window": (2, MAX_REPLIES),
    "stop.answer_bits": (0.0, 1e6),
}
"""Inclusive limits of the numbers; those with whole limits are whole."""
CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "weight.by": WEIGHTS,
    "stop.rule": RULES,
    "first": FIRSTS,
}
"""The words of the fields that take one."""
FLAGS: Final = ("stop.ended",)
"""The fields that are true or false."""
NAMES: Final[tuple[str, ...]] = tuple(f.name for f in fields(ConsensusConfig))


def consensus_config(values: Mapping[str, Any], base: ConsensusConfig | None = None) -> ConsensusConfig:
    """Returns the configuration with a request's fields; the other fields are ``base``'s or the defaults.

    ``weight`` and ``stop`` are a name, or an object whose fields are replaced one by one. Raises ValueError
    that begins with the field and names its limits.
    """
    _known("consensus", values, NAMES)
    given: dict[str, Any] = {}
    for name in values.keys() & {"k", "first"}:
        given[name] = _checked(name, values[name])
    if "weight" in values:
        given["weight"] = _nested("weight", "by", values["weight"], base.weight if base else WeightConfig())
    if "stop" in values:
        given["stop"] = _nested("stop", "rule", values["stop"], base.stop if base else StopConfig())
    if "extract" in values:
        try:
            if values["extract"] != SIMILAR:
                extractor(values["extract"])
        except ExtractorError as error:
            hint = f", or '{SIMILAR}'" if "must be one of" in str(error) else ""
            raise ValueError(f"consensus.extract: {error}{hint}") from error
        given["extract"] = values["extract"]
    elif base is None:
        raise ValueError("consensus.extract: is required")
    made = ConsensusConfig(**given) if base is None else replace(base, **given)
    if made.stop.rule == "esc" and made.stop.window > made.k:
        raise ValueError(f"consensus.stop.window: must be at most k ({made.k})")
    return made


def _nested(name: str, key: str, value: Any, base: Any) -> Any:
    """Returns ``base`` with the fields of an object, or with the one that a bare name gives."""
    if isinstance(value, str):
        # a bare name asks for the rule as it is, not for a server's numbers of another
        return type(base)(**{key: _checked(f"{name}.{key}", value)})
    if not isinstance(value, Mapping):
        raise ValueError(f"consensus.{name}: must be a name or an object")
    _known(f"consensus.{name}", value, tuple(f.name for f in fields(base)))
    return replace(base, **{field: _checked(f"{name}.{field}", v) for field, v in value.items()})


def _known(where: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name)[:64], known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{where}.{str(name)[:64]}: no such field; {hint}")


def _checked(name: str, value: Any) -> Any:
    """Returns a field's value in its type. Raises ValueError that names the field."""
    if name in CHOICES:
        if not isinstance(value, str) or value not in CHOICES[name]:
            raise ValueError(f"consensus.{name}: must be one of {', '.join(CHOICES[name])}")
        return value
    if name in FLAGS:
        if not isinstance(value, bool):
            raise ValueError(f"consensus.{name}: must be true or false")
        return value
    low, high = RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"consensus.{name}: must be a number")
    if not low <= value <= high:
        raise ValueError(f"consensus.{name}: must be between {low:g} and {high:g}")
    if not isinstance(low, int):
        return float(value)
    if value != int(value):
        raise ValueError(f"consensus.{name}: must be a whole number")
    return int(value)
