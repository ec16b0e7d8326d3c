"""The log probabilities of prompts, taken from vLLM's model runner as it computes them.

vLLM hands them to the server alone, behind the step; a worker's rows need them for token costs from the next
step on. Imports nothing of vLLM.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

_log = logging.getLogger(__name__)
Tell = Callable[[int, Tensor], None]
"""takes the index of a row in its table, and the log probabilities of its prompt's tokens behind the first"""


def hear_prompts(runner: Any, tell: Tell) -> bool:
    """Has a worker's model runner tell the log probabilities of every prompt that it has computed.

    Returns whether it can: not where vLLM reports logits in their place, or computes them in another way than
    the versions that are known here.
    """
    mode = runner.model_config.logprobs_mode
    if mode not in ("raw_logprobs", "processed_logprobs"):
        _log.warning("token costs are absent: vLLM reports no log probabilities (--logprobs-mode %s)", mode)
        return False
    v2 = getattr(runner, "prompt_logprobs_worker", None)
    if v2 is not None and _follow(v2, "compute_prompt_logprobs", functools.partial(_v2, tell)):
        return True
    if v2 is None and _follow(runner, "_get_prompt_logprobs_dict", functools.partial(_v1, tell)):
        return True
    _log.warning("token costs are absent: this vLLM computes the log probabilities of prompts elsewhere")
    return False


def _v1(tell: Tell, runner: Any, found: Mapping[str, Any], *_: Any) -> None:
    for name, told in found.items():
        if told is not None:
            tell(runner.input_batch.req_id_to_index[name], told.logprobs[:, 0])


def _v2(tell: Tell, _: Any, found: Mapping[str, Any], fn: Any, hidden: Any, batch: Any, *__: Any) -> None:
    if not found:
        return
    for name, index in zip(batch.req_ids, batch.idx_mapping_np.tolist(), strict=True):
        if name in found:
            tell(index, found[name].logprobs[:, 0])


def _follow(owner: Any, name: str, then: Callable[..., None]) -> bool:
    """Calls ``then(owner, result, *arguments)`` behind each call of a method. Returns whether it is there."""
    method = getattr(owner, name, None)
    if method is None:
        return False
    plain, held = method.__func__, weakref.ref(owner)

    def followed(*arguments: Any, **named: Any) -> Any:
        me = held()
        found = plain(me, *arguments, **named)
        then(me, found, *arguments, *named.values())
        return found

    setattr(owner, name, followed)
    return True
