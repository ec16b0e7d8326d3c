"""The log probabilities of a prompt reach its row under either runner, and hold no runner."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from entropick_server.engine.vllm.prompt_hook import hear_prompts

FOUND = {name: SimpleNamespace(logprobs=torch.full((2, 3), i)) for i, name in enumerate("abc")}
"""by vLLM's name of the request: the token's own in the first column"""
Heard = list[tuple[int, list[int]]]


class V1:
    """As much of runner V1 as the hook reads."""

    def __init__(self, mode: str = "raw_logprobs") -> None:
        self.model_config = SimpleNamespace(logprobs_mode=mode)
        self.input_batch = SimpleNamespace(req_id_to_index={"c": 0, "b": 1, "a": 4})

    def _get_prompt_logprobs_dict(self, hidden: Any, scheduled: Any) -> Any:
        return {"a": FOUND["a"], "b": None, "c": FOUND["c"]} if scheduled else {}


class Worker:
    """V2's, which computes them."""

    def compute_prompt_logprobs(self, logits: Any, hidden: Any, batch: Any, *more: Any) -> Any:
        return {name: FOUND[name] for name in hidden}


def v2(mode: str = "raw_logprobs") -> Any:
    config = SimpleNamespace(logprobs_mode=mode)
    return SimpleNamespace(model_config=config, prompt_logprobs_worker=Worker())


def heard(runner: Any) -> Heard:
    told: Heard = []
    assert hear_prompts(runner, lambda index, logprobs: told.append((index, logprobs.tolist())))
    return told


def test_v1() -> None:
    runner = V1()
    told = heard(runner)
    assert runner._get_prompt_logprobs_dict(None, {}) == {}
    assert runner._get_prompt_logprobs_dict(None, scheduled={"a": 1}) == {
        "a": FOUND["a"], "b": None, "c": FOUND["c"],
    }  # fmt: skip
    assert told == [(4, [0, 0]), (0, [2, 2])]


def test_v2() -> None:
    runner = v2()
    worker, told = runner.prompt_logprobs_worker, heard(runner)
    batch = SimpleNamespace(req_ids=["a", "b", "c"], idx_mapping_np=np.array([7, 2, 5]))
    assert worker.compute_prompt_logprobs(None, (), batch, 1, 2) == {}
    assert list(worker.compute_prompt_logprobs(None, ("b",), batch, 1, 2)) == ["b"]
    assert told == [(2, [1, 1])]


def test_logits_in_their_place_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    for runner in (V1("raw_logits"), v2("processed_logits")):
        assert not hear_prompts(runner, lambda index, logprobs: None)
    assert "token costs are absent: vLLM reports no log probabilities" in caplog.text


def test_another_vllm_is_said_to_tell_none(caplog: pytest.LogCaptureFixture) -> None:
    other = SimpleNamespace(model_config=SimpleNamespace(logprobs_mode="raw_logprobs"))
    assert not hear_prompts(other, lambda index, logprobs: None)
    assert "token costs are absent: this vLLM computes" in caplog.text


def test_the_hook_holds_no_runner() -> None:
    runner = V1()
    heard(runner)
    gone = weakref.ref(runner)
    gc.disable()
    try:
        del runner
        assert gone() is None
    finally:
        gc.enable()
