"""Intervals: never narrower than the data allow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit

from densedpo import intervals
from densedpo.intervals import cluster_bootstrap, wilson


def test_one_cluster_has_no_interval() -> None:
    assert cluster_bootstrap([1.0, 2.0, 3.0], ["a", "a", "a"]) is None
    assert cluster_bootstrap([1.0], ["a"], shares=True) is None
    assert cluster_bootstrap([], []) is None


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_shares_are_not_certain(value: float) -> None:
    clusters = ["a", "a", "b", "c", "c", "c"]
    found = cluster_bootstrap([value] * 6, clusters, shares=True)
    assert found == wilson(3 if value else 0, 3)
    assert found is not None and found.high - found.low > 0.4


def test_equal_numbers_that_are_no_shares_keep_their_bootstrap() -> None:
    found = cluster_bootstrap([0.0, 0.0, 0.0], ["a", "b", "c"])
    assert found is not None and (found.low, found.high) == (0, 0)


def test_mixed_shares_are_the_bootstrap_within_0_and_1() -> None:
    values, clusters = [1.0, 0.0, 1.0, 1.0], ["a", "b", "c", "d"]
    found, plain = cluster_bootstrap(values, clusters, shares=True), cluster_bootstrap(values, clusters)
    assert found is not None and plain is not None
    assert plain.low < 0 and plain.high > 1  # three of four: nearly nothing is known
    assert (found.mean, found.low, found.high) == (plain.mean, 0, 1)


@pytest.mark.parametrize("count", [12, 40, 200])
def test_means_of_a_few_clusters_get_students_interval(count: int) -> None:
    values = np.linspace(-1, 1, count)
    found = cluster_bootstrap(values, np.arange(count), draws=20_000)
    assert found is not None
    half = float(stdtrit(count - 1, 0.975)) * values.std(ddof=1) / np.sqrt(count)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_many_clusters_are_drawn_in_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = np.linspace(0, 1, 90), np.arange(90) // 3
    whole = cluster_bootstrap(values, clusters, draws=100)
    monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", 7 * 30)
    assert cluster_bootstrap(values, clusters, draws=100) == whole


def test_negative_denominators() -> None:
    table = np.array([[1.0, 2.0], [2.0, 3.0], [1.0, 1.0], [3.0, 5.0]])
    clusters = [0, 1, 2, 3]
    found, mirrored = cluster_bootstrap(table, clusters), cluster_bootstrap(-table, clusters)
    assert found is not None and found.low < found.mean < found.high
    assert mirrored == found
    # denominators of both signs: the ratio has no bounds
    assert cluster_bootstrap([[1.0, -2.0], [1.0, 1.0], [1.0, 3.0]], [0, 1, 2]) is None
    # draws without a denominator are left out
    assert cluster_bootstrap([[0.0, 0.0], [1.0, 2.0], [1.0, 1.0]], [0, 1, 2]) is not None
