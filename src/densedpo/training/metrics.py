"""Metrics of one step, gathered over its parts and over the processes."""

from __future__ import annotations

from collections.abc import Mapping

from densedpo.training.loss import LossOutput
from densedpo.training.parallel import Parallel

_COUNT = "non_tie_frames"


class StepMetrics:
    """The summed loss, and the mean of each metric weighted by its part's decided frames."""

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[str, float] = {"loss": 0.0}

    def add(self, output: LossOutput) -> None:
        """Add one part; losses were divided by the global batch's weights, so they add up."""
        self._add("loss", float(output.loss.detach()))
        weight = float(output.metrics.get(_COUNT, 1.0))
        self._add("weight", weight)
        for name, value in output.metrics.items():
            self._add(name, float(value) * (1.0 if name == _COUNT else weight))

    def mean(self, parallel: Parallel) -> dict[str, float]:
        """Return the step's metrics, the same on every process; a process without any part adds nothing."""
        sums: Mapping[str, float] = parallel.sum_by_name(self._sums)
        weight = sums.get("weight", 0.0)
        whole = {name: value for name, value in sums.items() if name in {"loss", _COUNT}}
        rest = {n: v / weight for n, v in sums.items() if n not in {*whole, "weight"}} if weight else {}
        return whole | rest

    def _add(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value
