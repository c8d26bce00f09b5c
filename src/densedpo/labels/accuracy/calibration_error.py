"""Does a judge that says 0.8 turn out right eight times in ten? The reliability table and the calibration error.

Pure functions of (stated probability, right or wrong, pair). Bins hold equal counts, equal probabilities stay in one
bin; the interval draws whole pairs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densedpo.keys import stream
from densedpo.labels.reliability import Estimate, absent, resampled, share

BINS = 10
_DRAWS = 200
_COUNT, _STATED, _RIGHT = 0, 1, 2


def calibration(stated: Sequence[float], right: Sequence[bool], pairs: Sequence[str]) -> dict[str, Any]:
    """Return the expected calibration error, what chance alone would make of it, and the reliability table, for JSON.

    ece = sum over bins of n_b / n |mean stated - share right| (Naeini et al., AAAI 2015, with bins of equal counts).
    It is above 0 even for a perfect judge, since shares scatter: ``ece_by_chance`` is its mean were every answer right
    with just the stated probability, and only what exceeds it says something.

    Args:
        stated: [N] probabilities of being right.
        right: [N] whether they were.
        pairs: [N] the pair of each.
    """
    values, hits = np.asarray(stated, dtype=np.float64), np.asarray(right, dtype=np.float64)
    bins = equal_count_bins(values, BINS)
    rows = []
    for number in range(int(bins.max(initial=-1)) + 1):
        inside = np.flatnonzero(bins == number).tolist()
        found = share([bool(hits[i]) for i in inside], [pairs[i] for i in inside], "answers in this bin")
        rows.append({"low": float(values[inside].min()), "high": float(values[inside].max()),
                     "stated": float(values[inside].mean()), "right": found.as_dict()})  # fmt: skip
    return {
        "ece": _ece(values, hits, bins, pairs).as_dict(),
        "ece_by_chance": _by_chance(values, bins),
        "reliability": rows,
    }


def equal_count_bins(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the bin of each value, from 0 and in order: about equal counts, no value in two bins, none empty."""
    inner = np.quantile(values, np.arange(1, count) / count) if len(values) else values
    _, bins = np.unique(np.searchsorted(np.unique(inner), values, side="left"), return_inverse=True)
    return np.asarray(bins, dtype=np.int64)


def _ece(
    values: NDArray[np.float64], hits: NDArray[np.float64], bins: NDArray[np.int64], pairs: Sequence[str]
) -> Estimate:
    if not len(values):
        return absent("there are no answers with a confidence")
    _, cluster = np.unique(np.asarray(pairs), return_inverse=True)
    tables: NDArray[np.float64] = np.zeros((int(cluster.max()) + 1, int(bins.max()) + 1, 3))
    np.add.at(tables, (cluster, bins), np.stack([np.ones_like(values), values, hits], axis=1))
    return resampled(list(tables), len(values), _ece_of, "there are no answers")


def _ece_of(table: NDArray[np.float64]) -> float | None:
    total = table[:, _COUNT].sum()
    return float(np.abs(table[:, _STATED] - table[:, _RIGHT]).sum() / total) if total else None


def _by_chance(values: NDArray[np.float64], bins: NDArray[np.int64]) -> float | None:
    if not len(values):
        return None
    drawn = stream("calibration", "chance", len(values)).uniform(size=(_DRAWS, len(values))) < values
    gaps: NDArray[np.float64] = np.zeros((int(bins.max()) + 1, _DRAWS))
    np.add.at(gaps, bins, (drawn - values).T)
    return float(np.abs(gaps).sum(axis=0).mean() / len(values))
