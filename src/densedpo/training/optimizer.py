"""What moves the weights: the optimizer, its learning rate step by step, and a moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from densedpo.config import TrainSettings
from densedpo.errors import ConfigError

_BETAS = (0.9, 0.999)
_PARTS = ("codes", "scale", "qmap")  # of a moment in 8 bits: a byte a number, a scale a block, what bytes stand for


def make_optimizer(parameters: Sequence[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """Return AdamW over ``parameters``: plain, in fused kernels, or with 8-bit moments (torchao, compiled).

    Raises:
        ConfigError: if 8-bit moments are asked for and torchao is not installed.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optim == "adamw_8bit":
        try:
            from torchao.optim import AdamW8bit
        except ImportError:
            raise ConfigError(
                "optim: adamw_8bit needs the package torchao; `pip install densedpo[torchao]`, or use adamw_fused"
            ) from None
        eight_bit: torch.optim.Optimizer = AdamW8bit(parameters, lr=rate, betas=_BETAS, weight_decay=decay)
        return eight_bit
    fused = settings.optim == "adamw_fused"
    return torch.optim.AdamW(parameters, lr=rate, betas=_BETAS, weight_decay=decay, fused=fused)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Return the rate at ``step``: linear warm-up from 0, then constant or linear down to 0 at the end."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.lr_schedule == "constant":
        return settings.learning_rate * warm
    left = (settings.max_steps - step) / max(1, settings.max_steps - settings.warmup_steps)
    return settings.learning_rate * min(warm, left)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, in place where the optimizer keeps it as a tensor (compiled steps do)."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def moment_parts(moment: Tensor) -> dict[str, Tensor]:
    """Return what a checkpoint stores of one tensor of an optimizer's state: itself, or the parts of an 8-bit one."""
    if not hasattr(moment, _PARTS[0]):
        return {"": moment}
    return {part: getattr(moment, part) for part in _PARTS}


def join_moment(parts: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor whose ``moment_parts`` these are, bit for bit."""
    if "" in parts:
        return parts[""]
    from torchao.optim.subclass_8bit import OptimState8bit

    signed = bool(parts["qmap"].min() < 0)
    joined: Tensor = OptimState8bit(*(parts[part] for part in _PARTS), signed, torch.float32)
    return joined


class Ema:
    """Moving average of the trained weights, in float32.

    After n updates it is sum_i d^(n-i) w_i / sum_i d^(n-i) over the weights w_1 … w_n, d being the decay: unbiased from
    the first update on.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        """Start at the weights as they are."""
        self._parameters, self._decay, self._updates = list(parameters), decay, 0
        self._average = [parameter.detach().float().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now: to be called after each optimizer step."""
        self._updates += 1
        share = (1 - self._decay) / (1 - self._decay**self._updates)
        torch._foreach_lerp_(self._average, [parameter.detach().float() for parameter in self._parameters], share)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Run the block with the averaged weights in place of the trained ones, which come back even if it fails."""
        trained = [parameter.detach().clone() for parameter in self._parameters]
        self._write(self._average)
        try:
            yield
        finally:
            self._write(trained)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint, by flat names; the averages come in the order of the parameters."""
        averages = {f"ema.{index}": average for index, average in enumerate(self._average)}
        return {**averages, "ema.updates": torch.tensor(self._updates)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``tensors`` returned."""
        self._updates = int(tensors["ema.updates"])
        for index, average in enumerate(self._average):
            average.copy_(tensors[f"ema.{index}"])

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
