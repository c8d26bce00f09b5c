"""Sign test, Holm, words, power, and the verdict that couples quality with motion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densedpo.evaluation.overall import judge_overall
from densedpo.evaluation.scorers import FrameScorer, ScoreInfo, primary_scores
from densedpo.evaluation.statistics import (
    Outcomes,
    count_outcomes,
    detectable,
    holm,
    paired_tests,
    power,
    sign_test,
    signs,
    words,
)
from densedpo.intervals import Interval, drawn_clusters, widening

Ends = st.tuples(st.floats(-10, 10), st.floats(-10, 10)).map(sorted)


def interval(low: float, high: float, count: int = 24) -> Interval:
    return Interval((low + high) / 2, low, high, count)


def test_sign_test_by_hand() -> None:
    assert sign_test(Outcomes(5, 100, 0)) == pytest.approx(2 / 32)  # ties say nothing
    assert sign_test(Outcomes(0, 0, 5)) == pytest.approx(2 / 32)
    assert sign_test(Outcomes(4, 0, 1)) == pytest.approx(2 * 6 / 32)
    assert sign_test(Outcomes(3, 0, 3)) == 1.0
    assert sign_test(Outcomes(0, 7, 0)) is None


def test_sides_follow_the_direction_and_rounding_is_a_tie() -> None:
    model, base = np.array([1.0, 2.0, 0.3, 5.0]), np.array([2.0, 1.0, 0.1 + 0.2, 5.0])
    assert signs(model, base, "higher").tolist() == [-1, 1, 0, 0]
    assert signs(model, base, "lower").tolist() == [1, -1, 0, 0]
    assert count_outcomes(signs(model, base, "neither")) == Outcomes(1, 2, 1)


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert found == {"a": pytest.approx(0.03), "b": pytest.approx(0.06), "c": pytest.approx(0.06), "d": None}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_only_raises_and_keeps_the_order(p_values: dict[str, float]) -> None:
    found = holm(p_values)
    for name, p in p_values.items():
        adjusted = found[name]
        assert adjusted is not None and p <= adjusted <= 1
        assert all(found[other] >= adjusted for other in p_values if p_values[other] > p)  # type: ignore[operator]


def test_words() -> None:
    assert words(interval(0.1, 0.2), "higher") == "better"
    assert words(interval(0.1, 0.2), "lower") == "worse"
    assert words(interval(-0.2, -0.1), "lower") == "better"
    assert words(interval(-0.2, -0.1), "neither") == "lower"
    assert words(interval(0.0, 0.2), "higher") == words(None, "higher") == "not told apart"


def test_power_is_that_of_the_research() -> None:
    found = power(128, [0, 1])
    assert found["sentence"] == "With 128 prompts a share of wins is known to ±8.7 points."
    assert power(419, [0])["share_half_width"] == pytest.approx(0.048, abs=5e-4)
    assert power(1, [0])["sentence"].startswith("From one prompt nothing can be concluded")


def test_what_can_be_detected_is_found_four_times_in_five() -> None:
    from densedpo.keys import stream

    rng, prompts = stream("tests", "power"), 40
    error = 1 / prompts**0.5
    half = 2.0227 * error  # t(0.975, 39)
    seen = detectable(interval(-half, half, prompts))
    assert seen is not None
    samples = rng.normal(seen, 1.0, size=(4000, prompts))
    t = samples.mean(axis=1) / (samples.std(axis=1, ddof=1) / prompts**0.5)
    assert (np.abs(t) > 2.0227).mean() == pytest.approx(0.8, abs=0.03)


def test_tests_of_a_model() -> None:
    model, base = np.array([[2.0, 1.0]] * 6), np.array([[1.0, 1.0]] * 6)
    differences, better = {"x": interval(0.9, 1.1), "y": interval(0, 0)}, {"x": "higher", "y": "lower"}
    found = paired_tests(model, base, differences, better, {"x", "y"})  # type: ignore[arg-type]
    assert found["x"] | {"detectable": 0} == {
        "wins": 6,
        "ties": 0,
        "losses": 0,
        "p": 2 / 64,
        "p_holm": 2 / 64,  # the other score has only ties: nothing to adjust for
        "half_width": pytest.approx(0.1),
        "detectable": 0,
        "verdict": "better",
    }
    assert (found["y"]["ties"], found["y"]["p"], found["y"]["verdict"]) == (6, None, "not told apart")


def test_only_claims_are_adjusted_for_each_other() -> None:
    model, base = np.ones((8, 3)), np.zeros((8, 3))
    differences, better = dict.fromkeys("xyz", interval(0.9, 1.1)), dict.fromkeys("xyz", "higher")
    found = paired_tests(model, base, differences, better, {"x", "y"})  # type: ignore[arg-type]
    p = 2 / 2**8
    assert [found[name]["p"] for name in "xyz"] == [p, p, p]
    assert [found[name]["p_holm"] for name in "xyz"] == [2 * p, 2 * p, None]


def test_the_claims_of_scorers_are_few_and_have_motion_among_them() -> None:
    assert primary_scores(FrameScorer.infos) == {"motion_px_s", "warp_error", "flicker", "sharpness"}
    plain = {name: ScoreInfo(name, "", "higher", "") for name in "ab"}
    assert primary_scores(plain) == {"a", "b"}  # nobody chose: all


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (interval(0.95, 1.1), "better"),
        (interval(0.85, 1.1), "motion not shown to be kept"),
        (interval(0.3, 0.5), "bought with motion"),
        (None, "motion unknown"),
    ],
)
def test_quality_counts_only_with_motion(better: str, ratio: Interval | None, verdict: str) -> None:
    gain = interval(0.1, 0.2) if better == "higher" else interval(-0.2, -0.1)
    loss = interval(-0.2, -0.1) if better == "higher" else interval(0.1, 0.2)
    assert judge_overall(gain, better, ratio, 0.9).verdict == verdict  # type: ignore[arg-type]
    assert judge_overall(loss, better, ratio, 0.9).verdict == "worse"  # type: ignore[arg-type]
    assert judge_overall(interval(-1, 1), better, ratio, 0.9).verdict == "not told apart"  # type: ignore[arg-type]


@given(Ends, st.sampled_from(["lower", "higher", "neither"]), Ends, st.floats(0.01, 1))
def test_nothing_without_motion_is_ever_better(
    quality: list[float], better: str, motion: list[float], kept: float
) -> None:
    """A frozen clip's motion is at most a hundredth of the base's here; no quality makes it win."""
    ratio = interval(motion[0] / 1001, motion[1] / 1001)
    found = judge_overall(interval(quality[0], quality[1]), better, ratio, kept)  # type: ignore[arg-type]
    assert found.verdict != "better"
    assert judge_overall(interval(quality[0], quality[1]), better, None, kept).verdict != "better"  # type: ignore[arg-type]


def test_widening_is_students() -> None:
    assert widening(2) == pytest.approx(12.7062 / 1.959964 * 2**0.5, rel=1e-5)
    assert widening(128) == pytest.approx(1.0136, abs=1e-3)
    assert widening(100_000) == pytest.approx(1.0, abs=1e-4)


def test_drawn_clusters_are_whole_draws() -> None:
    drawn = drawn_clusters(7, draws=500, seed="x")
    assert drawn.shape == (500, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert np.array_equal(drawn, drawn_clusters(7, draws=500, seed="x"))
    assert not np.array_equal(drawn, drawn_clusters(7, draws=500, seed="y"))
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2)
