"""The fields of ``branch``, their limits and defaults. Knows no tensors: the rules are in :mod:`.branch`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, get_args

from .strategy import Strategy

Scorer = Literal[
    "mean_logprob",
    "confidence",
    "lowest_group",
    "mean_excess",
    "lowest_excess",
    "lowest_group_excess",
    "vote",
    "seed",
]
SCORERS: Final[tuple[str, ...]] = get_args(Scorer)

DEFAULT_DEPTH: Final = 12
"""Tokens of a branch that nothing but its depth ends."""
UNTIL_END: Final = "end"
"""The value of ``until`` that rolls branches out to the end of the reply."""
MAX_UNTIL: Final = 64
"""Characters of a text that ends a branch."""
_BRANCHED: Final = frozenset({Strategy.EXPLORE, Strategy.HIGH_UNCERTAINTY})


@dataclass(frozen=True, slots=True)
class BranchConfig:
    """The branching of a request.

    ``width``: branches of a rollout; ``depth``: tokens of a branch at most, None: DEFAULT_DEPTH, or with
    ``until`` what the reply may still get; ``budget``: tokens of losing branches as a share of max_tokens;
    ``on``: the strategies that open branches. ``min_entropy`` (bits) and ``min_runner_up``
    (:func:`entropick_sampler.branch.runner_up`) are the least figures of a token that opens branches, 0: any.
    ``until``: what ends a branch before its depth: a text that it then contains, or UNTIL_END, nothing but
    the end of the reply; None: branches are ``depth`` tokens long.
    """

    width: int = 4
    depth: int | None = None
    budget: float = 1.0
    scorer: Scorer = "mean_logprob"
    on: frozenset[Strategy] = _BRANCHED
    min_entropy: float = 0.0
    min_runner_up: float = 0.0
    until: str | None = None


BRANCH_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "width": (2, 16),
    "depth": (1, 4096),
    "budget": (0.0, 16.0),
    "min_entropy": (0.0, 64.0),
    "min_runner_up": (0.0, 1.0),
}
"""Inclusive limits of the numbers of a :class:`BranchConfig`."""
BRANCH_NAMES: Final[tuple[str, ...]] = tuple(f.name for f in fields(BranchConfig))
BRANCH_STRATEGIES: Final[tuple[str, ...]] = tuple(s.label for s in Strategy if s is not Strategy.CLARIFY)
"""The strategies that can open branches; CLARIFY inserts a text, so there is nothing to branch at."""


def _may_end_a_branch(until: object) -> bool:
    """Tells whether a value is one of ``until``; lone surrogates are no text that tokens could make."""
    if until is None:
        return True
    if not isinstance(until, str) or not 1 <= len(until) <= MAX_UNTIL:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in until)


def branch_config(values: Mapping[str, Any], base: BranchConfig | None = None) -> BranchConfig:
    """Returns the configuration with a request's fields; the other fields are ``base``'s or the defaults.

    Raises ValueError that names the field and its limits.
    """
    given: dict[str, Any] = dict(values)
    for name in given:
        if name not in BRANCH_NAMES:
            raise ValueError(f"branch.{name[:64]}: no such field; known: {', '.join(BRANCH_NAMES)}")
    for name, (low, high) in BRANCH_RANGES.items():
        if name not in given:
            continue
        value = given[name]
        if name == "depth" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"branch.{name}: must be a number")
        if not low <= value <= high:
            raise ValueError(f"branch.{name}: must be between {low:g} and {high:g}")
        if isinstance(low, int):
            if value != int(value):
                raise ValueError(f"branch.{name}: must be a whole number")
            given[name] = int(value)
    if not _may_end_a_branch(given.get("until")):
        raise ValueError(
            f"branch.until: must be null, {UNTIL_END!r} or a text of 1 to {MAX_UNTIL} characters"
        )
    if given.get("scorer", SCORERS[0]) not in SCORERS:
        raise ValueError(f"branch.scorer: must be one of {', '.join(SCORERS)}")
    if "on" in given:
        names = given["on"]
        if not isinstance(names, list | tuple) or not all(name in BRANCH_STRATEGIES for name in names):
            raise ValueError(f"branch.on: must be a list of {', '.join(BRANCH_STRATEGIES)}")
        given["on"] = frozenset(Strategy[name.upper()] for name in names)
    return replace(base or BranchConfig(), **given)
