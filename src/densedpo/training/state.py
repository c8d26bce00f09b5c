"""Everything that training changes, as named tensors: weights, the optimizer's moments, their moving average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from densedpo.training.checkpoint import optimizer_tensors, restore_optimizer
from densedpo.training.optimizer import Ema
from densedpo.training.parallel import Parallel


@dataclass(frozen=True)
class TrainedState:
    """The trained weights by name, in the order that the optimizer and the average have them."""

    named: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: Ema | None

    def tensors(self) -> dict[str, Tensor]:
        """Return the state; tensors may be cut up over the processes."""
        weights: dict[str, Tensor] = {f"weights.{name}": weight for name, weight in self.named.items()}
        return weights | optimizer_tensors(self.optimizer) | (self.ema.tensors() if self.ema else {})

    @torch.no_grad()
    def restore(self, whole: Mapping[str, Tensor], parallel: Parallel) -> None:
        """Put back what ``tensors`` returned, from whole tensors, whatever number of processes wrote them."""
        parameters = list(self.named.values())
        for name, weight in self.named.items():
            weight.copy_(parallel.cut_like(whole[f"weights.{name}"], weight))
        moments = {
            name: parallel.cut_like(tensor, parameters[int(name.split(".")[1])])
            for name, tensor in whole.items()
            if name.startswith("optimizer.")
        }
        restore_optimizer(self.optimizer, moments)
        if self.ema:
            likes = self.ema.tensors()
            self.ema.restore({name: parallel.cut_like(whole[name], like) for name, like in likes.items()})
