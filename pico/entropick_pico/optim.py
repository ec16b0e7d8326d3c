"""The optimisers: Muon for the weight matrices inside the blocks, AdamW for everything else."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Bring the singular values of a stack of matrices near one by Newton-Schulz iteration."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon:
    """Momentum whose update is orthogonalised; matrices of one shape are stepped as one batch."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.05
    ) -> None:
        """Take the matrices to train, the peak learning rate, the momentum and the weight decay."""
        groups: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(parameter.shape, []).append(parameter)
        self._groups = list(groups.values())
        self._moments = [torch.zeros_like(torch.stack([p.data for p in group])) for group in self._groups]
        self._lr, self._momentum, self._decay = lr, momentum, decay

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Update by ``scale`` times the peak learning rate."""
        rate = self._lr * scale
        for group, moment in zip(self._groups, self._moments, strict=True):
            gradients = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in group])
            moment.lerp_(gradients, 1 - self._momentum)
            updates = orthogonalise(gradients.lerp(moment, self._momentum))
            shape = max(1.0, group[0].shape[0] / group[0].shape[1]) ** 0.5
            for parameter, update in zip(group, updates, strict=True):
                parameter.mul_(1 - rate * self._decay)
                parameter.add_(update, alpha=-rate * shape)

    def state(self) -> list[Tensor]:
        """Return the moments, to be saved."""
        return self._moments

    def restore(self, moments: list[Tensor]) -> None:
        """Take over saved moments."""
        for mine, saved in zip(self._moments, moments, strict=True):
            mine.copy_(saved)


class Optimizer:
    """Muon and AdamW under one learning-rate scale."""

    def __init__(self, model: nn.Module, lr: float, muon_lr: float) -> None:
        """Divide the parameters of ``model``; a ``muon_lr`` of 0 leaves all of them to AdamW."""
        matrices, others, plain = [], [], []
        for name, parameter in model.named_parameters():
            if muon_lr > 0 and parameter.ndim == 2 and "embed" not in name and "lm_head" not in name:
                matrices.append(parameter)
            elif parameter.ndim >= 2:
                others.append(parameter)
            else:
                plain.append(parameter)
        self._muon = Muon(matrices, muon_lr) if matrices else None
        self._adam = torch.optim.AdamW(
            [{"params": others, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
            lr=lr,
            betas=(0.9, 0.98),
            eps=1e-8,
        )
        self._lr = lr

    def step(self, scale: float) -> None:
        """Update all parameters at ``scale`` times the peak learning rates and clear the gradients."""
        for group in self._adam.param_groups:
            group["lr"] = self._lr * scale
        if self._muon is not None:
            self._muon.step(scale)
        self._adam.step()

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"adam": self._adam.state_dict(), "muon": self._muon.state() if self._muon else []}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._adam.load_state_dict(state["adam"])
        if self._muon is not None:
            self._muon.restore(state["muon"])
