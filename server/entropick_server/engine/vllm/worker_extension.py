"""What the server can ask of vLLM's workers, through ``collective_rpc``.

vLLM imports this module in every worker before it builds the model (``--worker-extension-cls``), so the
attention backend is registered here; in a plain vLLM the entry point ``vllm.general_plugins`` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.distributed.parallel_state import get_pp_group, get_tp_group

from entropick_kernels import warmup
from entropick_sampler.batch import warmup as warm_step

from .attention.capture import warm_up
from .attention.kept import layer_number
from .hub import Hub
from .plugin import register
from .side_channel import Outbox
from .wire import read_profile

register()


class WorkerExtension:
    """Mixed into vLLM's worker class; ``vllm_config`` and ``model_runner`` are the worker's."""

    vllm_config: Any
    model_runner: Any

    def entropick_open(self, channel: str, profile: Mapping[str, Any] | None) -> list[int] | None:
        """Connect the worker to the server, and compile what the first token would wait for.

        The layers whose attention is measured here; None of a worker that does not draw.
        """
        hub = Hub.of(self.vllm_config)
        hub.runner = self.model_runner
        hub.use_profile(read_profile(profile))
        if self.model_runner.device.type == "cpu":
            warmup()
            warm_step()
            warm_up()
        if not get_pp_group().is_last_rank:
            return None
        if get_tp_group().rank_in_group == 0:
            hub.outbox = Outbox(channel)
        built = self.vllm_config.compilation_config.static_forward_context
        return [
            number
            for name, layer in built.items()
            if (number := layer_number(name)) in hub.layers
            and getattr(getattr(layer, "impl", None), "measures", _never)(layer)
        ]

    def entropick_use_profile(self, profile: Mapping[str, Any] | None) -> None:
        """Decide with another profile from the next step on."""
        Hub.of(self.vllm_config).use_profile(read_profile(profile))

    def entropick_take(self, key: str) -> list[list[bytes]]:
        """Messages of the side channel with a key's rows, of the worker that draws; elsewhere none."""
        outbox = Hub.of(self.vllm_config).outbox
        return [] if outbox is None else outbox.take(key)


def _never(_: Any) -> bool:
    """Of a layer whose backend is not ours."""
    return False
