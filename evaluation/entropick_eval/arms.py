"""Names the arms that are compared: settings of a request, and rules over several replies.

A request arm is a part of a request's body, so whatever a server understands can be an arm. A rule
arm asks for nothing itself: it picks an answer among the replies of a request arm, which are sampled once for
all rules over them.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .rules import AnyRule, RuleError, parse_rule
from .tasks import canonical, short_digest

LISTS: Final = frozenset({"stop", "stop_token_ids", "on", "bad_words", "samplers", "dry_sequence_breakers"})
"""fields whose value is a list by itself; of every other field a list is a choice of values, for a grid"""
_TELEMETRY: Final = "telemetry"
_RULE: Final = "rule"
_MAX_ARMS: Final = 2000


class ArmError(ValueError):
    """An error in the arms that were asked for; the message names the arm and the field."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A setting that is compared: the fields that it adds to a request's body."""

    name: str
    body: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Returns the digest of the body, by which results are found again under any name of the arm."""
        return short_digest(self.body)

    @property
    def reads_profile(self) -> bool:
        """True if the model's calibration profile may have a part in the replies."""
        policy = self.body.get("entropick", {}).get("policy")
        return self.body.get("temperature") != 0 and policy != "fixed"


@dataclass(frozen=True, slots=True)
class RuleArm:
    """An arm that picks among the replies of request arms."""

    name: str
    of: str
    """the name of the request arm whose replies it sees"""
    rule: AnyRule
    first: str | None
    """the name of a request arm whose reply goes before them, e.g. greedy"""


@dataclass(frozen=True, slots=True)
class Arms:
    """The arms of a comparison."""

    requests: Mapping[str, Arm]
    rules: Mapping[str, RuleArm]
    hidden: frozenset[str]
    """request arms that rules alone need: asked for, and reported with their rules' replies only"""

    def only(self, names: Collection[str]) -> Arms:
        """Returns the named arms, with the request arms that their rules need."""
        rules = {name: arm for name, arm in self.rules.items() if name in names}
        needed = {own for arm in rules.values() for own in (arm.of, arm.first) if own is not None}
        requests = {name: arm for name, arm in self.requests.items() if name in names or name in needed}
        hidden = frozenset(name for name in requests if name not in names)
        return Arms(requests, rules, hidden | (self.hidden & requests.keys()))

    def jobs(self) -> list[tuple[Arm, int]]:
        """Returns every request arm with the number of replies that it needs."""
        return [(arm, self.samples(name)) for name, arm in self.requests.items()]

    def samples(self, name: str) -> int:
        """Returns the number of replies to an item that a request arm needs."""
        needed = [arm.rule.k - (arm.first is not None) for arm in self.rules.values() if arm.of == name]
        return max([1, *needed])


def _fixed(**fields: Any) -> dict[str, Any]:
    return {**fields, "entropick": {"policy": "fixed"}}


def _branches(on: Sequence[str], **fields: Any) -> dict[str, Any]:
    return {"preset": "calibrated", "branch": {"width": 4, "depth": 12, "on": list(on), **fields}}


_OFF: Final = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
_SAMPLING: Final = {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.0}
_SHARP: Final = {"temperature": 0.7, "top_p": 1.0, "min_p": 0.2}
_DOUBTFUL: Final = ("explore", "high_uncertainty", "adaptive")
_LINE: Final = {"stop": ["\n"]}
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "greedy": {"temperature": 0.0},
    "greedy_line": {"temperature": 0.0, **_LINE},
    "sampling": _fixed(**_SAMPLING),
    "sampling_t1": _fixed(temperature=1.0, **_OFF),
    "min_p": _fixed(temperature=1.0, **{**_OFF, "min_p": 0.1}),
    "min_p_02": _fixed(**_SHARP),
    "min_p_02_line": _fixed(**_SHARP, **_LINE),
    "default": {},
    "seed": {"entropick": {"policy": "entropix", "preset": "seed"}},
    "calibrated": {"temperature": 0.7, "entropick": {"policy": "entropix", "preset": "calibrated"}},
    "branches": {"entropick": {"policy": "entropix", **_branches(_DOUBTFUL, budget=8)}},
    "branches_t03": {
        "temperature": 0.3,
        "entropick": {"policy": "entropix", **_branches(_DOUBTFUL, budget=8)},
    },
    "consensus": {**_SHARP, "entropick": {"policy": "fixed", "consensus": {}}},
    "cascade_6": {"rule": {"of": "min_p_02", "consensus": {"k": 6}}},
    "edt": {"entropick": {"policy": "edt"}},
    "top_n_sigma": {"entropick": {"policy": "top_n_sigma"}},
    "dynamic_temperature": {"entropick": {"policy": "dynamic_temperature"}},
    "vote_3": {"rule": {"of": "min_p_02", "k": 3}},
    "vote_5": {"rule": {"of": "min_p_02", "k": 5}},
    "weighted_vote_5": {"rule": {"of": "min_p_02", "k": 5, "weight": "mean_logprob"}},
    "best_of_5": {"rule": {"of": "min_p_02", "k": 5, "choose": "best", "weight": "mean_logprob"}},
    "again_if_no_answer": {"rule": {"of": "min_p_02", "first": "greedy", "k": 6, "answered": True}},
}
"""The arms that can be asked for by name."""
DEFAULT_ARMS: Final = (
    "greedy",
    "sampling",
    "min_p_02",
    "calibrated",
    "branches",
    "vote_5",
    "weighted_vote_5",
    "best_of_5",
    "again_if_no_answer",
)
"""The arms of a comparison that names none."""


def choose_arms(named: Sequence[str], baseline: str) -> Arms:
    """Returns the arms that names of built-in arms and files (TOML or JSON) stand for, with the baseline.

    Raises ArmError.
    """
    bodies: dict[str, Mapping[str, Any]] = {}
    for name in named or DEFAULT_ARMS:
        path = Path(name)
        found = {name: PRESETS[name]} if name in PRESETS else _read_file(path)
        for own, body in found.items():
            if own in bodies and canonical(bodies[own]) != canonical(body):
                raise ArmError(f"arm {own!r} is named twice, with different fields")
            bodies[own] = body
    if baseline not in bodies:
        if baseline not in PRESETS:
            raise ArmError(f"baseline {baseline!r} is none of the arms: {', '.join(bodies)}")
        bodies = {baseline: PRESETS[baseline], **bodies}
    return _build(bodies)


def _read_file(path: Path) -> dict[str, Mapping[str, Any]]:
    """Reads a file of arms and expands its grids."""
    if not path.is_file():
        known = ", ".join(PRESETS)
        raise ArmError(f"{path} is no file and no built-in arm; built-in arms: {known}")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ArmError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(body, dict) for body in content.values()):
        raise ArmError(f"{path}: must be a table of arms, each a table of request fields")
    return {own: body for name, fields in content.items() for own, body in expand(name, fields)}


def expand(name: str, body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields an arm for each combination of the values that the lists of a body offer, with its name.

    A list of :data:`LISTS` is one value; a list of lists offers several.
    """
    axes = list(_axes(body, ()))
    if (
        len(list(itertools.islice(itertools.product(*(values for _, values in axes)), _MAX_ARMS + 1)))
        > _MAX_ARMS
    ):
        raise ArmError(f"arm {name!r}: its lists make more than {_MAX_ARMS} arms")
    for values in itertools.product(*(values for _, values in axes)):
        chosen = {path: value for (path, _), value in zip(axes, values, strict=True)}
        shown = " ".join(f"{path[-1]}={canonical(value)}" for path, value in chosen.items())
        yield " ".join(filter(None, (name, shown))), _with_values(body, chosen, ())


def _axes(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _axes(inner, (*path, name))
    elif isinstance(value, list) and path:
        alone = path[-1] in LISTS and not (value and all(isinstance(one, list) for one in value))
        if not alone:
            if not value:
                raise ArmError(f"{'.'.join(path)}: a list of no value makes no arm")
            yield path, value


def _with_values(value: Any, chosen: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> Any:
    if path in chosen:
        return chosen[path]
    if isinstance(value, Mapping):
        return {name: _with_values(inner, chosen, (*path, name)) for name, inner in value.items()}
    return value


def _build(bodies: Mapping[str, Mapping[str, Any]]) -> Arms:
    requests = {name: Arm(name, body) for name, body in bodies.items() if _RULE not in body}
    rules: dict[str, RuleArm] = {}
    hidden: set[str] = set()
    for name, body in bodies.items():
        if _RULE not in body:
            continue
        if len(body) > 1:
            raise ArmError(f"arm {name!r}: beside rule there can be no other field")
        try:
            of, first, rule = parse_rule(body[_RULE])
        except RuleError as error:
            raise ArmError(f"arm {name!r}: rule.{error}") from error
        for needed in filter(None, (of, first)):
            if needed not in requests:
                if needed not in PRESETS or _RULE in PRESETS[needed]:
                    raise ArmError(f"arm {name!r}: rule: {needed!r} is no request arm")
                requests[needed] = Arm(needed, PRESETS[needed])
                hidden.add(needed)
        rules[name] = RuleArm(name, of, rule, first)
    return Arms(requests, rules, frozenset(hidden))
