"""Most of these tests need vLLM and run in its own environment (``make test-vllm``), a few run everywhere."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from entropick_pico import model_path
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.types import Request

WITHOUT_VLLM = {
    *("test_chain.py", "test_prompt_hook.py", "test_row_surprisals.py", "test_rows.py", "test_slots.py"),
    *("test_wire.py", "test_worker_imports.py"),
}
collect_ignore = (
    []
    if find_spec("vllm")
    else sorted({path.name for path in Path(__file__).parent.glob("test_*.py")} - WITHOUT_VLLM)
)
if find_spec("vllm"):
    with warnings.catch_warnings():
        # what vLLM and torch warn of while they are imported is theirs
        warnings.simplefilter("ignore")
        importlib.import_module("vllm.v1.attention.backends.cpu_attn")


@pytest.fixture
def make_request() -> Callable[..., Request]:
    """A request with a name of its own; fields of SamplingParams by keyword."""
    count = 0

    def make(
        prompt: tuple[int, ...] = (1, 20, 30),
        policy: PolicyConfig | None = None,
        forced: tuple[int, ...] = (),
        **sampling: Any,
    ) -> Request:
        nonlocal count
        count += 1
        return Request(
            f"request-{count}",
            prompt,
            SamplingParams(**{"max_tokens": 8, **sampling}),
            policy or PolicyConfig(),
            time.monotonic(),
            replayed_token_ids=forced,
        )

    return make


@pytest.fixture
def config() -> Any:
    """Returns the part of a VllmConfig that a worker's parts read, for the shipped model."""
    return SimpleNamespace(
        compilation_config=SimpleNamespace(),
        additional_config={"entropick": {"layers": []}},
        speculative_config=None,
        scheduler_config=SimpleNamespace(max_num_seqs=8),
        model_config=SimpleNamespace(model=str(model_path()), tokenizer=str(model_path())),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
    )
