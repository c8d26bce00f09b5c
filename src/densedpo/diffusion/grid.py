"""Noise-level grids: the family's own shifted steps, and the part of them that a guided start runs through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def shift_level(level: float, shift: float) -> float:
    """Return shift * t / (1 + (shift - 1) t): moves a level towards noise for shift > 1 (SD3, eq. 23)."""
    return shift * level / (1 + (shift - 1) * level)


def shifted_grid(steps: int, shift: float, train_steps: int = 1000) -> list[float]:
    """Return ``steps + 1`` noise levels from 1 down to 0, as diffusers' flow-matching Euler scheduler builds them.

    That scheduler spaces its points evenly between the *shifted* largest and smallest training level and then shifts
    them once more; we do the same in float32, because equality with the family's pipeline is promised.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    smallest = np.float32(1) / np.float32(train_steps)
    smallest = np.float32(shift) * smallest / (1 + (np.float32(shift) - 1) * smallest)
    even = np.linspace(float(train_steps), float(smallest) * train_steps, steps) / train_steps
    levels = (shift * even / (1 + (shift - 1) * even)).astype(np.float32)
    return [*(float(level) for level in levels), 0.0]


def even_grid(steps: int, shift: float, terminal: float | None = None) -> list[float]:
    """Return ``steps + 1`` noise levels from 1 down to 0: even steps, shifted once, in float32.

    Args:
        steps: number of sampler steps.
        shift: of the levels; a dynamic shift by mu is exp(mu).
        terminal: the last level above 0, which the levels are stretched to end at; None leaves them as they are.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    even = np.linspace(1.0, 1 / steps, steps).astype(np.float32)
    levels = shift / (shift + (1 / even - 1))
    if terminal is not None and steps > 1:
        rest = 1 - levels
        levels = 1 - rest / (rest[-1] / (1 - terminal))
    return [*(float(level) for level in levels.astype(np.float32)), 0.0]


def linear_quadratic_grid(steps: int, shift: float, linear_end: float = 0.025) -> list[float]:
    """Return ``steps + 1`` noise levels from 1 down to 0: an even first half, a second half of growing steps.

    The share of data 1 - t rises evenly from 0 to ``linear_end`` over the first half of the steps, and from there to 1
    as a quadratic that goes on with the same slope.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    half = steps // 2
    if half == 0:
        return [1.0, 0.0]
    slope, left = linear_end / half, steps - half
    curve = (1 - linear_end - slope * left) / left**2
    data = [slope * i + (curve * (i - half) ** 2 if i > half else 0.0) for i in range(steps)]
    return [*(float(np.float32(shift_level(1 - share, shift))) for share in data), 0.0]


def grid_from(levels: Sequence[float], eta: float) -> list[float]:
    """Return the levels that a start at noise level ``eta`` runs through: exactly ``eta``, then the grid below it.

    The grid point nearest to ``eta`` is replaced by ``eta`` itself, so no needless tiny step is made and eta = 1 gives
    the whole grid. ``levels`` falls to 0, 0 included, from 1 or from a little less: a family whose sampler takes pure
    noise for that. An ``eta`` above starts there as well.
    """
    if not 0 < eta <= 1:
        raise ValueError(f"eta must lie in (0, 1], got {eta}")
    nearest = min(range(len(levels) - 1), key=lambda index: abs(levels[index] - eta))
    return [min(eta, levels[0]), *levels[nearest + 1 :]]
