"""What the server tells the logits processor about a row, and how a client of a plain vLLM says the same.

It travels in vLLM's ``SamplingParams.extra_args[FIELD]``: a mapping from the server, JSON text from a client
(``vllm_xargs`` allows no nested objects). Knows nothing of vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, get_args

from entropick_sampler.params import (
    SEED_PARAMS,
    BranchConfig,
    PolicyConfig,
    PolicyName,
    PresetName,
    SamplingParams,
    Strategy,
    resolve,
)
from entropick_sampler.profile import Profile

FIELD: Final = "entropick"
_CLIENT_FIELDS: Final = ("policy", "preset", "overrides", "seed")
_SAMPLED: Final = ("temperature", "top_p", "top_k", "min_p", "seed", "logprobs")


@dataclass(frozen=True, slots=True)
class RowSpec:
    """One row of vLLM's batch, a request, a part of one or a branch, as it begins.

    ``key`` names its figures on the side channel; None: nobody wants them. ``start``: tokens of the reply
    before its first one. ``branch``: what its draws have in the place of Philox's branch, its number below
    the request's choice. ``forced``: tokens to emit instead of drawing; ``replay`` says that they are the
    request's own. ``rollout``: no clarifying text may begin. ``clarify_used`` and ``since_clarify``: the
    policy's memory; ``unfinished``: bytes of a character begun before it.
    """

    sampling: SamplingParams
    policy: PolicyConfig
    key: str | None = None
    start: int = 0
    branch: int = 0
    forced: tuple[int, ...] = ()
    replay: bool = False
    rollout: bool = False
    clarify_used: int = 0
    since_clarify: int | None = None
    unfinished: bytes = b""

    def plain(self) -> dict[str, Any]:
        """For ``extra_args``: values that any serializer takes."""
        told: dict[str, Any] = {
            "key": self.key,
            "start": self.start,
            "number": self.branch,
            "forced": list(self.forced),
            "replay": self.replay,
            "rollout": self.rollout,
            "clarify_used": self.clarify_used,
            "since_clarify": self.since_clarify,
            "unfinished": self.unfinished.hex(),
            "sampling": {name: getattr(self.sampling, name) for name in _SAMPLED},
            "policy": self.policy.policy,
            "preset": self.policy.preset,
            "overrides": dict(self.policy.overrides),
            "telemetry": self.policy.telemetry,
        }
        if (branch := self.policy.branch) is not None:
            told["branch"] = [branch.width, sorted(int(s) for s in branch.on)]
        return told


def parse(told: object, sampling: Mapping[str, Any]) -> RowSpec:
    """The row that ``extra_args[FIELD]`` describes.

    ``sampling``: the request's own ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``seed``, None where the
    client was silent; read where a client wrote ``told``. Raises ValueError that names the field.
    """
    if isinstance(told, Mapping) and "key" in told:
        return _from_server(told)
    return _from_client(told, sampling)


def _from_server(told: Mapping[str, Any]) -> RowSpec:
    branch = None
    if "branch" in told:
        width, on = told["branch"]
        branch = BranchConfig(width=width, on=frozenset(Strategy(s) for s in on))
    return RowSpec(
        SamplingParams(**told["sampling"]),
        PolicyConfig(told["policy"], told["preset"], told["overrides"], told["telemetry"], branch),
        told["key"],
        told["start"],
        told["number"],
        tuple(told["forced"]),
        told["replay"],
        told["rollout"],
        told["clarify_used"],
        told["since_clarify"],
        bytes.fromhex(told["unfinished"]),
    )


def _from_client(told: object, sampling: Mapping[str, Any]) -> RowSpec:
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{FIELD}: must be JSON text of an object: {error}") from error
    if not isinstance(told, Mapping):
        raise ValueError(f"{FIELD}: must be an object, or JSON text of one")
    for name in told:
        if name not in _CLIENT_FIELDS:
            raise ValueError(f"{FIELD}.{str(name)[:64]}: no such field; known: {', '.join(_CLIENT_FIELDS)}")
    policy = _choice("policy", told.get("policy", "entropix"), get_args(PolicyName))
    preset = _choice("preset", told.get("preset", "calibrated"), get_args(PresetName))
    overrides = told.get("overrides", {})
    if not isinstance(overrides, Mapping):
        raise ValueError(f"{FIELD}.overrides: must be an object")
    seed = told.get("seed", sampling.get("seed"))
    if seed is None:
        seed = 0
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"{FIELD}.seed: must be a whole number of 64 bits")
    asked = SamplingParams(
        temperature=sampling.get("temperature"),
        top_p=sampling.get("top_p"),
        top_k=sampling.get("top_k"),
        min_p=sampling.get("min_p"),
        seed=seed,
    )
    try:
        resolve(SEED_PARAMS, asked, overrides)
    except ValueError as error:
        raise ValueError(f"{FIELD}.{error}") from error
    return RowSpec(asked, PolicyConfig(policy, preset, dict(overrides)))  # type: ignore[arg-type]


def _choice(name: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{FIELD}.{name}: must be one of {', '.join(known)}")
    return str(value)


def servable(spec: RowSpec, profile: Profile | None) -> RowSpec:
    """``spec`` under preset ``seed`` where it asks for ``calibrated`` and there is no profile."""
    if profile is None and spec.policy.preset == "calibrated":
        return replace(spec, policy=replace(spec.policy, preset="seed"))
    return spec


def plain_profile(profile: Profile | None) -> dict[str, Any] | None:
    """A profile as plain values, for a call into the workers."""
    return None if profile is None else profile.as_dict()


def read_profile(plain: Mapping[str, Any] | None) -> Profile | None:
    """The profile that :func:`plain_profile` wrote."""
    if plain is None:
        return None
    values = {f.name: plain[f.name] for f in fields(Profile)}
    values["quantiles"] = {name: tuple(row) for name, row in values["quantiles"].items()}
    values["layers"], values["notes"] = tuple(values["layers"]), tuple(values["notes"])
    return Profile(**values)
