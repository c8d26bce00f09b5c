"""Variance-preserving diffusion: levels, noising, targets, steps, timesteps and the law of training levels."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from densedpo.diffusion.flow import interpolate
from densedpo.diffusion.grid import grid_from
from densedpo.diffusion.levels import LevelLaw
from densedpo.diffusion.vp import EvenTimesteps, TimestepTable, add_noise, alpha_sigma, ddim_step, v_target
from densedpo.errors import ConfigError
from densedpo.keys import noise

levels = st.floats(0.0, 1.0)


def scheduler(snr_shift: float = 1.0) -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=snr_shift,
        timestep_spacing="trailing",
    )


TABLES = {shift: TimestepTable(scheduler(shift).alphas_cumprod.tolist()) for shift in (1.0, 3.0)}
tables = st.sampled_from(sorted(TABLES)).map(TABLES.__getitem__)


def drawn(name: str) -> torch.Tensor:
    return noise((1, 3, 2), 0, name).double()


def at(level: float) -> torch.Tensor:
    return torch.tensor([level], dtype=torch.float64)


@given(levels)
def test_variance_is_preserved_and_the_level_is_the_share_of_noise(level: float) -> None:
    alpha, sigma = (float(value) for value in alpha_sigma(at(level)))
    assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-12)
    assert sigma / (alpha + sigma) == pytest.approx(level, abs=1e-12)


@given(levels)
def test_a_level_is_that_of_the_flow_with_the_same_signal_to_noise(level: float) -> None:
    clean, made = drawn("clean"), drawn("noise")
    length = ((1 - level) ** 2 + level**2) ** 0.5
    torch.testing.assert_close(add_noise(clean, made, at(level)) * length, interpolate(clean, made, at(level)))


def test_the_ends_are_clean_and_pure_noise() -> None:
    clean, made = drawn("clean"), drawn("noise")
    assert torch.equal(add_noise(clean, made, at(0.0)), clean)
    assert torch.equal(add_noise(clean, made, at(1.0)), made)
    assert torch.equal(v_target(clean, made, at(0.0)), made)
    assert torch.equal(v_target(clean, made, at(1.0)), -clean)


@given(levels, levels)
def test_the_true_v_leads_from_any_level_to_any_other(start: float, stop: float) -> None:
    clean, made = drawn("clean"), drawn("noise")
    moved = ddim_step(add_noise(clean, made, at(start)), v_target(clean, made, at(start)), at(start), at(stop))
    torch.testing.assert_close(moved, add_noise(clean, made, at(stop)))


@given(levels, levels, levels)
def test_steps_with_the_v_of_one_clip_and_noise_add_up(first: float, second: float, third: float) -> None:
    sample, prediction = drawn("sample"), drawn("prediction")
    clean = alpha_sigma(at(first))[0] * sample - alpha_sigma(at(first))[1] * prediction
    made = alpha_sigma(at(first))[1] * sample + alpha_sigma(at(first))[0] * prediction
    between = ddim_step(sample, prediction, at(first), at(second))
    straight = ddim_step(sample, prediction, at(first), at(third))
    torch.testing.assert_close(ddim_step(between, v_target(clean, made, at(second)), at(second), at(third)), straight)


@given(st.sampled_from([1.0, 3.0]), st.sampled_from([4, 5, 10, 50]), st.integers(0, 49))
def test_a_step_is_the_schedulers(snr_shift: float, steps: int, place: int) -> None:
    ours, theirs = TABLES[snr_shift], scheduler(snr_shift)
    theirs.set_timesteps(steps)
    timesteps = theirs.timesteps.tolist()
    place %= steps
    sample, prediction = noise((1, 3), 0, "sample"), noise((1, 3), 0, "prediction")
    grid = [*(ours.levels[timestep] for timestep in timesteps), 0.0]
    expected = theirs.step(prediction, timesteps[place], sample, return_dict=False)[0].float()
    found = ddim_step(sample, prediction, torch.tensor([grid[place]]), torch.tensor([grid[place + 1]]))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@given(st.sampled_from([1.0, 3.0]), st.integers(0, 999))
def test_noise_is_added_as_the_scheduler_adds_it(snr_shift: float, timestep: int) -> None:
    clean, made = noise((1, 3), 0, "clean"), noise((1, 3), 0, "noise")
    expected = scheduler(snr_shift).add_noise(clean, made, torch.tensor([timestep]))
    found = add_noise(clean, made, torch.tensor([TABLES[snr_shift].levels[timestep]]))
    # the scheduler rounds alpha^2 to float32 first, which its root magnifies near the ends
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@given(tables, st.integers(0, 999))
def test_a_timestep_survives_the_way_through_a_float32_level(table: TimestepTable, timestep: int) -> None:
    assert float(table.timestep(torch.tensor([table.levels[timestep]]))) == timestep


@given(tables, levels, levels)
def test_timesteps_rise_with_the_level_and_lie_between_their_neighbours(
    table: TimestepTable, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    first, second = table.timestep(torch.tensor([low, high], dtype=torch.float64)).tolist()
    assert 0 <= first <= second <= 999
    if table.levels[0] <= low < table.levels[-1]:
        assert table.levels[int(first)] - 1e-4 <= low <= table.levels[min(int(first) + 1, 999)] + 1e-4


def test_levels_outside_the_table_get_its_ends() -> None:
    table = TimestepTable([0.9, 0.5, 0.1])
    assert table.timestep(torch.tensor([0.0, 1.0])).tolist() == [0.0, 2.0]
    middle = (table.levels[0] + table.levels[1]) / 2
    assert table.timestep(torch.tensor([middle])).tolist() == [0.5]


def test_levels_must_rise() -> None:
    with pytest.raises(ValueError, match="must rise"):
        TimestepTable([0.5, 0.9])


@given(tables, st.floats(0, 1))
def test_the_law_draws_every_timestep_equally_often(table: TimestepTable, share: float) -> None:
    law: LevelLaw = EvenTimesteps(table.levels)
    level = law.level(share, 1.0)
    timestep = table.levels.index(level)
    assert timestep == min(int(share * 1000), 999)
    assert law.share_below(level, 1.0) == (timestep + 1) / 1000
    assert law.share_below(level - 1e-9, 1.0) == timestep / 1000


@given(tables, st.floats(0.1, 1), st.floats(0, 1))
def test_cut_off_at_a_level_it_draws_what_lies_below(table: TimestepTable, limit: float, share: float) -> None:
    law = EvenTimesteps(table.levels)
    assert law.level(share * law.share_below(limit, 1.0) * (1 - 1e-12), 1.0) <= limit


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_shift_is_refused(shift: float) -> None:
    law = EvenTimesteps([0.1, 0.9])
    with pytest.raises(ConfigError, match="leave shift and t_shift out"):
        law.level(0.5, shift)
    with pytest.raises(ConfigError, match="leave shift and t_shift out"):
        law.share_below(0.5, shift)


@given(levels.filter(lambda eta: eta > 0))
def test_a_grid_that_begins_below_one_is_never_started_above(eta: float) -> None:
    grid = [0.99, 0.6, 0.3, 0.0]
    part = grid_from(grid, eta)
    assert part[0] == min(eta, 0.99)
    assert all(a > b for a, b in pairwise(part))
