"""The specification of a row on its way to the logits processor, from our server or a client of a plain vLLM.

It travels in vLLM's ``SamplingParams.extra_args[FIELD]``: a mapping from the server, JSON text from a client
(``vllm_xargs`` allows no nested objects). Knows nothing of vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, get_args

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.params import (
    SEED_PARAMS,
    PolicyConfig,
    PolicyName,
    PresetName,
    SamplingParams,
    resolve,
)
from entropick_sampler.profile import Profile
from entropick_sampler.reply_adjustments import adjusts
from entropick_sampler.strategy import Strategy

from ..grammar.spec import Grammar

FIELD: Final = "entropick"
_CLIENT_FIELDS: Final = ("policy", "preset", "overrides", "seed")
_SAMPLED: Final = ("temperature", "top_p", "top_k", "min_p", "seed", "logprobs")
_ADJUSTING: Final = (
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "min_tokens"),
    *("bad_words", "allowed_token_ids", "stop_token_ids"),
)
"""the fields of adjustments, and those that min_tokens reads"""


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """The grammar of a row's reply, the tokens that may end it, and the tokens that it has already."""

    grammar: Grammar
    ends: tuple[int, ...]
    written: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RowSpec:
    """The specification of a row in vLLM's batch as it begins: a segment, or a branch of a rollout.

    ``key`` names its figures on the side channel; None: nobody wants them. ``start``: tokens of the reply
    before the row's first token. ``stream``: the Philox stream of its draws. ``replayed``: tokens that the
    request named, to emit instead of drawing. ``rollout_end``, ``clarify_used``, ``since_clarify`` and
    ``unfinished`` as in :class:`~..reply.Reply`, of the reply before the row, and so ``pending`` (of a reply
    that does not end with them), ``named``, ``tokens`` and ``surprisal``; ``newest``: its newest tokens, as
    many as a repetition depends on. Where ``sampling`` asks for adjustments, ``output``: all its tokens, and
    ``seen``: the distinct tokens of the prompt, if it is penalised too.
    ``grammar``: None where the reply follows none. ``known``: where token costs are wanted, the surprisals
    (bits) of the first of the ``prompt_tokens`` that stand before the row's first token, below 0 where not
    known; None: no token costs are wanted.
    """

    sampling: SamplingParams
    policy: PolicyConfig
    key: str | None = None
    start: int = 0
    stream: int = 0
    replayed: tuple[int, ...] = ()
    rollout_end: int = 0
    clarify_used: int = 0
    since_clarify: int | None = None
    unfinished: bytes = b""
    newest: tuple[int, ...] = ()
    pending: tuple[int, ...] = ()
    named: int = 0
    tokens: int = 0
    surprisal: float = 0.0
    seen: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    grammar: GrammarSpec | None = None
    # two specifications of one key do not differ in it, and a worker that has read it drops it
    known: tuple[float, ...] | None = field(default=None, compare=False)
    prompt_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Returns the specification for ``extra_args``, in values that any serializer takes."""
        values: dict[str, Any] = {
            "key": self.key,
            "start": self.start,
            "stream": self.stream,
            "replayed": list(self.replayed),
            "rollout_end": self.rollout_end,
            "clarify_used": self.clarify_used,
            "since_clarify": self.since_clarify,
            "unfinished": self.unfinished.hex(),
            "newest": list(self.newest),
            "pending": list(self.pending),
            "named": self.named,
            "tokens": self.tokens,
            "surprisal": self.surprisal,
            "prompt_tokens": self.prompt_tokens,
            "sampling": self._sampling(),
            "policy": self.policy.policy,
            "preset": self.policy.preset,
            "overrides": dict(self.policy.overrides),
            "telemetry": self.policy.telemetry,
            "genuineness": self.policy.genuineness is not False,
        }
        if (asked := self.grammar) is not None:
            source = asked.grammar
            values["grammar"] = [source.kind, source.text, list(asked.ends), list(asked.written)]
        if (branch := self.policy.branch) is not None:
            values["branch"] = [branch.width, sorted(int(s) for s in branch.on)]
        if self.known is not None:
            values["known"] = list(self.known)
        if adjusts(self.sampling):
            values["seen"], values["output"] = list(self.seen), list(self.output)
        return values

    def _sampling(self) -> dict[str, Any]:
        """Returns the fields that a worker reads, those of adjustments only where they ask for any."""
        sampling = self.sampling
        values = {name: getattr(sampling, name) for name in _SAMPLED}
        if adjusts(sampling):
            values |= {name: getattr(sampling, name) for name in _ADJUSTING}
        return values


def parse(field: object, sampling: Mapping[str, Any]) -> RowSpec:
    """Reads the specification of a row from ``extra_args[FIELD]``.

    ``sampling``: the request's own ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``seed``, None where the
    client was silent; it is read where a client wrote the field. Raises ValueError that names the field.
    """
    if isinstance(field, Mapping) and "key" in field:
        return _from_server(field)
    return _from_client(field, sampling)


def _from_server(values: Mapping[str, Any]) -> RowSpec:
    branch = None
    if "branch" in values:
        width, on = values["branch"]
        branch = BranchConfig(width=width, on=frozenset(Strategy(s) for s in on))
    grammar = None
    if "grammar" in values:
        kind, text, ends, written = values["grammar"]
        grammar = GrammarSpec(Grammar(kind, text), tuple(ends), tuple(written))
    policy = PolicyConfig(
        values["policy"],
        values["preset"],
        values["overrides"],
        values["telemetry"],
        branch=branch,
        # the windows are the server's; a worker sends what goes into them
        genuineness="scores" if values["genuineness"] else False,
    )
    return RowSpec(
        SamplingParams(**{name: _frozen(value) for name, value in values["sampling"].items()}),
        policy,
        values["key"],
        values["start"],
        values["stream"],
        tuple(values["replayed"]),
        values["rollout_end"],
        values["clarify_used"],
        values["since_clarify"],
        bytes.fromhex(values["unfinished"]),
        tuple(values["newest"]),
        tuple(values["pending"]),
        values["named"],
        values["tokens"],
        values["surprisal"],
        tuple(values.get("seen", ())),
        tuple(values.get("output", ())),
        grammar,
        tuple(values["known"]) if "known" in values else None,
        values["prompt_tokens"],
    )


def _frozen(value: Any) -> Any:
    """Returns lists, which a serializer makes of tuples, as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _from_client(field: object, sampling: Mapping[str, Any]) -> RowSpec:
    if isinstance(field, str):
        try:
            field = json.loads(field)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{FIELD}: must be JSON text of an object: {error}") from error
    if not isinstance(field, Mapping):
        raise ValueError(f"{FIELD}: must be an object, or JSON text of one")
    for name in field:
        if name not in _CLIENT_FIELDS:
            raise ValueError(f"{FIELD}.{str(name)[:64]}: no such field; known: {', '.join(_CLIENT_FIELDS)}")
    policy = _choice("policy", field.get("policy", "entropix"), get_args(PolicyName))
    preset = _choice("preset", field.get("preset", "calibrated"), get_args(PresetName))
    overrides = field.get("overrides", {})
    if not isinstance(overrides, Mapping):
        raise ValueError(f"{FIELD}.overrides: must be an object")
    seed = field.get("seed", sampling.get("seed"))
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
    """Returns ``spec``, with preset ``seed`` where it asks for ``calibrated`` and there is no profile."""
    if profile is None and spec.policy.preset == "calibrated":
        return replace(spec, policy=replace(spec.policy, preset="seed"))
    return spec


def plain_profile(profile: Profile | None) -> dict[str, Any] | None:
    """Returns a profile as plain values, for a call into the workers, without fields that decide nothing."""
    return None if profile is None else replace(profile, error=None, genuineness=None).as_dict()


def read_profile(plain: Mapping[str, Any] | None) -> Profile | None:
    """Rebuilds the profile that :func:`plain_profile` took apart."""
    if plain is None:
        return None
    values = {f.name: plain[f.name] for f in fields(Profile) if f.name in plain}
    values["quantiles"] = {name: tuple(row) for name, row in values["quantiles"].items()}
    values["layers"], values["notes"] = tuple(values["layers"]), tuple(values["notes"])
    values["opening_weights"] = dict(map(tuple, values["opening_weights"]))
    return Profile(**values)
