"""From our options to a VllmConfig: nothing asked for is dropped, and hub models arrive with weights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from entropick_pico import model_path
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.identity import hash_model
from entropick_server.engine.source import read_source
from entropick_server.engine.types import EngineOptions
from entropick_server.engine.vllm import launch
from entropick_server.engine.vllm.engine import VllmEngine

pytestmark = pytest.mark.filterwarnings("default")  # of vLLM's and torch's making
COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNI = ("--distributed-executor-backend", "uni")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What set_threads() changes is undone; vLLM's own size of the cache would win over ours."""
    for name in ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def built(options: EngineOptions, *arguments: str) -> Any:
    return launch.build_config(options, read_source(options), (*UNI, *arguments))[1]


def test_what_was_asked_for_arrives() -> None:
    options = EngineOptions(
        model=str(model_path()),
        max_model_len=128,
        max_num_seqs=3,
        max_num_batched_tokens=77,
        block_size=64,
        kv_cache_bytes=1 << 24,
        enable_prefix_caching=False,
        dtype="bfloat16",
        device="cpu",
        threads=2,
        kernels="torch",
        monitored_layers=(2, 0),
    )
    config = built(options)
    assert config.model_config.max_model_len == 128
    assert str(config.model_config.dtype) == "torch.bfloat16"
    assert config.scheduler_config.max_num_seqs == 3
    assert config.scheduler_config.max_num_batched_tokens == 77
    assert config.cache_config.block_size == 64
    assert config.cache_config.kv_cache_memory_bytes == 1 << 24
    assert not config.cache_config.enable_prefix_caching
    assert config.additional_config["entropick"] == {"layers": [0, 2], "kernels": "torch"}
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert torch.get_num_threads() == 2
    # vLLM's own arguments win
    assert built(options, "--max-num-batched-tokens", "99").scheduler_config.max_num_batched_tokens == 99


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_invariant": True}, "--batch-invariant cannot be promised"),
        ({"decoder": "torch"}, "decoder cannot be chosen"),
        ({"measure": False}, "measure=False"),
    ],
)
async def test_what_vllm_has_no_equal_for_is_refused(changed: dict[str, Any], message: str) -> None:
    """Before anything of the model is read, or fetched."""
    with pytest.raises(ModelLoadError, match=message):
        await VllmEngine(replace(EngineOptions(model="/nowhere/model"), **changed)).start()


def test_a_device_of_another_build_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="runs on cpu"):
        built(EngineOptions(model=str(model_path()), device="cuda"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--revision", "v1"), "--revision cannot be passed on to vLLM: download the revision"),
        (("--tokenizer", "other"), "--tokenizer cannot be passed on to vLLM: the model's own"),
        (("--tokenizer-revision", "v1"), "--tokenizer-revision cannot be passed on"),
        (("--download-dir", "there"), "--download-dir cannot be passed on to vLLM: .*HF_HUB_CACHE"),
    ],
)
def test_arguments_that_would_do_nothing_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        built(EngineOptions(model=str(model_path())), *arguments)


def test_a_hub_id_is_served_from_a_folder_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "models--someone--pico"
    snapshot = shutil.copytree(model_path(), place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    options = EngineOptions(model="someone/pico")
    source = read_source(options)
    config = launch.build_config(options, source, UNI)[1]
    assert config.model_config.model == str(snapshot)
    assert source.model_hash == hash_model(Path(model_path()))
    info = launch.describe(options, source, config)
    assert (info.name, info.source) == ("someone/pico", "someone/pico")
    assert info.parameters > 100_000
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"no model\.safetensors"):
        read_source(options)


SLOW = """
import sys, time
from entropick_server.cli import main
from entropick_server.engine.vllm import launch

if __name__ == "__main__":
    start = launch.start
    def announced(*given):
        print("vLLM loads", flush=True)
        return start(*given)
    launch.start = announced
    sys.exit(main(["serve", "--engine", "vllm", "--port", "0"]))
"""


def test_a_signal_while_vllm_loads_ends_everything(tmp_path: Path) -> None:
    """The server, vLLM's engine core and its workers, within a time in which vLLM is never loaded."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "TMPDIR": str(tmp_path)}
    said = ""
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if "vLLM loads" in line:
                    break
            process.send_signal(signal.SIGTERM)
            # its children have the other end of the pipe: this waits for all of them
            rest, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, said + rest
    assert "ready:" not in said + rest
    assert not list(tmp_path.glob("entropick-*"))
