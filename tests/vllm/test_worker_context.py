"""A worker's context is found by all of its parts, and dies with them."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from entropick_server.engine.vllm.side_channel import Outbox
from entropick_server.engine.vllm.worker_context import WorkerContext, _contexts


class Runner:
    """A model runner with a model."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(2, 2)


def test_copies_of_a_configuration_share_a_context(config: Any) -> None:
    """vLLM copies its configuration and changes the copies' model; another worker has another context."""
    context = WorkerContext.of(config)
    renamed = SimpleNamespace(**vars(config))
    renamed.model_config = SimpleNamespace(model="renamed", tokenizer=None)
    assert WorkerContext.of(renamed) is context
    other = SimpleNamespace(**vars(config))
    other.compilation_config = SimpleNamespace()
    assert WorkerContext.of(other) is not context


def test_a_context_dies_with_its_parts(config: Any) -> None:
    """Neither the context nor the model of a worker that is gone stays, and the next worker begins anew."""
    gc.collect()  # a context that an engine of an earlier test left would go while this test counts
    before = len(_contexts)
    runner = Runner()
    context = WorkerContext.of(config)
    context.open(runner, None)
    model, gone = weakref.ref(runner.model), weakref.ref(context)
    assert len(_contexts) == before + 1
    del runner
    gc.collect()
    assert model() is None  # the context alone keeps no model
    assert context.unfinished_prompts(1) is None
    context.use_profile(None)
    version = context.profile_version
    del context
    gc.collect()
    assert gone() is None
    assert len(_contexts) == before
    assert WorkerContext.of(config).profile_version < version


def test_an_outbox_is_closed_once(config: Any, tmp_path: Path) -> None:
    context = WorkerContext.of(config)
    first, second = (Outbox(f"ipc://{tmp_path}/{name}") for name in "ab")
    context.open(Runner(), first)
    context.open(Runner(), second)
    assert (first._context.closed, second._context.closed) == (True, False)
    context.close_outbox()
    context.close_outbox()
    assert second._context.closed
    assert context.outbox is None


def test_an_engine_that_is_gone_holds_nothing() -> None:
    """In one process an engine with our parts comes and goes: model, layers, context and socket are free."""
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("come_and_go.py"))],
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "measured": [0, 3], "tokens": 8, "messages": 8, "open": 0, "alive": 0, "contexts": 0,
    }  # fmt: skip
