"""From a checked body to the engine's requests: tokens, limits, defaults, seeds."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from jinja2 import TemplateError

from entropick_sampler.params import PolicyConfig, SamplingParams

from ..engine.types import ModelInfo, Request
from ..protocol.errors import ApiError, bad_request
from ..protocol.requests import GenerationRequest, Message
from ..state import ServerState

_LONG_TEXT = 16_384
"""characters from which tokenizing leaves the event loop"""
Result = TypeVar("Result")


async def _beside_the_loop(state: ServerState, size: int, work: Callable[[], Result]) -> Result:
    if size < _LONG_TEXT:
        return work()
    async with state.tokenizing:
        return await asyncio.to_thread(work)


async def chat_tokens(
    state: ServerState, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> list[int]:
    """Token ids of a conversation, by the model's own template."""
    # templates know no developer; OpenAI's newer models use it where others say system
    turns: list[dict[str, Any]] = [
        {"role": "system" if m.role == "developer" else m.role, "content": m.content} for m in messages
    ]
    size = sum(len(m.content) for m in messages)
    try:
        return await _beside_the_loop(
            state,
            size,
            lambda: state.engine.tokenizer.apply_chat_template(
                turns, add_generation_prompt=add_generation_prompt
            ),
        )
    except (ValueError, TemplateError) as error:
        # the model's template refuses this conversation (or the model has none)
        raise bad_request(f"messages: {str(error)[:300]}", "messages") from error


async def prompt_tokens(
    state: ServerState, prompt: str | list[int], *, add_special_tokens: bool = True
) -> list[int]:
    """Token ids of a prompt; ids are checked against the vocabulary."""
    if isinstance(prompt, str):
        encode = state.engine.tokenizer.encode
        text = prompt
        return await _beside_the_loop(
            state, len(text), lambda: encode(text, add_special_tokens=add_special_tokens)
        )
    check_ids(prompt, "prompt", state.info)
    return prompt


def check_ids(ids: Sequence[int], param: str, info: ModelInfo) -> None:
    """Raise the 400 for ids outside the vocabulary."""
    if any(not 0 <= token_id < info.vocab_size for token_id in ids):
        raise bad_request(f"{param}: token ids must be between 0 and {info.vocab_size - 1}.", param)


def build_requests(
    body: GenerationRequest, prompts: Sequence[list[int]], state: ServerState, answer_id: str, param: str
) -> list[Request]:
    """Engine requests for each prompt, all choices of the first, then of the next.

    ``param`` names the field that holds the prompts.
    """
    body.check_choices(state.settings.max_n)
    info = state.info
    policy = _policy(body, state)
    stops = body.stop_token_ids or []
    check_ids(stops, "stop_token_ids", info)
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
    )
    if policy.policy == "fixed":
        base = _with_model_defaults(base, info)
    count = body.completions
    requests: list[Request] = []
    for prompt in prompts:
        first = Request(
            request_id=f"{answer_id}-{len(requests)}",
            prompt_token_ids=tuple(prompt),
            sampling=replace(
                base,
                seed=_seed(body.seed, state.settings.seed),
                max_tokens=_max_tokens(body, len(prompt), info, param),
            ),
            policy=policy,
            arrival=time.monotonic(),
        )
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


def _policy(body: GenerationRequest, state: ServerState) -> PolicyConfig:
    asked = body.entropick
    default = state.settings.default_policy
    # an ordinary field of the request is nearer than an override of the server's
    theirs = {k: v for k, v in default.overrides.items() if getattr(body, k, None) is None}
    default = replace(default, overrides=theirs)
    config = default if asked is None else asked.config(default)
    if config.policy == "fixed":
        config = replace(config, branch=None)
    if config.preset != "calibrated" or state.engine.profile is not None:
        return config
    if asked is not None and asked.preset == "calibrated" and config.policy == "entropix":
        message = "entropick.preset: this model has no calibration profile; use preset 'seed'."
        raise bad_request(message, "entropick.preset")
    return replace(config, preset="seed")


def _with_model_defaults(sampling: SamplingParams, info: ModelInfo) -> SamplingParams:
    defaults = info.defaults
    return replace(
        sampling,
        temperature=defaults.temperature if sampling.temperature is None else sampling.temperature,
        top_p=defaults.top_p if sampling.top_p is None else sampling.top_p,
        top_k=defaults.top_k if sampling.top_k is None else sampling.top_k,
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
        raise _too_long(f"the prompt has {prompt} tokens, which leaves no room for an answer", limit, param)
    if asked is None:
        return min(limit - prompt, info.defaults.max_new_tokens or limit)
    if prompt + asked > limit:
        name = body.limit_name
        raise _too_long(
            f"the prompt has {prompt} tokens and {name} asks for {asked} ({prompt + asked} in all)",
            limit,
            name,
        )
    return asked


def _too_long(what: str, limit: int, param: str) -> ApiError:
    message = f"This model's context is {limit} tokens, but {what}."
    return bad_request(message, param, "context_length_exceeded")
