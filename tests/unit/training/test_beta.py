"""The beta of each step: a fixed one stays; `auto` is chosen once, from the rows of the second half of the warm-up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from densedpo.config import TrainSettings
from densedpo.training.beta import START, AutoBeta, describe


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"beta": "auto", "warmup_steps": 20, **changes})


def row(step: int, z: float, saturated: float = 0.0) -> dict[str, float]:
    return {"step": step, "loss": 0.6, "z_median_abs": z, "z_saturated_share": saturated}


def feed(beta: AutoBeta, values: Sequence[float], start: int = 1) -> list[str]:
    """Watch one row a value, from step ``start`` on; return what was told."""
    told = (beta.watch(row(step, z)) for step, z in enumerate(values, start=start))
    return [line for line in told if line is not None]


def test_a_fixed_beta_stays_and_its_strength_is_told_once() -> None:
    beta = AutoBeta(settings(beta=700.0))
    lines = feed(beta, [0.2] * 60)
    assert beta.value == 700.0
    assert len(lines) == 1
    assert "after 20 steps" in lines[0] and "median |z| 0.2" in lines[0] and "0% saturated" in lines[0]
    assert "beta 700 for mean squared errors" in lines[0] and "from here on" not in lines[0]


def test_auto_starts_at_500_and_changes_once_when_the_warm_up_is_over() -> None:
    beta = AutoBeta(settings(beta_target_z=0.3))
    assert beta.value == START == 500.0
    assert feed(beta, [0.1] * 19) == []
    assert beta.value == 500.0
    lines = feed(beta, [0.1], start=20)
    assert beta.value == pytest.approx(1500.0)
    assert len(lines) == 1 and "from here on beta 1500" in lines[0] and "median |z| of 0.3" in lines[0]
    assert feed(beta, [9.0] * 100, start=21) == []
    assert beta.value == pytest.approx(1500.0)


def test_what_it_aims_at_is_what_z_would_have_been() -> None:
    """z is proportional to beta: at the beta chosen, the same errors have the target as their median |z|."""
    changes = [1e-4 * step for step in range(1, 21)]  # |d_a - d_b|
    beta = AutoBeta(settings(beta_target_z=0.4))
    feed(beta, [0.5 * START * change for change in changes])
    second_half = changes[10:]
    middle = (second_half[4] + second_half[5]) / 2
    assert 0.5 * beta.value * middle == pytest.approx(0.4)


def test_only_the_second_half_of_the_warm_up_counts() -> None:
    beta = AutoBeta(settings())
    feed(beta, [50.0] * 10 + [0.3] * 10)
    assert beta.value == pytest.approx(500.0)


def test_one_wild_row_does_not_decide() -> None:
    beta = AutoBeta(settings())
    feed(beta, [0.3] * 15 + [1000.0] + [0.3] * 4)
    assert beta.value == pytest.approx(500.0)


@pytest.mark.parametrize(("z", "expected"), [(1e-6, 5000.0), (1e6, 50.0)])
def test_it_stays_within_a_factor_of_ten(z: float, expected: float) -> None:
    beta = AutoBeta(settings())
    feed(beta, [z] * 20)
    assert beta.value == pytest.approx(expected)


def test_a_policy_that_has_not_moved_says_nothing_about_beta() -> None:
    beta = AutoBeta(settings())
    assert len(feed(beta, [0.0] * 20)) == 1
    assert beta.value == 500.0


def test_without_a_warm_up_ten_steps_are_looked_at() -> None:
    beta = AutoBeta(settings(warmup_steps=0))
    assert feed(beta, [0.1] * 9) == []
    assert len(feed(beta, [0.1], start=10)) == 1
    assert beta.value == pytest.approx(1500.0)


def test_steps_without_a_preference_are_left_out_and_waited_for() -> None:
    beta = AutoBeta(settings())
    for step in range(1, 31):
        assert beta.watch({"step": step, "loss": 0.0, "non_tie_frames": 0.0}) is None
    assert feed(beta, [0.15] * 4, start=31) == []
    assert len(feed(beta, [0.15], start=35)) == 1
    assert beta.value == pytest.approx(1000.0)


def test_replayed_rows_lead_to_the_same_beta_wherever_the_run_was_cut() -> None:
    values = [0.01 * (step % 7 + 1) for step in range(40)]
    whole = AutoBeta(settings())
    feed(whole, values)
    assert whole.value != START
    for cut in (1, 12, 19, 20, 35):
        resumed = AutoBeta(settings())
        feed(resumed, values[:cut])
        feed(resumed, values[cut:], start=cut + 1)
        assert resumed.value == whole.value


def test_the_saturated_share_is_told() -> None:
    beta = AutoBeta(settings())
    lines = [beta.watch(row(step, 5.0, saturated=0.62)) for step in range(1, 21)]
    assert lines[-1] is not None and "62% saturated" in lines[-1]


def test_a_beta_is_told_with_what_it_is_for() -> None:
    assert describe(500.0) == "beta 500 for mean squared errors"
    channels, frames, height, width = 16, 21, 60, 104
    text = describe(500.0, (channels, frames, height, width))
    # the paper's and the field's summed form: -beta_sum (|r_w|^2 - …) with sums over C, H, W of one latent frame
    summed = 500.0 / 2 / (channels * height * width)
    assert text.startswith("beta 500 for mean squared errors (= ")
    assert float(text.split("= ")[1].split()[0]) == pytest.approx(summed, rel=5e-3)
    assert math.isclose(summed, 0.0025, rel_tol=0.01)
    assert "sums over a latent frame" in text
