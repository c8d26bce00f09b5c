"""Simulated annotators: ties, Bradley-Terry noise, and answers that repeat."""

from __future__ import annotations

import numpy as np
import pytest

from densedpo.errors import ConfigError
from densedpo.miniworld.annotators import SimulatedAnnotator, choose


def test_small_differences_are_ties_and_large_ones_are_sure() -> None:
    annotator = SimulatedAnnotator("one")
    assert {annotator.answer(0.0, 0.149, f"pair{n}", 0) for n in range(50)} == {"tie"}
    assert {annotator.answer(0.0, 40.0, f"pair{n}", 0) for n in range(50)} == {"a"}
    assert {annotator.answer(40.0, 0.0, f"pair{n}", 0) for n in range(50)} == {"b"}


@pytest.mark.parametrize("gap", [0.16, -0.2, 0.3])
def test_share_of_a_is_the_sigmoid(gap: float) -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    share = np.mean([choose(0.0, gap, rng) == "a" for _ in range(4000)])
    assert share == pytest.approx(1 / (1 + np.exp(-gap / 0.15)), abs=0.03)


def test_answers_repeat_and_differ_by_name_and_segment() -> None:
    def answers(annotator: SimulatedAnnotator, segment: int = 0) -> list[str]:
        return [annotator.answer(0.0, 0.16, f"pair{n}", segment) for n in range(40)]

    assert answers(SimulatedAnnotator("one")) == answers(SimulatedAnnotator("one"))
    assert answers(SimulatedAnnotator("one")) != answers(SimulatedAnnotator("two"))
    assert answers(SimulatedAnnotator("one")) != answers(SimulatedAnnotator("one"), segment=1)
    assert answers(SimulatedAnnotator("one")) != answers(SimulatedAnnotator("one", seed=1))


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="tie_band"):
        SimulatedAnnotator("one", tie_band=-0.1)
    with pytest.raises(ConfigError, match="temperature"):
        SimulatedAnnotator("one", temperature=0.0)
