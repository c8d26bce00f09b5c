"""Laws of the noise level that a training step is taken at, as quantile functions.

A law is given by its quantiles, so that draws can be stratified and cut off at a level without rejection.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Protocol, runtime_checkable

from densedpo.diffusion.grid import shift_level

_NORMAL = NormalDist()
_EDGE = 1e-9  # keeps a share off 0 and 1, where the quantile is infinite


@runtime_checkable
class LevelLaw(Protocol):
    """A distribution of noise levels in [0, 1]."""

    def level(self, share: float, shift: float) -> float:
        """Return the level below which ``share`` in [0, 1] of all draws lie."""

    def share_below(self, level: float, shift: float) -> float:
        """Return the share of draws below a level: the inverse of ``level``."""


class LogitNormal:
    """t = sigmoid(n), n ~ N(0, 1), as in Stable Diffusion 3, moved towards noise: s t / (1 + (s - 1) t)."""

    def level(self, share: float, shift: float) -> float:
        """Return the quantile at ``share``."""
        quantile = _NORMAL.inv_cdf(min(max(share, _EDGE), 1 - _EDGE))
        return shift_level(1 / (1 + math.exp(-quantile)), shift)

    def share_below(self, level: float, shift: float) -> float:
        """Return the share below ``level``."""
        plain = shift_level(level, 1 / shift)
        return 1.0 if plain >= 1 else _NORMAL.cdf(math.log(plain / (1 - plain)))


LOGIT_NORMAL = LogitNormal()


class Below:
    """Another law, cut off at a level: what one of several denoisers is trained at."""

    def __init__(self, law: LevelLaw, limit: float) -> None:
        """Cut ``law`` off below ``limit``."""
        self._law, self._limit = law, limit * (1 - 1e-6)  # below it also once it is rounded to float32

    def level(self, share: float, shift: float) -> float:
        """Return the quantile at ``share``."""
        return min(self._law.level(share * self._law.share_below(self._limit, shift), shift), self._limit)

    def share_below(self, level: float, shift: float) -> float:
        """Return the share below ``level``."""
        return min(1.0, self._law.share_below(level, shift) / self._law.share_below(self._limit, shift))


class Shifted:
    """Another law, moved towards noise by a factor of its own beside the shift that it is asked with."""

    def __init__(self, law: LevelLaw, factor: float) -> None:
        """Shift ``law`` by ``factor`` more."""
        self._law, self._factor = law, factor

    def level(self, share: float, shift: float) -> float:
        """Return the quantile at ``share``."""
        return self._law.level(share, shift * self._factor)

    def share_below(self, level: float, shift: float) -> float:
        """Return the share below ``level``."""
        return self._law.share_below(level, shift * self._factor)
