"""Families of rectified flow: the noise level is the share of noise, the denoiser predicts the velocity e - x."""

from __future__ import annotations

from torch import Tensor

from densedpo.diffusion.flow import euler_step, interpolate, velocity
from densedpo.models.base import VideoModel


class FlowModel(VideoModel):
    """What Wan, LTX-Video and HunyuanVideo have in common; sampling is by Euler steps."""

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return (1 - t) x + t e."""
        return interpolate(clean, noise, t)

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return e - x, the same at every level."""
        return velocity(clean, noise)

    def step(self, sample: Tensor, prediction: Tensor, t: Tensor, next_t: Tensor) -> Tensor:
        """Return the sample one Euler step further."""
        return euler_step(sample, prediction, t, next_t)
