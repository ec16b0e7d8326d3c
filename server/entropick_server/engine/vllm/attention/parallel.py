"""The workers that share a layer's heads, as vLLM's tensor-parallel group."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.distributed.parallel_state import get_tp_group

from .capture import Workers


def workers_of(config: Any) -> Workers | None:
    """Of a VllmConfig, in one of its workers: None where one worker has all heads.

    Every worker of the group draws the same rows in the same steps, so all of them measure at once.
    """
    if config.parallel_config.tensor_parallel_size == 1:
        return None
    group = get_tp_group()

    def add(tensor: Tensor) -> Tensor:
        total: Tensor = group.all_reduce(tensor)
        return total

    def gather(tensor: Tensor) -> Tensor:
        every: Tensor = group.all_gather(tensor.contiguous(), dim=-1)
        return every

    return Workers(group.world_size, add, gather)
