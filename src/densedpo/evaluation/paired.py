"""Scores of several models on the same prompts and seeds, and their intervals: all from the same drawn prompts.

rows of scores.parquet -> Table (sums by model, prompt and score) -> Bootstrap -> intervals. Seeds, and raters where
there are any, lie inside a prompt and travel with it: prompts are what was drawn independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from densedpo.intervals import Z_95, Interval, drawn_clusters, widening
from densedpo.store.tables import Row

Floats = NDArray[np.float64]
Estimates = dict[str, dict[str, Interval | None]]  # by model and score
BASE = "base"
DRAWS = 2000


@dataclass(frozen=True)
class Table:
    """Sums over the seeds of each prompt; every model has the same prompts and seeds.

    Attributes:
        models: M names, the base first.
        prompts: P prompt ids.
        names: S names of scores.
        sums: [M, P, S] sum of a score over a prompt's seeds.
        seeds: [P] number of seeds of a prompt.
    """

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    names: tuple[str, ...]
    sums: Floats
    seeds: Floats

    @property
    def means(self) -> Floats:
        """[M, P, S] mean of a score over a prompt's seeds."""
        means: Floats = self.sums / self.seeds[None, :, None]
        return means

    def of(self, model: str, name: str) -> Floats:
        """Return [P] sums of one model and score."""
        column: Floats = self.sums[self.models.index(model), :, self.names.index(name)]
        return column


def plain(found: Mapping[str, Interval | None]) -> dict[str, dict[str, float | int] | None]:
    """Return intervals by name as plain values for JSON; null where there is none."""
    return {name: None if interval is None else interval.as_dict() for name, interval in found.items()}


def table_of(rows: Sequence[Row], models: Sequence[str], names: Sequence[str]) -> Table:
    """Arrange rows (``model``, ``prompt_id``, ``seed``, one number a score) of models on the same prompts and seeds."""
    # sorted, so that equal numbers give equal sums whatever order they came in
    by_model = {
        model: sorted((row for row in rows if row["model"] == model), key=lambda row: (row["prompt_id"], row["seed"]))
        for model in models
    }
    samples = [(row["prompt_id"], row["seed"]) for row in by_model[models[0]]]
    for model, own in by_model.items():
        assert [(row["prompt_id"], row["seed"]) for row in own] == samples, model
    prompts, index = np.unique([prompt for prompt, _ in samples], return_inverse=True)
    values = np.array([[[row[name] for name in names] for row in own] for own in by_model.values()], dtype=np.float64)
    assert np.isfinite(values).all()
    sums = np.zeros((len(models), len(prompts), len(names)))
    for place, prompt in enumerate(index):
        sums[:, prompt] += values[:, place].reshape(len(models), len(names))
    seeds = np.bincount(index, minlength=len(prompts)).astype(np.float64)
    return Table(tuple(models), tuple(str(prompt) for prompt in prompts), tuple(names), sums, seeds)


class Bootstrap:
    """The drawn prompts of one evaluation; with fewer than two prompts nothing has an interval."""

    def __init__(self, prompts: int, *, draws: int = DRAWS, seed: str = "evaluation") -> None:
        """Draw ``prompts`` prompts ``draws`` times; equal arguments give equal draws."""
        self.count = prompts
        self.weights = drawn_clusters(prompts, draws=draws, seed=seed) if prompts > 1 else np.zeros((0, prompts))
        self.factor = widening(prompts) if prompts > 1 else 1.0

    def ratios(self, top: Floats, bottom: Floats) -> Floats:
        """Return [draws] sum(top) / sum(bottom) over the drawn prompts; draws whose bottom is 0 are left out."""
        above, below = self.weights @ top, self.weights @ bottom
        drawn: Floats = above[below != 0] / below[below != 0]
        return drawn

    def interval(self, top: Floats, bottom: Floats) -> Interval | None:
        """Return sum(top) / sum(bottom) with its interval, for [P] numbers a prompt.

        For a mean, ``bottom`` is the number of seeds. None with fewer than two prompts, or where the bottom's sum is
        zero or has not the same sign in all draws, so that the ratio is unbounded.
        """
        drawn = self.weights @ bottom
        if self.count < 2 or bottom.sum() == 0 or drawn.min() < 0 < drawn.max():
            return None
        estimate = float(top.sum() / bottom.sum())
        error = float(np.linalg.norm((top - estimate * bottom) / bottom.sum()))
        return self.around(estimate, self.ratios(top, bottom), error)

    def ratio(self, model: Floats, base: Floats) -> Interval | None:
        """Return sum(model) / sum(base) with its interval; None where the base's are all zero or one is negative.

        Where no number is negative the interval does not go below 0.
        """
        found = self.interval(model, base) if base.min() >= 0 else None
        return replace(found, low=max(0.0, found.low)) if found and model.min() >= 0 else found

    def around(self, estimate: float, drawn: Floats, error: float | None = None) -> Interval:
        """Return an estimate with the interval of its draws.

        The percentiles of the draws, or estimate +- 1.96 standard errors, whichever reaches further on its side; both
        times ``widening`` for few prompts. Percentiles alone lean the wrong way where a few prompts stand out.

        Args:
            estimate: from all prompts.
            drawn: [draws] the same number from the drawn prompts.
            error: its standard error, without the correction for few prompts; by default that of the draws.
        """
        half = Z_95 * (float(drawn.std()) if error is None else error)
        low, high = np.quantile(drawn, [0.025, 0.975]) - estimate
        reach = self.factor * min(float(low), -half), self.factor * max(float(high), half)
        return Interval(estimate, estimate + reach[0], estimate + reach[1], self.count)


def scores_of(table: Table, bootstrap: Bootstrap) -> Estimates:
    """Return the mean of every model and score."""
    return {
        model: {name: bootstrap.interval(table.of(model, name), table.seeds) for name in table.names}
        for model in table.models
    }


def differences_of(table: Table, bootstrap: Bootstrap) -> Estimates:
    """Return model minus base in every score, paired."""
    base = table.models[0]
    return {
        model: {
            name: bootstrap.interval(table.of(model, name) - table.of(base, name), table.seeds) for name in table.names
        }
        for model in table.models[1:]
    }


def ratios_of(table: Table, bootstrap: Bootstrap) -> Estimates:
    """Return sum(model) / sum(base) in every score."""
    base = table.models[0]
    return {
        model: {name: bootstrap.ratio(table.of(model, name), table.of(base, name)) for name in table.names}
        for model in table.models[1:]
    }
