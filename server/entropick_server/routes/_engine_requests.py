"""From a checked body and its prompts to the engine's requests: limits, defaults, seeds."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from entropick_sampler.params import SEVERAL_TEMPERATURE, PolicyConfig, SamplingParams

from ..engine.grammar.compiler import CompiledGrammar
from ..engine.reply import check_layer_entropy
from ..engine.types import ModelInfo, Request, Resumed
from ..prompts import too_long
from ..protocol.errors import bad_request
from ..protocol.options import EntropickOptions
from ..protocol.requests import GenerationRequest
from ..protocol.structured import Structure
from ..state import ServerState
from ._adjusting import adjusted, check_adjusted
from ._common import check_ids
from ._grammar import check_grammar
from ._rewind import Rewound


def build_requests(
    body: GenerationRequest,
    prompts: Sequence[list[int]],
    state: ServerState,
    answer_id: str,
    arrival: float,
    param: str,
    vote: bool = False,
    rewound: Rewound | None = None,
    structure: Structure | None = None,
    grammar: CompiledGrammar | None = None,
    share: str = "",
) -> list[Request]:
    """Returns the engine's requests, all choices of the first prompt, then of the next.

    ``arrival``: time.monotonic() when the HTTP request was admitted; ``param``: the field that holds the
    prompts; ``vote``: each prompt gets several replies that are voted on; ``rewound``: the beginning of the
    reply to the only prompt; ``structure``: the form that the replies have, ``grammar``: it compiled;
    ``share``: the name of the key that opened the HTTP request, empty without keys. Raises the 400 for a
    prompt or a field that the model or the server cannot serve.
    """
    info = state.model.info
    policy = _policy(body, state)
    if stops := body.stop_token_ids or []:
        check_ids(stops, "stop_token_ids", info)
    if body.prompt_alternatives is not None and not info.prompt_logprobs:
        name = "echo" if body.prompt_logprobs is None else "prompt_logprobs"
        message = f"{name}: this model's decoder gives no log probabilities of a prompt; leave it out."
        raise bad_request(message, name)
    ends = () if body.ignore_eos else info.eos_token_ids
    base = SamplingParams(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        stop=tuple(body.stop or ()),
        stop_token_ids=tuple(dict.fromkeys((*ends, *stops))),
        ignore_eos=bool(body.ignore_eos),
        logprobs=body.alternatives,
        prompt_logprobs=body.prompt_alternatives,
    )
    repetition = None if policy.policy == "entropix" else info.defaults.repetition_penalty
    base = adjusted(base, body, state.engine.tokenizer, 1.0 if repetition is None else repetition)
    count = body.completions
    if policy.policy != "entropix":
        base = _with_model_defaults(base, info)
    elif policy.preset == "calibrated" and (vote or count > 1 or _branches(policy)):
        base = _for_several(base, policy)
    requests: list[Request] = []
    default_seed = state.settings.seed if rewound is None or rewound.seed is None else rewound.seed
    for prompt in prompts:
        first = Request(
            request_id=f"{answer_id}-{len(requests)}",
            prompt_token_ids=tuple(prompt),
            sampling=replace(
                base,
                seed=_seed(body.seed, default_seed),
                max_tokens=_max_tokens(body, len(prompt), info, param),
            ),
            policy=policy,
            arrival=arrival,
            answer_id=answer_id,
            share=share,
        )
        check_adjusted(first.sampling, info)
        if rewound is not None:
            first = _behind(first, rewound, body.limit_name)
        if grammar is not None and structure is not None:
            if base.allowed_token_ids is not None:
                message = f"allowed_token_ids: not together with {structure.field}."
                raise bad_request(message, "allowed_token_ids")
            begun = first.resumed or Resumed()
            ids = [*(token.token_id for token in begun.tokens), *begun.pending]
            check_grammar(structure, grammar, first.sampling.max_tokens, ids)
            first = replace(first, grammar=grammar)
        if count == 1:
            requests.append(first)
            continue
        requests += [
            replace(
                first,
                request_id=f"{answer_id}-{len(requests) + choice}",
                choice=choice,
                group=first.request_id,
            )
            for choice in range(count)
        ]
    return requests


def asked_tokens(requests: Sequence[Request], replies: int) -> int:
    """Returns the tokens that requests ask for: of each prompt once, and as many as the replies may get.

    ``replies``: that each request may stand for, where votes decide how many are drawn.
    """
    prompts = sum(len(request.prompt_token_ids) for request in requests if request.counts_prompt)
    return prompts + replies * sum(request.sampling.max_tokens for request in requests)


def _behind(request: Request, rewound: Rewound, limit_name: str) -> Request:
    """Returns the request that goes on behind the beginning of a reply."""
    kept, most = [token.token_id for token in rewound.resumed.tokens], request.sampling.max_tokens
    if most <= len(kept):
        message = f"{limit_name}: must be at least {len(kept) + 1}: it counts the {len(kept)} kept tokens too"
        raise bad_request(f"{message} (it is {most}).", limit_name)
    return replace(
        request,
        prompt_token_ids=(*request.prompt_token_ids, *kept),
        choice=rewound.choice,
        resumed=rewound.resumed,
    )


def temperature_of(body: GenerationRequest, state: ServerState) -> float | None:
    """Returns the temperature that a request or the server's defaults name; None: the policy's own."""
    policy = _policy(body, state)
    asked = policy.overrides.get("temperature", body.temperature)
    return state.model.info.defaults.temperature if asked is None and policy.policy == "fixed" else asked


def _policy(body: GenerationRequest, state: ServerState) -> PolicyConfig:
    asked = body.entropick
    default = state.default_policy
    # an ordinary field of the request is nearer than an override of the server's
    theirs = {k: v for k, v in default.overrides.items() if getattr(body, k, None) is None}
    default = replace(default, overrides=theirs)
    config = default if asked is None else asked.config(default)
    _check_lens(config, asked, state.model.info)
    if config.policy != "entropix":
        config = replace(config, branch=None)
    elif body.offers_tools:
        # a question in the middle of a call would break it
        config = replace(config, overrides={**config.overrides, "clarify_budget": 0})
    if config.preset != "calibrated" or state.model.profile_id is not None:
        return config
    if asked is not None and asked.preset == "calibrated" and config.policy == "entropix":
        message = "entropick.preset: this model has no calibration profile; use preset 'seed'."
        raise bad_request(message, "entropick.preset")
    return replace(config, preset="seed")


def _check_lens(config: PolicyConfig, asked: EntropickOptions | None, info: ModelInfo) -> None:
    """Raises the 400 for layers' entropies that the engine cannot measure."""
    try:
        check_layer_entropy(config, info)
    except ValueError as error:
        field = str(error).partition(":")[0]
        named = "" if asked is not None and asked.layer_entropy else " (a default of this server)"
        raise bad_request(f"entropick.{error}{named}", f"entropick.{field}") from error


def _branches(policy: PolicyConfig) -> bool:
    return policy.branch is not None and policy.branch.budget > 0


def _for_several(sampling: SamplingParams, policy: PolicyConfig) -> SamplingParams:
    """Returns the fields with a temperature at which continuations differ, where the client named none."""
    if sampling.temperature is not None or "temperature" in policy.overrides:
        return sampling
    return replace(sampling, temperature=SEVERAL_TEMPERATURE)


def _with_model_defaults(sampling: SamplingParams, info: ModelInfo) -> SamplingParams:
    defaults = info.defaults
    return replace(
        sampling,
        temperature=defaults.temperature if sampling.temperature is None else sampling.temperature,
        top_p=defaults.top_p if sampling.top_p is None else sampling.top_p,
        top_k=defaults.top_k if sampling.top_k is None else sampling.top_k,
        min_p=defaults.min_p if sampling.min_p is None else sampling.min_p,
    )


def _seed(asked: int | None, default: int | None) -> int:
    if asked is not None:
        return asked
    # never none: every answer can be replayed by the seed that its summary reports;
    # 53 bits, because that is what a JavaScript client reads back unchanged
    return default if default is not None else secrets.randbits(53)


def _max_tokens(body: GenerationRequest, prompt: int, info: ModelInfo, param: str) -> int:
    limit, asked = info.max_model_len, body.limit
    if prompt == 0:
        raise bad_request(f"{param}: must not be empty.", param)
    if prompt >= limit:
        raise too_long(limit, f"your prompt has {prompt} tokens, which leaves no room for an answer", param)
    if asked is None:
        return min(limit - prompt, body.default_limit or info.defaults.max_new_tokens or limit)
    if prompt + asked > limit:
        name = body.limit_name
        however = f"you requested {prompt + asked} tokens ({prompt} in the prompt, {asked} by {name})"
        raise too_long(limit, however, name)
    return asked
