"""The optimisers: Muon for the weight matrices inside the blocks, AdamW for everything else."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Brings the singular values of a stack of matrices near 1 by Newton-Schulz iteration."""
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
        self, parameters: Iterable[nn.Parameter], momentum: float = 0.95, decay: float = 0.05
    ) -> None:
        """Takes the matrices to train, the momentum and the weight decay."""
        groups: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(parameter.shape, []).append(parameter)
        self._groups = list(groups.values())
        self._moments = [torch.zeros_like(torch.stack([p.data for p in group])) for group in self._groups]
        self._momentum, self._decay = momentum, decay

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Updates the matrices with learning rate ``rate``."""
        for group, moment in zip(self._groups, self._moments, strict=True):
            gradients = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in group])
            moment.lerp_(gradients, 1 - self._momentum)
            updates = orthogonalise(gradients.lerp(moment, self._momentum))
            shape = max(1.0, group[0].shape[0] / group[0].shape[1]) ** 0.5
            for parameter, update in zip(group, updates, strict=True):
                parameter.mul_(1 - rate * self._decay)
                parameter.add_(update, alpha=-rate * shape)

    def state(self) -> list[Tensor]:
        """Returns the moments, to be saved."""
        return self._moments

    def restore(self, moments: list[Tensor]) -> None:
        """Restores the saved moments."""
        for mine, saved in zip(self._moments, moments, strict=True):
            mine.copy_(saved)


class Optimizer:
    """The optimizers Muon and AdamW side by side."""

    def __init__(self, model: nn.Module, muon: bool = True) -> None:
        """Divides the parameters of ``model``; without ``muon`` AdamW gets all of them."""
        matrices, others, plain = [], [], []
        for name, parameter in model.named_parameters():
            if muon and parameter.ndim == 2 and "embed" not in name and "lm_head" not in name:
                matrices.append(parameter)
            elif parameter.ndim >= 2:
                others.append(parameter)
            else:
                plain.append(parameter)
        self._muon = Muon(matrices) if matrices else None
        self._adam = torch.optim.AdamW(
            [{"params": others, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
            betas=(0.9, 0.98),
            eps=1e-8,
        )

    def step(self, adam_rate: float, muon_rate: float) -> None:
        """Updates all parameters with the two learning rates."""
        for group in self._adam.param_groups:
            group["lr"] = adam_rate
        if self._muon is not None:
            self._muon.step(muon_rate)
        self._adam.step()

    def state(self) -> dict[str, Any]:
        """Returns the state that a resumed run needs."""
        return {"adam": self._adam.state_dict(), "muon": self._muon.state() if self._muon else []}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the saved state."""
        self._adam.load_state_dict(state["adam"])
        if self._muon is not None:
            self._muon.restore(state["muon"])
