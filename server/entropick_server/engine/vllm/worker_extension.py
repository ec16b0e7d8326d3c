"""The calls that the server makes into vLLM's workers, through ``collective_rpc``.

vLLM imports this module in every worker before it builds the model (``--worker-extension-cls``), so the
attention backend is registered here; in a plain vLLM the entry point ``vllm.general_plugins`` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.distributed.parallel_state import get_pp_group, get_tp_group

from entropick_kernels import warmup
from entropick_sampler.batch import warmup as warm_up_step

from .attention.buffers import layer_number
from .attention.capture import warm_up
from .plugin import register
from .prompt_hook import hear_prompts
from .side_channel import Outbox
from .wire import read_profile
from .worker_context import WorkerContext

register()


class WorkerExtension:
    """Methods that vLLM mixes into its worker class.

    ``vllm_config`` and ``model_runner`` are the worker's.
    """

    vllm_config: Any
    model_runner: Any

    def entropick_open(self, channel: str, profile: Mapping[str, Any] | None) -> list[int] | None:
        """Connects the worker to the server, and compiles the code that the first token would wait for.

        Returns the layers whose attention is measured here; None in a worker that does not draw.
        """
        context = WorkerContext.of(self.vllm_config)
        context.use_profile(read_profile(profile))
        if self.model_runner.device.type == "cpu":
            warmup()
            warm_up_step()
            warm_up()
        draws = get_pp_group().is_last_rank
        reports = draws and get_tp_group().rank_in_group == 0
        context.open(self.model_runner, Outbox(channel) if reports else None)
        if not draws:
            return None
        hear_prompts(self.model_runner, context.tell_prompt)
        built = self.vllm_config.compilation_config.static_forward_context
        return [
            number
            for name, layer in built.items()
            if (number := layer_number(name)) in context.layers
            and getattr(getattr(layer, "impl", None), "measures", _never)(layer)
        ]

    def entropick_use_profile(self, profile: Mapping[str, Any] | None) -> None:
        """Decides with another profile from the next step on."""
        WorkerContext.of(self.vllm_config).use_profile(read_profile(profile))

    def entropick_take(self, key: str) -> list[list[bytes]]:
        """Returns the side channel's messages with a key's rows; [] in workers that do not report."""
        outbox = WorkerContext.of(self.vllm_config).outbox
        return [] if outbox is None else outbox.take(key)

    def entropick_close(self) -> None:
        """Closes the worker's end of the side channel."""
        WorkerContext.of(self.vllm_config).close_outbox()


def _never(_: Any) -> bool:
    """Of a layer whose backend is not ours."""
    return False
