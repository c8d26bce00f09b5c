"""How accurate labels become as people replace a judge's: the curve over the number of answers, and its uncertainty.

Where people have answered, a monotone map from belief to being right is fitted; the rest is arithmetic on it. Intervals
draw the pairs that were fitted on again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densedpo.keys import stream
from densedpo.labels.accuracy.calibration import Curve
from densedpo.labels.accuracy.fit import monotone

_DRAWS = 200
_STEPS = 2001
_POINTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """Segments with a judge's label that people answered too: belief [K], whether it was right [K], pair number [K]."""

    belief: Floats
    right: NDArray[np.bool_]
    pairs: NDArray[np.int64]

    def curves(self, seed: str) -> list[Curve]:
        """Return the fitted map from belief to being right, then those of draws of whole pairs."""
        rows = [np.flatnonzero(self.pairs == pair) for pair in range(int(self.pairs.max(initial=-1)) + 1)]
        rng = stream("plan", "bootstrap", seed, len(rows))
        drawn = [np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for _ in range(_DRAWS)]
        return [monotone(self.belief[chosen], self.right[chosen].astype(np.float64))
                for chosen in (np.arange(len(self.belief)), *drawn)]  # fmt: skip


@dataclass(frozen=True)
class Outlook:
    """What is expected of labels while people answer.

    Attributes:
        belief: [N] in the judge's labels that people have not looked at, -1 where it gave none (which is wrong).
        labelled: how many segments people have answered already.
        people_right: the probability that a person's answer is right.
        curves: from belief to being right, the fitted one first.
    """

    belief: Floats
    labelled: int
    people_right: float
    curves: Sequence[Curve]

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Numbers of answers n at which accuracies are given, from 0 to N: [S]."""
        return np.unique(np.linspace(0, len(self.belief), _STEPS).round().astype(np.int64))

    def accuracies(self, order: NDArray[np.int64] | None) -> Floats:
        """Return the accuracy after n answers, for n in ``steps``, by each curve: [curves, S].

        ((labelled + n) h + sum over the other labels of their probability of being right) / (labelled + N)

        Args:
            order: [N], which segments people answer first; None for no order.
        """
        count = len(self.belief)
        answered = (self.labelled + self.steps) * self.people_right
        found = []
        for curve in self.curves:
            right = np.where(self.belief >= 0, curve.at(self.belief), 0.0)
            if order is None:
                left = right.sum() * (1 - self.steps / max(1, count))
            else:
                left = right.sum() - np.concatenate([[0.0], np.cumsum(right[order])])[self.steps]
            found.append((answered + left) / max(1, self.labelled + count))
        return np.asarray(found)


def points(found: Floats, steps: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return accuracies [curves, S] at a few numbers of answers: the fitted one and its 95 % interval."""
    places = sorted({int(np.argmin(abs(steps - share * steps[-1]))) for share in _POINTS})
    return [{"answers": int(steps[place]), **_interval(found[:, place])} for place in places]


def needed(found: Floats, steps: NDArray[np.int64], wanted: float) -> dict[str, Any]:
    """Return the least number of answers with an accuracy of ``wanted`` or more; a bound is None where it is open."""
    reached = [int(steps[np.argmax(row >= wanted)]) if (row >= wanted).any() else None for row in found]
    if reached[0] is None:
        why = f"because labels would be right in {found[0].max():.3f} at most"
        return {"value": None, "low": None, "high": None, "undefined": why}
    counts = np.array([np.inf if n is None else n for n in reached[1:]])
    low, high = np.quantile(counts, [0.025, 0.975], method="inverted_cdf") if len(counts) else (np.inf, np.inf)
    bounds = [int(bound) if np.isfinite(bound) else None for bound in (low, high)]
    return {"value": reached[0], "low": bounds[0], "high": bounds[1], "undefined": None}


def _interval(values: Floats) -> dict[str, float | None]:
    if len(values) < 2:
        return {"value": float(values[0]), "low": None, "high": None}
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
