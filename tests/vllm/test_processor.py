"""The processor under both of vLLM's interfaces: it leaves the token that ``sample_step`` draws.

V1 is vLLM's own ``build_logitsprocs`` and BatchUpdate; V2 its loader and LogitsContext, driven as the runners
do (which test_runners.py runs).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from vllm import SamplingParams as VllmParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    MoveDirectionality,
    build_logitsprocs,
    validate_logits_processors_parameters,
)
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    build_custom_logits_processors,
    build_custom_logits_processors_params_validator,
)

from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.one_formula import ONE_FORMULA
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.reply_adjustments import ReplyAdjustments, step_adjustments
from entropick_sampler.step import SamplerRows, sample_step
from entropick_server.engine.vllm.attention import capture
from entropick_server.engine.vllm.processor import EntropickProcessor, row_spec
from entropick_server.engine.vllm.wire import FIELD, RowSpec
from entropick_server.engine.vllm.worker_context import WorkerContext

NAME = "entropick_server.engine.vllm.processor:EntropickProcessor"
VOCAB = 1664
REQUESTS = 8


def logits_of(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def params(spec: RowSpec | None) -> VllmParams:
    return VllmParams(temperature=0.0, extra_args=None if spec is None else {FIELD: spec.as_dict()})


def row(seed: int, **more: Any) -> RowSpec:
    return RowSpec(SamplingParams(seed=seed), PolicyConfig(preset="seed"), f"row-{seed}", **more)


def expected(specs: Sequence[RowSpec], positions: Sequence[int], logits: Tensor) -> list[int]:
    """The tokens that a step of the embedded engine would draw without attention."""
    rows = SamplerRows.build([(s.sampling, s.policy) for s in specs], None, streams=[s.stream for s in specs])
    result = sample_step(logits, None, None, rows, StepColumns.of([StepRow(p) for p in positions]))
    return result.ids[:, 0].tolist()


class V1:
    """Rows by their index in the batch, as vLLM's V1 runner has them."""

    def __init__(self, config: Any) -> None:
        built = build_logitsprocs(config, torch.device("cpu"), False, False, [NAME])
        (self.processor,) = [p for p in built.all if isinstance(p, EntropickProcessor)]
        assert self.processor in built.non_argmax_invariant
        self.outputs: list[list[int]] = []

    def begin(self, specs: Sequence[RowSpec | None]) -> None:
        self.outputs = [[] for _ in specs]
        added = [(i, params(s), [1], self.outputs[i]) for i, s in enumerate(specs)]
        self.processor.update_state(BatchUpdate(len(specs), (), added, ()))

    def step(self, logits: Tensor) -> Tensor:
        self.processor.update_state(None)
        out: Tensor = self.processor.apply(logits)
        for output, line in zip(self.outputs, out, strict=True):
            output.append(int(line.argmax()))
        return out


class V2:
    """Rows by the index of their request, not of the row, as vLLM's V2 runner has them."""

    def __init__(self, config: Any) -> None:
        def buffer() -> Any:
            return SimpleNamespace(np=np.zeros(REQUESTS, dtype=np.int32))

        self.states = SimpleNamespace(
            device=torch.device("cpu"),
            max_num_reqs=REQUESTS,
            vocab_size=VOCAB,
            all_token_ids=None,
            prompt_len=buffer(),
            prefill_len=buffer(),
            total_len=None,
        )
        (self.processor,) = build_custom_logits_processors(config, self.states, False, [NAME])  # type: ignore[arg-type]
        self.indices: list[int] = []
        self.count = 0

    def begin(self, specs: Sequence[RowSpec | None]) -> None:
        self.indices = [REQUESTS - 1 - i for i in range(len(specs))]
        for index, spec in zip(self.indices, specs, strict=True):
            assert self.processor.add_request(index, params(spec)) is (spec is not None)
            self.states.prompt_len.np[index] = self.states.prefill_len.np[index] = 5
        self.processor.apply_staged_writes()

    def step(self, logits: Tensor, unfinished: int = 0) -> Tensor:
        indices = np.array(self.indices)
        lengths = np.full(len(indices), 5 + self.count - unfinished)
        mapping = torch.from_numpy(indices)
        out = self.processor.apply(
            logits, LogitsContext(mapping, mapping, indices, mapping * 0, mapping, mapping, lengths)
        )
        self.count += not unfinished
        return out


@pytest.fixture(params=[V1, V2])
def runner(request: pytest.FixtureRequest, config: Any) -> Any:
    return request.param(config)


def test_one_token_is_left_and_it_is_the_samplers(runner: Any) -> None:
    specs = [row(1), row(2, stream=3), row(3, start=7)]
    runner.begin(specs)
    for step in range(4):
        logits = logits_of(3, step)
        wanted = expected(specs, [step, step, 7 + step], logits.clone())
        out = runner.step(logits)
        assert out.isfinite().sum(1).tolist() == [1, 1, 1]
        assert out.argmax(1).tolist() == wanted


@pytest.mark.parametrize("policy", ONE_FORMULA)
def test_a_policy_with_one_formula_follows_the_tokens_that_were_taken(runner: Any, policy: Any) -> None:
    """The policy memory that a worker keeps is that of the tokens so far: mirostat's limit moves with it."""
    config = PolicyConfig(policy, overrides={"mirostat_tau": 4.0, "mirostat_eta": 1.0})
    specs = [RowSpec(SamplingParams(seed=seed), config, f"row-{seed}") for seed in range(3)]
    rows = SamplerRows.build([(s.sampling, s.policy) for s in specs], None)
    runner.begin(specs)
    sums = [0.0] * 3
    for step in range(12):
        logits = logits_of(3, step)
        columns = StepColumns.of([StepRow(step, tokens=step, surprisal=total) for total in sums])
        result = sample_step(logits.clone(), None, None, rows, columns)
        assert runner.step(logits).argmax(1).tolist() == result.ids[:, 0].tolist()
        sums = [total + float(bits) for total, bits in zip(sums, result.surprisal[:, 0], strict=True)]


def test_logits_are_adjusted_as_the_sampler_does_it(runner: Any) -> None:
    asked: list[dict[str, Any]] = [
        {"presence_penalty": 2.0, "frequency_penalty": 1.0, "repetition_penalty": 2.0, "temperature": 0.0},
        {"logit_bias": ((5, 100.0), (6, 99.0)), "bad_words": ((5, 5),), "temperature": 0.5},
        {"allowed_token_ids": (70, 71, 72), "min_tokens": 3, "stop_token_ids": (70,)},
        {},
    ]
    specs = [
        RowSpec(
            SamplingParams(seed=i, **fields),
            PolicyConfig("fixed"),
            f"row-{i}",
            start=1,
            seen=(3,),
            output=(9,),
        )
        for i, fields in enumerate(asked)
    ]
    replies = [ReplyAdjustments.of(s.sampling, s.seen, s.output) for s in specs]
    rows = SamplerRows.build([(s.sampling, s.policy) for s in specs], None)
    runner.begin(specs)
    for step in range(8):
        logits = logits_of(4, step)
        adjustments = step_adjustments(replies, VOCAB)
        columns = StepColumns.of([StepRow(1 + step)] * 4)
        wanted = (
            sample_step(logits.clone(), None, None, rows, columns, adjustments=adjustments).ids[:, 0].tolist()
        )
        assert runner.step(logits).argmax(1).tolist() == wanted
        assert wanted[2] in ((71, 72) if step < 2 else (70, 71, 72))
        for reply, token in zip(replies, wanted, strict=True):
            if reply is not None:
                reply.take(token)


def test_rows_of_others_are_left_as_they_are(runner: Any) -> None:
    runner.begin([None, row(1), None])
    logits = logits_of(3)
    wanted = expected([row(1)], [0], logits[1:2].clone())
    out = runner.step(logits.clone())
    assert out[0].equal(logits[0])
    assert out[2].equal(logits[2])
    assert out[1].isfinite().nonzero().flatten().tolist() == wanted


def test_replayed_tokens_come_in_turn(runner: Any) -> None:
    runner.begin([row(1, replayed=(5, 6, 7))])
    assert [int(runner.step(logits_of(1, s)).argmax()) for s in range(3)] == [5, 6, 7]


def test_v1_rows_that_move_and_wait(config: Any) -> None:
    """Moved rows draw what they would have; one that waited goes on with its position and its memory."""
    runner = V1(config)
    specs = [row(1), row(2), row(3)]
    runner.begin(specs)
    runner.step(logits_of(3))
    first = runner.outputs
    # row 0 has to wait; the last one takes its place, and then the two swap
    runner.processor.update_state(
        BatchUpdate(2, [0], [], [(2, 0, MoveDirectionality.UNIDIRECTIONAL), (0, 1, MoveDirectionality.SWAP)])
    )
    runner.outputs = [first[1], first[2]]
    logits = logits_of(2, 1)
    wanted = expected([row(2), row(3)], [1, 1], logits.clone())
    assert runner.step(logits).argmax(1).tolist() == wanted
    runner.processor.update_state(BatchUpdate(3, [], [(2, params(specs[0]), [1], first[0])], []))
    runner.outputs = [first[1], first[2], first[0]]
    logits = logits_of(3, 2)
    wanted = expected([row(2), row(3), row(1)], [2, 2, 1], logits.clone())
    assert runner.step(logits).argmax(1).tolist() == wanted


def test_an_unfinished_prompt_is_neither_counted_nor_told(config: Any) -> None:
    """V2 says which rows these are; the draw after them is that of position 0."""
    sent: list[int] = []
    context = WorkerContext.of(config)
    context.outbox = SimpleNamespace(send=lambda marks, *_: sent.extend(m.position for m in marks))  # type: ignore[assignment]
    runner = V2(config)
    runner.begin([row(1)])
    runner.step(logits_of(1), unfinished=3)
    assert sent == []
    logits = logits_of(1, 1)
    wanted = expected([row(1)], [0], logits.clone())
    assert runner.step(logits).argmax(1).tolist() == wanted
    assert sent == [0]


def test_a_row_that_is_filled_again_in_chunks_forgets_nothing(config: Any) -> None:
    """V2 preempts a row of four tokens and computes its prompt and these again, a few at a time."""
    runner = V2(config)
    specs = [row(1, replayed=(11, 12, 13, 14, 15, 16))]
    runner.begin(specs)
    said = [int(runner.step(logits_of(1, i)).argmax()) for i in range(4)]
    (index,) = runner.indices
    runner.states.prefill_len.np[index] = 5 + 4
    for missing in (7, 6, 2, 1):
        runner.step(logits_of(1, 9), unfinished=missing)
    said += [int(runner.step(logits_of(1, i)).argmax()) for i in range(4, 6)]
    assert said == [11, 12, 13, 14, 15, 16]


def test_several_rows_a_request_are_refused(config: Any) -> None:
    runner = V2(config)
    runner.begin([row(1)])
    with pytest.raises(RuntimeError, match="token by token"):
        runner.step(logits_of(2))
    config.speculative_config = object()
    with pytest.raises(ValueError, match="speculative"):
        EntropickProcessor(config, torch.device("cpu"), False)


def test_workers_that_share_out_the_rows_are_refused(config: Any) -> None:
    config.parallel_config.enable_batch_sharded_sampling = True
    with pytest.raises(ValueError, match="batch-sharded"):
        EntropickProcessor(config, torch.device("cpu"), False)


@pytest.mark.parametrize(
    "check",
    [
        lambda p: validate_logits_processors_parameters([NAME], p),
        lambda p: build_custom_logits_processors_params_validator([NAME])(p),
    ],
)
def test_both_frontends_refuse_a_bad_client(check: Any) -> None:
    """What ``vllm_xargs`` brings: a mistake is a ValueError, which vLLM answers with a 400."""
    check(VllmParams(extra_args={FIELD: json.dumps({"preset": "seed", "overrides": {"top_p": 0.5}})}))
    check(VllmParams())
    with pytest.raises(VLLMValidationError, match=r"entropick\.overrides\.top_p"):
        check(VllmParams(extra_args={FIELD: json.dumps({"overrides": {"top_p": 7}})}))
    with pytest.raises(VLLMValidationError, match="presence_penalty"):
        check(VllmParams(presence_penalty=1.0, extra_args={FIELD: "{}"}))


def test_vllms_defaults_count_as_silence() -> None:
    spec = row_spec(VllmParams(temperature=1.0, top_p=0.8, seed=3, extra_args={FIELD: "{}"}))
    assert spec is not None
    assert (spec.sampling.temperature, spec.sampling.top_p, spec.sampling.seed) == (None, 0.8, 3)


def a_layer(rows: int) -> capture.Captured:
    return capture.Captured(
        torch.randn(rows, 4, 8),
        torch.randn(6, 2, 8, 16),
        torch.arange(rows).unsqueeze(1),
        torch.full((rows,), 9),
        9,
        8**-0.5,
        None,
        0.0,
    )
