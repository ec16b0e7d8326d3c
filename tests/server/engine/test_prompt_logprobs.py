"""Log probabilities of a prompt's tokens: those of a plain pass of transformers, whatever runs beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.params import PolicyConfig
from entropick_sampler.strategy import Strategy
from entropick_server.engine.embedded import model_runner
from entropick_server.engine.types import FinishReason, PromptToken, Request

from .conftest import VOCAB, Room, tiny_model

Make = Callable[..., Request]
Open = Callable[..., Room]
PROMPT = tuple((7 * i * i + 3 * i) % 256 for i in range(60))


class Told(Room):
    """A room that keeps what outputs tell of prompts."""

    def __init__(self, room: Room) -> None:
        super().__init__(room.core)
        self.prompts: dict[str, tuple[PromptToken, ...]] = {}

    def step(self) -> Any:
        report = super().step()
        for output in report.outputs:
            if output.prompt:
                assert output.request_id not in self.prompts, "told twice"
                self.prompts[output.request_id] = output.prompt
        return report


def told(room: Room, *requests: Request) -> list[tuple[PromptToken, ...]]:
    told = Told(room)
    for request in requests:
        told.add(request)
    told.finish()
    return [told.prompts.get(request.request_id, ()) for request in requests]


def eager(name: str, prompt: tuple[int, ...]) -> torch.Tensor:
    """Log probabilities [T - 1, V] in float64, by transformers' own pass."""
    with torch.inference_mode():
        logits = tiny_model(name)(torch.tensor([prompt])).logits[0, :-1]
    return logits.double().log_softmax(-1)


def check(found: tuple[PromptToken, ...], prompt: tuple[int, ...], name: str, top: int) -> None:
    wanted = eager(name, prompt)
    assert [t.token_id for t in found] == list(prompt[1:])
    for token, row in zip(found, wanted, strict=True):
        assert token.logprob == pytest.approx(float(row[token.token_id]), abs=1e-4)
        assert len(token.top) == top
        best, ids = row.topk(top)
        assert [lp for _, lp in token.top] == pytest.approx(best.tolist(), abs=1e-4)
        for (token_id, logprob), other in zip(token.top, ids.tolist(), strict=True):
            assert token_id == other or float(row[token_id]) == pytest.approx(float(row[other]), abs=1e-4)
            if token_id == token.token_id:
                # to the bit: lm-eval finds out by equality whether a token is the most probable one
                assert logprob == token.logprob
        close = (row - row[token.token_id]).abs() < 1e-4
        above = int((row > row[token.token_id]).sum())
        assert above - int(close.sum()) < token.rank <= above + int(close.sum())


@pytest.mark.parametrize(
    ("name", "decoder"),
    [("llama", "auto"), ("llama", "torch"), ("llama", "modules"), ("qwen3", "auto"), ("gemma2", "auto")],
)
@pytest.mark.parametrize("top", [0, 5])
def test_they_are_those_of_an_eager_pass(
    name: str, decoder: Any, top: int, room: Open, make_request: Make
) -> None:
    opened = room(name=name, decoder=decoder, max_num_batched_tokens=17, max_num_seqs=4)
    others = [make_request(PROMPT[5:], max_tokens=3), make_request(PROMPT[:1], prompt_logprobs=2)]
    request = make_request(PROMPT, prompt_logprobs=top, max_tokens=3)
    found, *rest = told(opened, request, *others)
    check(found, PROMPT, name, top)
    assert rest == [(), ()]


@pytest.mark.parametrize("decoder", ["auto", "modules"])
def test_logits_are_never_there_for_the_whole_prompt(
    decoder: Any, room: Open, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that a decoder gets or gives has a place for [tokens, vocabulary]."""
    seen: list[int] = []

    class Watched(model_runner.Surprisals):
        def ask(self, step: Any) -> Any:
            asked = super().ask(step)
            seen.extend(x.numel() for x in asked.prompt or () if x is not None)
            return asked

    monkeypatch.setattr(model_runner, "Surprisals", Watched)
    (found,) = told(room(decoder=decoder), make_request(PROMPT, prompt_logprobs=20, max_tokens=1))
    check(found, PROMPT, "llama", 20)
    assert max(seen) == (len(PROMPT) - 1) * 20 < len(PROMPT) * VOCAB


def test_no_token_is_drawn_where_none_is_wanted(room: Open, make_request: Make) -> None:
    opened = Told(room())
    request = make_request(PROMPT, prompt_logprobs=1, max_tokens=0)
    beside = make_request(PROMPT, max_tokens=4)
    silent = make_request(PROMPT, max_tokens=0)
    for one in (request, beside, silent):
        opened.add(one)
    opened.finish()
    check(opened.prompts[request.request_id], PROMPT, "llama", 1)
    assert opened.text(request.request_id) == opened.text(silent.request_id) == []
    assert opened.ends[request.request_id] is opened.ends[silent.request_id] is FinishReason.LENGTH
    assert len(opened.text(beside.request_id)) == 4
    assert opened.core.idle
    assert not opened.core.gauges().running


def test_the_prefix_cache_preemption_and_choices_leave_them_right(room: Open, make_request: Make) -> None:
    warm = room()
    told(warm, make_request(PROMPT, max_tokens=4))
    again = make_request(PROMPT, prompt_logprobs=3, max_tokens=4)
    (found,) = told(warm, again)
    check(found, PROMPT, "llama", 3)
    assert not told(warm, make_request(PROMPT, max_tokens=1))[0]

    crowded = room(blocks=20, max_num_batched_tokens=20)
    requests = [make_request(PROMPT[i:], prompt_logprobs=2, seed=i, max_tokens=60) for i in range(4)]
    opened = Told(crowded)
    for request in requests:
        opened.add(request)
    opened.finish()
    assert opened.preempted
    for request in requests:
        check(opened.prompts[request.request_id], request.prompt_token_ids, "llama", 2)

    first = make_request(PROMPT, prompt_logprobs=2, max_tokens=6)
    choices = [replace(first, request_id=f"c{i}", choice=i, group="g") for i in range(3)]
    several = Told(room(max_num_seqs=2, max_num_batched_tokens=20))
    for choice in choices:
        several.add(choice)
    several.finish()
    for choice in choices:
        check(several.prompts[choice.request_id], PROMPT, "llama", 2)


def test_branches_at_the_first_token_keep_them(room: Open, make_request: Make) -> None:
    branch = BranchConfig(width=3, depth=5, budget=16, on=frozenset(Strategy))
    policy = PolicyConfig(preset="seed", branch=branch, genuineness=True)
    request = make_request(PROMPT, policy=policy, seed=5, max_tokens=20, prompt_logprobs=4)
    (found,) = told(room(), request)
    check(found, PROMPT, "llama", 4)


def test_an_unknown_head_is_refused(room: Open, make_request: Make) -> None:
    opened = Told(room())
    opened.core.info = replace(opened.core.info, prompt_logprobs=False)
    request = make_request(PROMPT, prompt_logprobs=1)
    opened.add(request)
    report = opened.core.report_between()
    assert report is not None
    assert "prompt_logprobs" in (report.outputs[0].error or "")
