"""The leash: automatic beta, and how a beta is spoken of.

z = -0.5 beta sign(l) (d_a - d_b) is proportional to beta, so a median |z| measured at one beta says which beta would
have given another. Where |z| is far below 1 the logistic is a straight line and pairs are not told apart; far above 4
it is flat and nothing is learned from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from densedpo.config import TrainSettings

START = 500.0  # the paper's, for mean squared errors
_REACH = 10.0  # beta auto stays within this factor of the start
_FEWEST = 5  # measurements


class AutoBeta:
    """The beta of each step: the setting's, or for ``auto`` one chosen once, when the warm-up is over.

    beta = start x target / median |z|, over the second half of the warm-up, within a factor of 10 of the start. A
    function of the logged rows alone, so that a resumed run replays them and goes on with the same beta.
    """

    def __init__(self, settings: TrainSettings) -> None:
        """Start with the setting's beta, or 500 for ``auto``."""
        self.value = START if settings.beta == "auto" else float(settings.beta)
        self._target = settings.beta_target_z if settings.beta == "auto" else None
        self._end = max(settings.warmup_steps, 2 * _FEWEST)
        self._seen: list[tuple[float, float]] = []
        self._told = False

    def watch(self, row: Mapping[str, float]) -> str | None:
        """Take in one logged row; when the warm-up is over return a line to tell: the strength of beta as measured."""
        if self._told or "z_median_abs" not in row:
            return None
        if row["step"] > self._end / 2:
            self._seen.append((row["z_median_abs"], row["z_saturated_share"]))
        if row["step"] < self._end or len(self._seen) < _FEWEST:
            return None
        self._told = True
        middle, saturated = median(z for z, _ in self._seen), median(share for _, share in self._seen)
        found = (
            f"after {row['step']:g} steps: median |z| {middle:.3g}, {saturated:.0%} saturated, {describe(self.value)}"
        )
        if self._target is None or middle == 0:
            return found
        self.value = START * min(max(self._target / middle, 1 / _REACH), _REACH)
        return f"{found}; from here on {describe(self.value)}, which aims at a median |z| of {self._target:g}"


def describe(beta: float, latent_shape: tuple[int, ...] | None = None) -> str:
    """Return a beta in words: for mean errors and, given (C, F, H, W), what it would be for summed ones."""
    words = f"beta {beta:g} for mean squared errors"
    if latent_shape is None:
        return words
    channels, _, height, width = latent_shape
    return f"{words} (= {beta / (2 * math.prod((channels, height, width))):.3g} for Eq. 4's sums over a latent frame)"
