"""Intervals: never narrower than the data allow."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_mixed_shares_are_the_bootstrap() -> None:
    values, clusters = [1.0, 0.0, 1.0, 1.0], ["a", "b", "c", "d"]
    assert cluster_bootstrap(values, clusters, shares=True) == cluster_bootstrap(values, clusters)


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
