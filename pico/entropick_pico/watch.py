"""A small fixed check set that a training run is measured on."""

import random
from collections.abc import Sequence
from typing import Any, Final

import torch

from entropick_pico import grammar
from entropick_pico.batches import Batch, collate
from entropick_pico.forward import supervised_logits
from entropick_pico.grammar.world import words
from entropick_pico.tokenizer import Encoder

_EXACT: Final = words(
    "capital flag answerable lookup sort add_steps add_direct parity_steps parity_direct count "
    "sums mix latin json_fields repeat"
)
_LABELLED: Final = words("town name word home visit ambiguous pick")


def _certain(batch: Batch) -> torch.Tensor:
    """Return whether each target is the only possible one, as far as the grammar says."""
    certain = batch.hard > 0
    certain[batch.soft_at[batch.soft_p > 1 - 1e-6]] = True
    return certain


class Watch:
    """A small fixed check set: exact replies under teacher forcing, and the entropy error at labels."""

    def __init__(self, encoder: Encoder, pad: int, count: int) -> None:
        """Draws ``count`` check examples of every watched kind, and of exchanges with tools."""
        rng = random.Random(99)

        def gather(talks: Sequence[Sequence[grammar.Example]]) -> Batch:
            return collate([encoder.encode_talk(talk) for talk in talks], pad)

        def draw(kind: str) -> Batch:
            return gather([[grammar.sample(rng, kind, "check")] for _ in range(count)])

        self._exact = {kind: draw(kind) for kind in _EXACT}
        self._labels = {kind: draw(kind) for kind in _LABELLED}
        self._exact["tools"] = gather([grammar.tool_talk(rng, "check") for _ in range(count)])

    @torch.no_grad()
    def __call__(self, model: Any) -> dict[str, float]:
        """Measures the model: the share of replies with every certain token right, and bits of bias."""
        model.eval()
        found: dict[str, float] = {}
        for kind, batch in self._exact.items():
            on = batch.to(model.device)
            wrong = (supervised_logits(model, on).argmax(-1) != on.targets) & _certain(on)
            bad = torch.zeros(len(on.tokens), device=model.device).index_add_(0, on.rows, wrong.float())
            found[kind] = round((bad == 0).float().mean().item(), 3)
        for kind, batch in self._labels.items():
            on = batch.to(model.device)
            log_p = supervised_logits(model, on).log_softmax(-1)
            labelled = on.hard == 0
            measured = -(log_p.exp() * log_p).sum(-1)[labelled].sum()
            truth = -(on.soft_p * on.soft_p.log()).sum()
            found["bias_" + kind] = round(((measured - truth) / labelled.sum() / 0.693147).item(), 3)
        model.train()
        return found
