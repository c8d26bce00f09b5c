"""Chance-corrected agreement with intervals: pure functions of counts, no I/O.

Krippendorff's alpha (nominal and ordinal) and Cohen's kappa, each from one table of counts that is a sum over clusters.
The interval draws whole clusters (pairs) again, since the segments of a pair are no independent witnesses. A number
that does not exist comes with the reason, never as 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from densedpo.intervals import Z_95, Interval, cluster_bootstrap
from densedpo.keys import stream

Level = Literal["nominal", "ordinal"]
Table = NDArray[np.float64]
_DRAWS = 1000
_MANY = 5000
_AT_ONCE = 50


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over ``n`` units, or the reason why there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    undefined: str | None = None

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Return plain values for JSON."""
        return dict(vars(self))


def absent(reason: str, n: int = 0) -> Estimate:
    """Return an estimate that does not exist."""
    return Estimate(None, None, None, n, f"because {reason}")


def share(hits: Sequence[bool], clusters: Sequence[str], what: str) -> Estimate:
    """Return the share of hits; ``what`` names the things counted, for where there are none."""
    if not hits:
        return absent(f"there are no {what}")
    found = _linear(hits, clusters) or cluster_bootstrap([float(hit) for hit in hits], clusters, seed=what, shares=True)
    if found is None:
        value = sum(hits) / len(hits)
        return Estimate(value, None, None, len(hits), f"interval: because all {what} are about one pair")
    return _estimate(found, len(hits))


def _linear(hits: Sequence[bool], clusters: Sequence[str]) -> Interval | None:
    """Return the share with the normal interval of a ratio of cluster sums; None for few clusters or only one value.

    se^2 = G / (G - 1) sum over clusters of (hits - share x count)^2 / n^2. With thousands of clusters it is what the
    bootstrap would say, in a thousandth of the time and memory.
    """
    if len(hits) <= _MANY or all(hits) or not any(hits):
        return None
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    right, count = np.bincount(index, weights=np.asarray(hits, dtype=np.float64)), np.bincount(index)
    if len(count) <= _MANY:
        return None
    mean = float(right.sum() / count.sum())
    spread = np.square(right - mean * count).sum() * len(count) / (len(count) - 1)
    reach = Z_95 * float(np.sqrt(spread)) / len(hits)
    return Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach), len(count))


def median(values: Sequence[float], what: str) -> Estimate:
    """Return the median, with the interval between order statistics (the binomial one, by its normal approximation)."""
    if not values:
        return absent(f"there are no {what}")
    ordered, count = sorted(values), len(values)
    reach = 0.98 * np.sqrt(count)
    low, high = max(0, int(np.floor(count / 2 - reach))), min(count - 1, int(np.ceil(count / 2 + reach)))
    return Estimate(float(np.median(ordered)), ordered[low], ordered[high], count)


def krippendorff(units: Mapping[tuple[str, int], Sequence[int]], categories: int, level: Level) -> Estimate:
    """Return Krippendorff's alpha, 1 - D_observed / D_expected, over units that at least two people answered.

    Args:
        units: category numbers, from 0 and in order, given to each (cluster, part) by different people.
        categories: how many categories there are.
        level: ``nominal`` (different is different) or ``ordinal`` (further apart is worse).
    """
    answered = {unit: given for unit, given in units.items() if len(given) > 1}
    if not answered:
        return absent("nothing was answered by two people")
    tables: dict[str, Table] = {}
    for (cluster, _), given in answered.items():
        counts = np.bincount(given, minlength=categories).astype(np.float64)
        pairs = (np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1)
        tables[cluster] = tables.get(cluster, np.zeros((categories, categories))) + pairs
    unanimous = "all answers are the same, so nothing shows whether agreement is more than habit"
    return resampled(list(tables.values()), len(answered), lambda table: alpha_of(table, level), unanimous)


def alpha_of(coincidences: Table, level: Level) -> float | None:
    """Return alpha of a coincidence table [K, K]; None where the expected disagreement is zero.

    Ordinal distance: (sum of n_g from c to k - (n_c + n_k) / 2)^2.
    """
    totals = coincidences.sum(axis=1)
    count = totals.sum()
    if level == "nominal":
        distance = 1.0 - np.eye(len(totals))
    else:
        middle = np.cumsum(totals) - totals / 2
        distance = (middle[:, None] - middle[None, :]) ** 2
    expected = (np.outer(totals, totals) - np.diag(totals)) * distance
    if count <= 1 or expected.sum() <= 0:
        return None
    return float(1 - (count - 1) * (coincidences * distance).sum() / expected.sum())


def cohen(pairs: Sequence[tuple[str, int, int]], categories: int) -> Estimate:
    """Return Cohen's kappa of two who answered the same: (cluster, category by one, category by the other)."""
    if not pairs:
        return absent("they answered nothing in common")
    tables: dict[str, Table] = {}
    for cluster, one, other in pairs:
        tables.setdefault(cluster, np.zeros((categories, categories)))[one, other] += 1
    constant = "both gave one and the same answer throughout"
    return resampled(list(tables.values()), len(pairs), kappa_of, constant)


def kappa_of(confusion: Table) -> float | None:
    """Return kappa, (p_o - p_e) / (1 - p_e), of a confusion table [K, K]; None where p_e is 1."""
    shares = confusion / confusion.sum()
    observed, expected = float(np.trace(shares)), float(shares.sum(axis=1) @ shares.sum(axis=0))
    return None if expected >= 1 - 1e-12 else (observed - expected) / (1 - expected)


def resampled(tables: list[Table], n: int, measure: Callable[[Table], float | None], undefined: str) -> Estimate:
    """Return ``measure`` of the sum of tables (one a cluster), its interval drawing whole clusters again.

    Args:
        tables: sums of one cluster (a pair) each, equal shapes.
        n: the units behind them.
        measure: what is estimated, a function of such a sum; None where it does not exist.
        undefined: why it may not exist.
    """
    value = measure(np.sum(tables, axis=0))
    if value is None:
        return absent(undefined, n)
    if len(tables) < 2:
        return Estimate(value, None, None, n, "interval: because it rests on one pair")
    rng = stream("reliability", "bootstrap", len(tables), n)
    stacked = np.stack(tables)
    shares = np.full(len(tables), 1 / len(tables))
    drawn = []
    for _ in range(_DRAWS // _AT_ONCE):  # all at once would take gigabytes
        chosen = rng.multinomial(len(tables), shares, size=_AT_ONCE)
        drawn += [measure(table) for table in np.tensordot(chosen, stacked, axes=1)]
    known = [draw for draw in drawn if draw is not None]
    if len(known) < 0.95 * _DRAWS:
        return Estimate(value, None, None, n, "interval: because too few pairs hold different answers")
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(value, float(low), float(high), n)


def _estimate(found: Interval, n: int) -> Estimate:
    return Estimate(found.mean, found.low, found.high, n)
