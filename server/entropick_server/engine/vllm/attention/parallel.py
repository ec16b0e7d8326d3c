"""The tensor-parallel group of a worker: the workers that share a layer's heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.distributed.parallel_state import get_tp_group

from .capture import TensorParallelGroup


def tensor_parallel_group(config: Any) -> TensorParallelGroup | None:
    """Returns the group of the worker that has this VllmConfig, None where one worker has all heads.

    Every worker of the group draws the same rows in the same steps, so all of them measure at once.
    """
    if config.parallel_config.tensor_parallel_size == 1:
        return None
    group = get_tp_group()

    def all_reduce(tensor: Tensor) -> Tensor:
        total: Tensor = group.all_reduce(tensor)
        return total

    def all_gather(tensor: Tensor) -> Tensor:
        every: Tensor = group.all_gather(tensor.contiguous(), dim=-1)
        return every

    return TensorParallelGroup(group.world_size, all_reduce, all_gather)
