"""Variance-preserving diffusion with v-prediction on the flow families' scale of noise levels.

x_t = alpha x + sigma e with alpha^2 + sigma^2 = 1. Its level is t = sigma / (alpha + sigma): the share of noise that a
rectified flow of the same signal-to-noise ratio would have, so that a noise level means the same in every family. Hence
(alpha, sigma) = (1 - t, t) / sqrt((1 - t)^2 + t^2). Such models were trained at whole timesteps; a table of cumulated
alphas says which level each timestep is.

Shape letters: B batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from densedpo.diffusion.flow import per_item
from densedpo.errors import ConfigError

SNAP = 0.01  # timesteps: a level this close to a whole one is that one, as levels pass through float32


def alpha_sigma(t: Float[Tensor, "*dims"]) -> tuple[Float[Tensor, "*dims"], Float[Tensor, "*dims"]]:
    """Return the factors of data and of noise at levels ``t`` in [0, 1], in float64."""
    level = t.double()
    length = ((1 - level).square() + level.square()).sqrt()
    return (1 - level) / length, level / length


def add_noise(
    clean: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
) -> Float[Tensor, "b ..."]:
    """Return x_t = alpha x + sigma e."""
    alpha, sigma = _factors(t, clean)
    return alpha * clean + sigma * noise


def v_target(
    clean: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
) -> Float[Tensor, "b ..."]:
    """Return v = alpha e - sigma x, what the denoiser is trained to return (arXiv 2202.00512, appendix D)."""
    alpha, sigma = _factors(t, clean)
    return alpha * noise - sigma * clean


def ddim_step(
    sample: Float[Tensor, "b ..."],
    prediction: Float[Tensor, "b ..."],
    t: Float[Tensor, " b"],
    next_t: Float[Tensor, " b"],
) -> Float[Tensor, "b ..."]:
    """Return x at levels ``next_t``, one deterministic DDIM step from levels ``t`` (arXiv 2010.02502, eq. 12).

    With x = alpha x_t - sigma v and e = sigma x_t + alpha v this is a rotation, alpha' x + sigma' e; nothing is divided
    by alpha, which is 0 at level 1.
    """
    alpha, sigma = _factors(t, sample)
    next_alpha, next_sigma = _factors(next_t, sample)
    clean = alpha * sample - sigma * prediction
    noise = sigma * sample + alpha * prediction
    return next_alpha * clean + next_sigma * noise


class TimestepTable:
    """The noise levels of a model's whole timesteps, rising from timestep 0 on.

    Args:
        alphas_cumprod: alpha^2 of each timestep, falling, in [0, 1].

    Raises:
        ValueError: if the levels do not rise.
    """

    def __init__(self, alphas_cumprod: Sequence[float]) -> None:
        squares = torch.tensor(alphas_cumprod, dtype=torch.float64)
        alpha, sigma = squares.sqrt(), (1 - squares).sqrt()
        self._levels = sigma / (alpha + sigma)
        self.levels: list[float] = self._levels.tolist()
        if not bool((self._levels.diff() > 0).all()):
            raise ValueError("a model's noise levels must rise with the timestep")

    def timestep(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the timesteps of levels, whole or between two; a level outside the table gets its nearest end."""
        self._levels = self._levels.to(t.device)  # stays there: a copy at every step would make the device wait
        levels, wanted = self._levels, t.double()
        above = torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1)
        low, high = levels[above - 1], levels[above]
        exact = above - 1 + ((wanted - low) / (high - low)).clamp(0, 1)
        whole = exact.round()
        return torch.where((exact - whole).abs() <= SNAP, whole, exact).float()


class EvenTimesteps:
    """The law of training levels (``LevelLaw``) that draws every whole timestep equally often."""

    def __init__(self, levels: Sequence[float]) -> None:
        """Keep the levels of the timesteps, rising."""
        self._levels = list(levels)

    def level(self, share: float, shift: float) -> float:
        """Return the level that ``share`` of all draws lie at or below: always one of the table's.

        Raises:
            ConfigError: if ``shift`` is not 1.
        """
        refuse_shift(shift)
        return self._levels[min(int(share * len(self._levels)), len(self._levels) - 1)]

    def share_below(self, level: float, shift: float) -> float:
        """Return the share of draws at or below a level.

        Raises:
            ConfigError: if ``shift`` is not 1.
        """
        refuse_shift(shift)
        return bisect_right(self._levels, level) / len(self._levels)


def refuse_shift(shift: float) -> None:
    """Refuse any shift but 1: these models' levels are those of their timesteps, which no shift moves.

    Raises:
        ConfigError: if it is not 1.
    """
    if shift != 1:
        raise ConfigError(f"shift: {shift:g} means nothing to a model of fixed timesteps; leave shift and t_shift out")


def _factors(t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = alpha_sigma(t)
    return per_item(alpha, like).to(like.dtype), per_item(sigma, like).to(like.dtype)
