"""The logit lens: entropies of layers are those of transformers' hidden states, whatever runs beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.layer_entropy import LayerEntropy, lens_entropy
from entropick_sampler.params import PolicyConfig
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_sampler.strategy import Strategy
from entropick_server.engine.types import Request, Token

from .conftest import Room, tiny_model

Open = Callable[..., Room]
Make = Callable[..., Request]
PROMPT = tuple(range(40, 60))
ENTROPY = SIGNAL_NAMES.index("logits_entropy")


def asking(every: int, *layers: int, **more: Any) -> PolicyConfig:
    return PolicyConfig(**{"policy": "fixed", "layer_entropy": LayerEntropy(every, layers), **more})


def told(room: Room, *requests: Request) -> list[list[Token]]:
    for request in requests:
        room.add(request)
    room.finish()
    return [room.tokens[request.request_id] for request in requests]


@pytest.mark.parametrize(("name", "decoder"), [("llama", "auto"), ("llama", "torch"), ("qwen3", "auto")])
def test_they_are_those_of_transformers_hidden_states(
    name: str, decoder: Any, room: Open, make_request: Make
) -> None:
    open_room = room(name=name, decoder=decoder, max_num_seqs=3)
    requests = [
        make_request(PROMPT, policy=asking(1), seed=1, max_tokens=12),
        make_request(PROMPT[3:], policy=asking(5, 1), seed=2, max_tokens=12),
        make_request(PROMPT, seed=3, max_tokens=12),
    ]
    every, some, none = told(open_room, *requests)
    model = tiny_model(name).double()
    norm, head = model.model.norm, model.lm_head.weight
    for request, tokens in ((requests[0], every), (requests[1], some)):
        text = [*request.prompt_token_ids, *(t.token_id for t in tokens)]
        with torch.inference_mode():
            states = model(torch.tensor([text]), output_hidden_states=True).hidden_states
        first = len(request.prompt_token_ids) - 1
        for i, token in enumerate(tokens):
            wanted = {}
            for layer in (0, 1):
                x = states[layer + 1][0, first + i]
                wanted[layer] = float(lens_entropy(x, norm.weight, head, norm.variance_epsilon))
            # behind the last layer the lens sees what the sampler measures
            measured = token.signals[ENTROPY]
            assert measured is not None
            wanted[2] = measured
            if request is requests[1]:
                wanted = {1: wanted[1]} if i % 5 == 0 else {}
            assert dict(token.layer_entropy) == pytest.approx(wanted, abs=1e-4)
            assert [layer for layer, _ in token.layer_entropy] == list(wanted)
    assert all(token.layer_entropy == () for token in none)


def test_many_rows_and_threads_change_no_bit(room: Open, make_request: Make) -> None:
    policy = asking(3, 0, 2)
    requests = [make_request(PROMPT[i % 9 :], policy=policy, seed=i, max_tokens=6) for i in range(40)]
    together = told(room(max_num_seqs=40, blocks=800), *requests)
    for i in (0, 7, 39):
        again = make_request(PROMPT[i % 9 :], policy=policy, seed=i, max_tokens=6)
        (alone,) = told(room(), again)
        assert [t.layer_entropy for t in together[i]] == [t.layer_entropy for t in alone]


def test_they_are_those_of_the_branch_that_was_kept(room: Open, make_request: Make) -> None:
    branch = BranchConfig(width=3, depth=5, budget=16, on=frozenset(Strategy))
    policy = asking(2, 1, policy="entropix", preset="seed", branch=branch, telemetry="full")
    (tokens,) = told(room(), make_request(PROMPT, policy=policy, seed=5, max_tokens=60))
    assert any(i for t in tokens for i, b in enumerate(t.branches) if b.chosen)
    given = tuple(t.token_id for t in tokens)
    (again,) = told(room(), make_request(PROMPT, forced=given, policy=asking(2, 1)))
    for i, (token, other) in enumerate(zip(tokens, again, strict=True)):
        assert len(token.layer_entropy) == (i % 2 == 0)
        np.testing.assert_allclose(token.layer_entropy, other.layer_entropy, rtol=1e-5)


def test_what_cannot_be_measured_is_refused(room: Open, make_request: Make) -> None:
    for open_room, needle in (
        (room(decoder="modules"), "layer_entropy: this engine cannot"),
        (room(monitored_layers=(0, 1)), "layer 2 is not among the monitored"),
    ):
        open_room.add(make_request(PROMPT, policy=asking(1, 2)))
        (output,) = open_room.step().outputs
        assert output.error is not None
        assert needle in output.error
