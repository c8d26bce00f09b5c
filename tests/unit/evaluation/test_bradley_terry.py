"""Davidson's model: known strengths come back, and tables without a finite answer are said to be so."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from densedpo.evaluation.bradley_terry import davidson, rank
from densedpo.evaluation.paired import Bootstrap, Floats, Table
from densedpo.keys import stream


def expected(strengths: Floats, nu: float, games: float) -> Floats:
    """Return the expected counts of Davidson's model."""
    rows = []
    for a, b in combinations(np.exp(strengths), 2):
        parts = np.array([a, nu * (a * b) ** 0.5, b])
        rows.append(games * parts / parts.sum())
    return np.array(rows)


def table(values: Floats) -> Table:
    """Return a table of [M, P] scores."""
    models = ("base", *(f"m{k}" for k in range(1, len(values))))
    prompts = tuple(f"p{n}" for n in range(values.shape[1]))
    return Table(models, prompts, ("x",), values[:, :, None], np.ones(values.shape[1]))


def test_known_strengths_come_back() -> None:
    true = np.array([0.0, 0.8, -0.5, 1.5])
    found = davidson(expected(true, 0.7, 1e5))
    assert found is not None
    assert found.values == pytest.approx(true, abs=0.01)
    assert np.exp(found.log_tie) == pytest.approx(0.7, abs=0.01)
    assert not found.separated


def test_all_wins_are_finite_ordered_and_said_to_be_separated() -> None:
    found = davidson(np.array([[20.0, 0, 0], [20.0, 0, 0], [20.0, 0, 0]]))
    assert found is not None and found.separated
    assert np.isfinite(found.values).all()
    assert found.values[0] > found.values[1] > found.values[2]


def test_nine_to_one_is_no_draw() -> None:
    found = davidson(np.array([[9.0, 0, 1]]))
    assert found is not None
    assert found.values[1] == pytest.approx(-np.log(9), abs=0.35)  # a little shrunk by the prior
    assert davidson(np.array([[1.0, 0, 9]])).values[1] == pytest.approx(-found.values[1])  # type: ignore[union-attr]


def test_parts_that_never_met_are_not_compared() -> None:
    counts = np.zeros((6, 3))
    counts[0], counts[5] = (3, 1, 3), (2, 2, 5)  # 0 met 1, and 2 met 3
    assert davidson(counts) is None


def test_identical_models_are_equal() -> None:
    found = rank(table(np.ones((3, 10))), "x", "higher", Bootstrap(10))
    assert found is not None and not found["separated"]
    assert all(abs(strength["mean"]) < 1e-9 for strength in found["strengths"].values())
    assert "base ≈ m1 ≈ m2 (≈: not told apart)" in found["sentence"]


def test_ranking_follows_the_direction() -> None:
    rng = stream("tests", "rank")
    values = rng.normal(size=(3, 40)) + np.array([[0.0], [0.7], [1.4]])
    up = rank(table(values), "x", "higher", Bootstrap(40))
    down = rank(table(values), "x", "lower", Bootstrap(40))
    assert up is not None and down is not None
    assert up["order"] == ["m2", "m1", "base"] == down["order"][::-1]
    assert up["strengths"]["base"] == {"mean": 0, "low": 0, "high": 0, "count": 40}
    assert up["strengths"]["m2"]["low"] > 0
    assert "40 prompts: m2 > m1 > base." in up["sentence"]
    assert rank(table(values[:2]), "x", "higher", Bootstrap(40)) is None
