"""Interpolation, grids and guided starts."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from densedpo.diffusion.flow import classifier_free, euler_step, guided_start, interpolate, velocity
from densedpo.diffusion.grid import grid_from, shift_level, shifted_grid
from densedpo.keys import noise

levels = st.floats(0.01, 1.0)


@given(levels)
def test_guided_start_is_the_interpolation_at_eta(eta: float) -> None:
    clean, drawn = noise((2, 3, 2, 2, 2), 0, "clean"), noise((2, 3, 2, 2, 2), 0, "noise")
    expected = interpolate(clean, drawn, torch.full((2,), eta))
    torch.testing.assert_close(guided_start(clean, drawn, eta), expected)


@pytest.mark.parametrize("eta", [0.0, -0.1, 1.0001, float("nan")])
def test_eta_outside_its_range_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match="eta"):
        guided_start(torch.zeros(1), torch.zeros(1), eta)


def test_at_eta_one_nothing_of_the_clip_is_left() -> None:
    clean, drawn = noise((2, 3), 0, "clean"), noise((2, 3), 0, "noise")
    assert torch.equal(guided_start(clean, drawn, 1.0), drawn)


def test_interpolation_keeps_the_precision_of_the_latents() -> None:
    clean = noise((2, 3), 0, "clean").bfloat16()
    assert interpolate(clean, clean, torch.tensor([0.25, 0.5])).dtype == torch.bfloat16


@given(levels, levels)
def test_the_true_velocity_leads_from_any_level_to_any_other(start: float, stop: float) -> None:
    clean, drawn = noise((1, 4, 3), 1, "clean").double(), noise((1, 4, 3), 1, "noise").double()
    t, next_t = torch.tensor([start], dtype=torch.float64), torch.tensor([stop], dtype=torch.float64)
    moved = euler_step(interpolate(clean, drawn, t), velocity(clean, drawn), t, next_t)
    torch.testing.assert_close(moved, interpolate(clean, drawn, next_t))


def test_a_step_with_the_papers_printed_sign_would_leave_the_path() -> None:
    clean, drawn = noise((1, 4), 2, "clean"), noise((1, 4), 2, "noise")
    t, next_t = torch.tensor([0.5]), torch.tensor([0.25])
    start = interpolate(clean, drawn, t)
    wrong = start + (t - next_t) * velocity(clean, drawn)
    assert not torch.allclose(wrong, interpolate(clean, drawn, next_t), atol=1e-3)


@given(st.integers(1, 100), st.floats(0.5, 12))
def test_grids_fall_from_one_to_zero(steps: int, shift: float) -> None:
    grid = shifted_grid(steps, shift)
    assert len(grid) == steps + 1
    assert grid[0] == 1.0 and grid[-1] == 0.0
    assert all(a > b for a, b in pairwise(grid))


@pytest.mark.parametrize(("steps", "shift"), [(50, 3.0), (16, 5.0), (40, 1.0), (1, 5.0), (50, 8.0)])
def test_grid_equals_diffusers_scheduler(steps: int, shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(torch.tensor(shifted_grid(steps, shift)), scheduler.sigmas, rtol=0, atol=1e-7)


@given(st.integers(2, 60), st.floats(1, 10), levels)
def test_a_start_keeps_eta_exactly_and_the_grid_below_it(steps: int, shift: float, eta: float) -> None:
    grid = shifted_grid(steps, shift)
    part = grid_from(grid, eta)
    assert part[0] == eta
    assert part[1:] == grid[len(grid) - len(part) + 1 :]
    assert all(a > b for a, b in pairwise(part))
    replaced = grid[len(grid) - len(part)]
    assert abs(replaced - eta) == min(abs(level - eta) for level in grid[:-1])


def test_eta_one_gives_the_whole_grid() -> None:
    grid = shifted_grid(50, 3.0)
    assert grid_from(grid, 1.0) == grid


@pytest.mark.parametrize("eta", [0.0, -0.1, 1.0001, float("nan")])
def test_a_grid_cannot_start_outside_its_range(eta: float) -> None:
    with pytest.raises(ValueError, match="eta must lie in"):
        grid_from(shifted_grid(4, 3.0), eta)


def test_a_grid_has_a_step() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        shifted_grid(0, 3.0)


def test_a_shift_above_one_moves_towards_noise() -> None:
    assert shift_level(0.5, 3.0) == 0.75 and shift_level(0.25, 5.0) == 0.625


@given(levels, st.floats(0.2, 10))
def test_shifts_are_inverses(level: float, shift: float) -> None:
    assert shift_level(shift_level(level, shift), 1 / shift) == pytest.approx(level, rel=1e-9)


def test_guidance_at_one_is_the_conditional_branch() -> None:
    conditional, unconditional = noise((2, 2), 0, "c"), noise((2, 2), 0, "u")
    torch.testing.assert_close(classifier_free(conditional, unconditional, 1.0), conditional)
