"""Intervals for shares and means: the one home of uncertainty. Pure, seeded, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from densedpo.keys import stream

Z_95 = 1.959964  # 97.5 % of a standard normal lie below
_DRAWN_AT_ONCE = 4_000_000  # numbers: some 100 MB, however many clusters there are


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval and the number of independent units behind it."""

    mean: float
    low: float
    high: float
    count: int

    def as_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "count": self.count}


def wilson(successes: int, trials: int) -> Interval | None:
    """Return the 95 % Wilson score interval of a share; None where there is nothing to count.

    centre = (p + z^2 / 2n) / (1 + z^2 / n), half width = z sqrt(p (1 - p) / n + z^2 / 4 n^2) / (1 + z^2 / n), z = 1.96.
    """
    assert 0 <= successes <= trials
    if trials == 0:
        return None
    share, z = successes / trials, Z_95
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    # rounding may push a bound past the estimate at 0 and 1
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), trials)


def widening(count: int) -> float:
    """Return the factor that brings a percentile bootstrap over ``count`` clusters to Student's t.

    t(0.975, n - 1) / z(0.975) * sqrt(n / (n - 1)), for n >= 2. The plain bootstrap draws from n clusters with variance
    (n - 1) / n s^2 and takes it for known, so that with 12 clusters its 95 % interval covers about 91 %. With the
    factor, symmetric data get exactly t's half width; skewed data keep the skew of their draws.
    """
    assert count >= 2, count
    return float(stdtrit(count - 1, 0.975)) / Z_95 * math.sqrt(count / (count - 1))


def drawn_clusters(count: int, *, draws: int, seed: str) -> NDArray[np.float64]:
    """Return [draws, count]: how often each cluster is in each bootstrap draw; a row sums to ``count``.

    Equal arguments give the same draws, so that all that is computed from one of these is paired.
    """
    chosen = stream("intervals", "bootstrap", seed, count).integers(count, size=(draws, count))
    offsets = np.arange(draws)[:, None] * count
    return np.bincount((chosen + offsets).ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


def cluster_bootstrap(
    values: ArrayLike, clusters: ArrayLike, *, draws: int = 2000, seed: str = "", shares: bool = False
) -> Interval | None:
    """Return the mean of ``values`` with a percentile bootstrap over whole clusters, widened for their number.

    Clusters (prompts, pairs) are what was sampled independently, so they are what is drawn again; seeds, segments and
    raters inside a cluster travel together.

    Args:
        values: [N] numbers, or [N, 2] numerators and denominators for the ratio of sums.
        clusters: [N] cluster of each row, any hashable values numpy can sort.
        draws: bootstrap draws.
        seed: names the random stream, so the same data give the same interval.
        shares: whether ``values`` are hits and misses, 1 and 0. Where all are equal, every draw gives the same mean and
            the bootstrap would claim certainty: then the interval is Wilson's, with one trial a cluster.

    Returns:
        None where there are fewer than two clusters, the denominators sum to zero, or their sum has not the same sign
        in all draws, so that the ratio is unbounded. Bounds of ``shares`` stay within 0 and 1.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 1:
        table = np.stack([table, np.ones_like(table)], axis=1)
    if len(table) == 0 or table[:, 1].sum() == 0:
        return None
    assert np.isfinite(table).all()
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    count = int(index.max()) + 1
    if count < 2:
        return None
    if shares and (first := table[0, 0]) in (0, 1) and (table == (first, 1)).all():
        return wilson(count if first else 0, count)
    sums: NDArray[np.float64] = np.zeros((count, 2))
    np.add.at(sums, index, table)
    rng = stream("intervals", "bootstrap", seed, count)
    at_once = max(1, _DRAWN_AT_ONCE // count)
    parts = [min(at_once, draws - start) for start in range(0, draws, at_once)]
    drawn = np.concatenate([sums[rng.integers(count, size=(part, count))].sum(axis=1) for part in parts])
    drawn = drawn[drawn[:, 1] != 0]
    if len(drawn) == 0 or drawn[:, 1].min() < 0 < drawn[:, 1].max():
        return None
    mean = table[:, 0].sum() / table[:, 1].sum()
    low, high = mean + widening(count) * (np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975]) - mean)
    if shares:
        low, high = max(0.0, low), min(1.0, high)
    return Interval(float(mean), float(low), float(high), count)
