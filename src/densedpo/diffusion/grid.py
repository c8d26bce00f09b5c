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


def grid_from(levels: Sequence[float], eta: float) -> list[float]:
    """Return the levels that a start at noise level ``eta`` runs through: exactly ``eta``, then the grid below it.

    The grid point nearest to ``eta`` is replaced by ``eta`` itself, so no needless tiny step is made and eta = 1 gives
    the whole grid. ``levels`` falls from 1 to 0, 0 included.
    """
    if not 0 < eta <= 1:
        raise ValueError(f"eta must lie in (0, 1], got {eta}")
    nearest = min(range(len(levels) - 1), key=lambda index: abs(levels[index] - eta))
    return [eta, *levels[nearest + 1 :]]
