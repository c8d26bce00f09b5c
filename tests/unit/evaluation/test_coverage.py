"""Two identical models: the interval of every difference covers 0 in at least 93 % of 1,000 simulated evaluations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from densedpo.evaluation.paired import Bootstrap, Floats
from densedpo.evaluation.statistics import count_outcomes, holm, sign_test, signs
from densedpo.keys import stream

EVALUATIONS = 1000
SCORES = 4
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def simulate(prompts: int, seeds: int, draw: Draw, seed: int) -> tuple[Floats, Floats]:
    """Return [E, P, S] prompt sums of two models that are one and the same: shared prompt, own noise a sample."""
    rng = stream("tests", "coverage", seed)
    shared = draw(rng, (EVALUATIONS, prompts, 1, SCORES))
    first, second = (
        (shared + 0.7 * draw(rng, (EVALUATIONS, prompts, seeds, SCORES))).sum(axis=2) for _ in ("first", "second")
    )
    return first, second


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.lognormal(sigma=1.0, size=shape)


def mostly_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.lognormal(size=shape) * (rng.random(size=shape) < 0.2)


def covered(bootstrap: Bootstrap, gaps: Floats, seeds: int) -> Floats:
    """Return [S] the share of evaluations whose interval covers 0."""
    count = np.full(gaps.shape[1], float(seeds))
    hits = np.zeros((len(gaps), gaps.shape[2]))
    for evaluation, gap in enumerate(gaps):
        for score in range(gaps.shape[2]):
            found = bootstrap.interval(gap[:, score], count)
            assert found is not None
            hits[evaluation, score] = found.low <= 0 <= found.high
    return np.asarray(hits.mean(axis=0))


@pytest.mark.parametrize(
    ("prompts", "seeds", "draw"),
    [(12, 1, normal), (12, 2, skewed), (12, 5, mostly_zero), (24, 2, skewed), (24, 4, normal), (128, 2, mostly_zero)],
)
def test_identical_models(prompts: int, seeds: int, draw: Draw) -> None:
    first, second = simulate(prompts, seeds, draw, seed=prompts)
    bootstrap = Bootstrap(prompts, draws=2000)
    shares = covered(bootstrap, first - second, seeds)
    assert shares.min() >= 0.93, shares
    # nor are intervals so wide that nothing is ever found
    assert shares.max() < 0.995, shares


def test_the_plain_percentile_bootstrap_would_be_found_out() -> None:
    first, second = simulate(12, 1, normal, seed=12)
    plain = Bootstrap(12, draws=2000)
    plain.factor = 1.0
    assert covered(plain, first - second, 1).max() < 0.93


def test_seeds_taken_for_prompts_would_be_found_out() -> None:
    """Prompts differ in how two seeds' halves come out: counting seeds as independent is too sure of itself."""
    rng = stream("tests", "seeds")
    gap = rng.normal(size=(EVALUATIONS, 12, 1, 1)) + 0.3 * rng.normal(size=(EVALUATIONS, 12, 4, 1))
    right = covered(Bootstrap(12, draws=1000), gap.sum(axis=2), 4)
    wrong = covered(Bootstrap(48, draws=1000), gap.reshape(EVALUATIONS, 48, 1), 1)
    assert right.min() >= 0.93
    assert wrong.max() < 0.8


def test_the_sign_test_with_holm_finds_little_in_identical_models() -> None:
    first, second = simulate(24, 2, skewed, seed=1)
    found = 0
    for a, b in zip(first, second, strict=True):
        p_values = {str(k): sign_test(count_outcomes(signs(a[:, k], b[:, k], "higher"))) for k in range(SCORES)}
        found += any(p is not None and p < 0.05 for p in holm(p_values).values())
    assert found / EVALUATIONS <= 0.05
