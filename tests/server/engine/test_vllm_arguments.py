"""Every option of ours under --engine vllm: passed on, read elsewhere or refused by name. Needs no vLLM."""

from __future__ import annotations

import logging
import os
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.types import DEFAULT_KV_CACHE_BYTES, EngineOptions
from entropick_server.engine.vllm.arguments import (
    PASSED_ON,
    READ_ELSEWHERE,
    REFUSED,
    check_options,
    set_threads,
    vllm_defaults,
)

OTHERWISE: dict[str, Any] = {
    "model": "other",
    "served_model_name": "other",
    "max_model_len": 100,
    "max_num_seqs": 3,
    "max_num_batched_tokens": 77,
    "block_size": 64,
    "kv_cache_bytes": 12345678,
    "enable_prefix_caching": False,
    "dtype": "bfloat16",
    "weights": "int8",
    "device": "cuda:1",
    "threads": 3,
    "decoder": "torch",
    "kernels": "torch",
    "batch_invariant": True,
    "compile_beside": True,
    "monitored_layers": (1,),
    "measure": False,
    "allow_unvalidated": True,
    "calibrate": False,
    "use_profile": False,
    "profile": "p.toml",
    "chat_template_seconds": 9.0,
    "chat_template": "t.jinja",
}
"""a value of each option that is not its default"""
PLAIN = EngineOptions("model")


def test_no_option_is_forgotten() -> None:
    """A new field of EngineOptions must be added to one of the tables, and to this test."""
    names = [field.name for field in fields(EngineOptions)]
    assert sorted([*PASSED_ON, *READ_ELSEWHERE, *REFUSED]) == sorted(names)
    assert sorted(OTHERWISE) == sorted(names)
    assert all(getattr(PLAIN, name) != value for name, value in OTHERWISE.items())


@pytest.mark.parametrize("name", sorted(OTHERWISE))
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_an_option_is_passed_on_or_refused_by_its_name(
    name: str, device_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = replace(PLAIN, **{name: OTHERWISE[name]})
    if name in REFUSED:
        with pytest.raises(ModelLoadError, match=name.replace("_", "[-_]")):
            check_options(changed)
        return
    check_options(changed)
    plain = vllm_defaults(PLAIN, device_type=device_type)
    if name in PASSED_ON:
        given = vllm_defaults(changed, device_type=device_type)
        assert given == plain | {PASSED_ON[name]: OTHERWISE[name]}
        assert given != plain
    elif name == "device":
        if device_type == "cuda":
            assert vllm_defaults(changed, device_type=device_type) == plain | {"device_ids": [1]}
        else:
            with pytest.raises(ModelLoadError, match=r"device 'cuda:1': this build of vLLM runs on cpu"):
                vllm_defaults(changed, device_type=device_type)
    elif name == "threads":
        told: list[int] = []
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "auto")
        monkeypatch.setattr(torch, "set_num_threads", told.append)
        if device_type == "cpu":
            set_threads(changed.threads, device_type)
            assert (os.environ["OMP_NUM_THREADS"], os.environ["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "nobind")
            assert told == [3]
        else:
            with pytest.raises(ModelLoadError, match="threads: vLLM runs on cuda"):
                set_threads(changed.threads, device_type)
            assert not told
    else:
        # read by another part, which has a test of its own: vLLM's arguments stay as they are
        assert vllm_defaults(changed, device_type=device_type) == plain


def test_what_is_left_out_is_left_to_vllm() -> None:
    """On a GPU all but the settings that have a default of ours; on a CPU what a small machine needs."""
    gpu = {"max_num_seqs": 16, "enable_prefix_caching": True}
    assert vllm_defaults(PLAIN, device_type="cuda") == gpu
    cpu = {"dtype": "float32", "kv_cache_memory_bytes": DEFAULT_KV_CACHE_BYTES, "enforce_eager": True}
    assert vllm_defaults(PLAIN, device_type="cpu") == gpu | cpu


@pytest.mark.parametrize(
    ("device", "device_type", "fits"),
    [
        ("auto", "rocm", True),
        ("cpu", "cpu", True),
        ("cuda", "cuda", True),
        ("cuda:0", "cuda", True),
        ("cpu", "cuda", False),
        ("cuda", "cpu", False),
        ("cpu:0", "cpu", False),
        ("cuda:x", "cuda", False),
        ("nowhere", "cuda", False),
    ],
)
def test_devices(device: str, device_type: str, fits: bool) -> None:
    options = replace(PLAIN, device=device)
    if fits:
        vllm_defaults(options, device_type=device_type)
    else:
        with pytest.raises(ModelLoadError, match=f"device '{device}'"):
            vllm_defaults(options, device_type=device_type)


def test_what_wins_over_an_option_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    with caplog.at_level(logging.WARNING):
        vllm_defaults(PLAIN, device_type="cpu")
        assert not caplog.text
        vllm_defaults(replace(PLAIN, kv_cache_bytes=1 << 26), device_type="cpu")
    assert "VLLM_CPU_KVCACHE_SPACE is set" in caplog.text
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-3")
    with pytest.raises(ModelLoadError, match="VLLM_CPU_OMP_THREADS_BIND=0-3"):
        set_threads(2, "cpu")
