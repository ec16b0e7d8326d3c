"""The decoder for every architecture: transformers' modules with our attention function in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from entropick_kernels.attention_stats import Kernels
from entropick_kernels.decoder import Decoded, DecoderStep, PromptSurprisals

from ..base import ModelLoadError
from ..source import VALIDATED
from .attention import LayerFigures, attend
from .forward import decoded, rank_prompt

ATTENTION_NAME: Final = "entropick"
_WANTED_AT_ONCE: Final = 64
"""prompt tokens whose logits are computed at a time"""


@dataclass(frozen=True, slots=True)
class ModulesStep:
    """One call of the model: it travels through the modules as a keyword, so there is no state outside it.

    ``figures``: of the rows, one a monitored layer, added while the modules run.
    """

    step: DecoderStep
    kernels: Kernels | None
    figures: list[LayerFigures] = field(default_factory=list)


class ModulesDecoder:
    """A transformers model as a decoder."""

    def __init__(self, model: PreTrainedModel, kernels: Kernels | None) -> None:
        """Takes a model. ``kernels``: the kernels that attend and measure, None for the fastest."""
        self._model = model
        self._implementation = kernels
        self.ranks_prompts = model.config.model_type in VALIDATED
        """whether the head is known well enough to give logits of a prompt's tokens"""

    def __call__(self, step: DecoderStep) -> Decoded | None:
        """Runs the modules.

        Returns logits and attention figures of the rows, None for a step without rows. The surprisals of
        ``step.prompt`` stay as they are where no ranks are wanted: a module gives logits of the rows alone.
        """
        call = ModulesStep(step, self._implementation)
        if step.prompt is not None and step.prompt.ranks is not None:
            return self._with_prompt(step, step.prompt, call)
        logits: Tensor = self._model(
            input_ids=step.ids.unsqueeze(0),
            position_ids=step.positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=step.rows or 1,
            entropick=call,
        ).logits[0]
        return decoded(logits, call.figures) if step.rows else None

    def _with_prompt(self, step: DecoderStep, prompt: PromptSurprisals, call: ModulesStep) -> Decoded | None:
        """Runs the modules below the head, then the head over a few tokens at a time."""
        x: Tensor = self._model.base_model(
            input_ids=step.ids.unsqueeze(0),
            position_ids=step.positions.unsqueeze(0),
            use_cache=False,
            entropick=call,
        ).last_hidden_state[0]
        for lo in range(0, len(prompt.tokens), _WANTED_AT_ONCE):
            some = slice(lo, lo + _WANTED_AT_ONCE)
            rank_prompt(self._logits(x[prompt.tokens[some]]).float(), prompt, some)
        return decoded(self._logits(x[-step.rows :]), call.figures) if step.rows else None

    def _logits(self, x: Tensor) -> Tensor:
        """Returns the logits [T, V] of the last layer's output x [T, hidden], as in validated models."""
        head: nn.Module = self._model.lm_head
        logits: Tensor = head(x)
        cap = getattr(self._model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    entropick: ModulesStep,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attends for a module that transformers calls: query [1, H, T, D], key and value [1, Hk, T, D].

    Returns the attention's output [1, T, H, D]. Raises ModelLoadError for what the kernels do not know, a
    mask of the model's own or attention sinks; the warm-up meets it, so such a model never becomes ready.
    """
    if attention_mask is not None or unused.get("s_aux") is not None:
        raise ModelLoadError(
            "this architecture needs a mask of its own or attention sinks, which paged attention lacks here: "
            "--allow-unvalidated does not help, serve another model"
        )
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = q.shape[2] ** -0.5 if scaling is None else scaling
    call = entropick
    out, figures = attend(layer, q, k, v, call.step, scale, sliding_window, softcap, call.kernels)
    if figures is not None:
        call.figures.append(figures)
    return out.unsqueeze(0), None


def register() -> None:
    """Makes the function known to transformers; a model asks for it by name.

    No mask function is registered with it: transformers then builds no mask, which the blocks make needless.
    """
    AttentionInterface.register(ATTENTION_NAME, paged_attention)
