"""From our options to vLLM's arguments: each field of EngineOptions is passed on, read elsewhere or refused.

Imports nothing of vLLM.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Final

import torch

from ..base import ModelLoadError
from ..types import DEFAULT_KV_CACHE_BYTES, EngineOptions

PASSED_ON: Final = {
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "block_size": "block_size",
    "kv_cache_bytes": "kv_cache_memory_bytes",
    "enable_prefix_caching": "enable_prefix_caching",
    "dtype": "dtype",
}
"""our option -> the argument of vLLM that means the same; None and "auto" leave it to vLLM"""
READ_ELSEWHERE: Final = {
    "model": "engine.source, whose folder vLLM is given",
    "served_model_name": "engine.source",
    "chat_template": "engine.source",
    "chat_template_seconds": "engine.source",
    "monitored_layers": "engine.source; the worker context measures them",
    "allow_unvalidated": "engine.source",
    "kernels": "the worker context, which measures and draws with them",
    "calibrate": "the engine's start",
    "use_profile": "the engine's start",
    "profile": "the engine's start",
    "device": "device_arguments()",
    "threads": "set_threads()",
    "compile_beside": "nothing: it is of the embedded engine alone",
}
"""our option -> the part of this package that reads it"""
REFUSED: Final[Mapping[str, tuple[object, str]]] = {
    "batch_invariant": (
        False,
        "--batch-invariant cannot be promised with --engine vllm: on a CPU vLLM has no such mode; the one "
        "that it has for CUDA (VLLM_BATCH_INVARIANT=1 in the environment) covers its own kernels; that "
        "the figures and draws of entropick have equal bits there was never shown. Use --engine torch",
    ),
    "weights": (
        "auto",
        "--weights is for the native decoder of --engine torch: under --engine vllm choose --dtype, or serve "
        "a model that is quantised in a form of vLLM's",
    ),
    "decoder": ("auto", "decoder cannot be chosen with --engine vllm: vLLM runs the model"),
    "measure": (
        True,
        "measure=False is for the native decoder of the embedded engine; vLLM can monitor no layers instead",
    ),
}
"""our option -> the only value that vLLM can serve, and the reason"""
_THREADS: Final = "VLLM_CPU_OMP_THREADS_BIND"
_KV_CACHE: Final = "VLLM_CPU_KVCACHE_SPACE"
_log = logging.getLogger(__name__)


def check_options(options: EngineOptions) -> None:
    """Raises ModelLoadError for the first option that vLLM has no equal for."""
    for name, (only, why) in REFUSED.items():
        if getattr(options, name) != only:
            raise ModelLoadError(why)


def vllm_defaults(options: EngineOptions, *, device_type: str) -> dict[str, Any]:
    """Returns our options as defaults of vLLM's arguments, which win where they are given.

    ``device_type`` is that of vLLM's platform ("cpu", "cuda", ...). Raises ModelLoadError for a device that
    this platform does not have.
    """
    chosen = {theirs: getattr(options, ours) for ours, theirs in PASSED_ON.items()}
    chosen = {name: value for name, value in chosen.items() if value not in (None, "auto")}
    chosen |= device_arguments(options.device, device_type)
    if device_type == "cpu":
        chosen.setdefault("dtype", "float32")
        chosen.setdefault("kv_cache_memory_bytes", DEFAULT_KV_CACHE_BYTES)
        # compiling a small model costs more than it saves here
        chosen["enforce_eager"] = True
        if options.kv_cache_bytes is not None and os.environ.get(_KV_CACHE):
            _log.warning("%s is set: vLLM takes it in the place of kv_cache_bytes", _KV_CACHE)
    return chosen


def device_arguments(device: str, device_type: str) -> dict[str, Any]:
    """Returns vLLM's arguments for a device of ours: auto, or vLLM's platform with or without a number.

    Raises ModelLoadError for a device of another platform: the build of vLLM decides which one it runs on.
    """
    kind, _, number = device.partition(":")
    if device == "auto" or (device == device_type):
        return {}
    if kind == device_type and kind != "cpu" and number.isdecimal():
        return {"device_ids": [int(number)]}
    raise ModelLoadError(
        f"device {device!r}: this build of vLLM runs on {device_type}; use --device auto (docs/vllm.md names "
        "the builds)"
    )


def set_threads(threads: int | None, device_type: str) -> None:
    """Has vLLM's workers compute with a number of CPU threads; None leaves it to vLLM.

    vLLM knows no argument for it but its environment, which its workers inherit. Raises ModelLoadError where
    vLLM runs on another device than a CPU, and where the environment binds the threads to CPUs already.
    """
    if threads is None:
        return
    if device_type != "cpu":
        raise ModelLoadError(f"threads: vLLM runs on {device_type} here, where it has no CPU threads to set")
    bound = os.environ.get(_THREADS, "auto")
    if bound not in ("auto", "nobind"):
        raise ModelLoadError(f"threads and {_THREADS}={bound} both say which CPUs compute: give one of them")
    os.environ[_THREADS] = "nobind"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)  # of a worker in this process, which has read the environment before
