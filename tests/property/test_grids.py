"""Grids of noise levels: they fall from 1 to 0 whatever is asked, and end where they are told to."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densedpo.diffusion.grid import even_grid, linear_quadratic_grid, shift_level
from densedpo.diffusion.levels import LOGIT_NORMAL, Below, Shifted

STEPS = st.integers(1, 100)
SHIFTS = st.floats(0.2, 30)


@given(STEPS, SHIFTS, st.none() | st.floats(0.001, 0.3))
def test_an_even_grid_falls_from_one_to_zero(steps: int, shift: float, terminal: float | None) -> None:
    grid = even_grid(steps, shift, terminal)
    assert (len(grid), grid[0], grid[-1]) == (steps + 1, 1.0, 0.0)
    assert all(level > following for level, following in pairwise(grid))
    if terminal is not None and steps > 1:
        assert grid[-2] == pytest.approx(terminal, abs=1e-5)
    if terminal is None:
        assert grid[-2] == pytest.approx(shift_level(1 / steps, shift), abs=1e-5)


@given(STEPS, SHIFTS)
def test_a_linear_quadratic_grid_falls_from_one_to_zero_by_growing_steps(steps: int, shift: float) -> None:
    grid = linear_quadratic_grid(steps, shift)
    assert (len(grid), grid[0], grid[-1]) == (steps + 1, 1.0, 0.0)
    assert all(level > following for level, following in pairwise(grid))
    strides = [level - following for level, following in pairwise(linear_quadratic_grid(steps, 1.0))]
    assert all(following >= stride - 1e-6 for stride, following in pairwise(strides))
    if steps % 2 == 0:
        assert linear_quadratic_grid(steps, 1.0)[steps // 2] == pytest.approx(0.975)


@pytest.mark.parametrize("grid", [even_grid, linear_quadratic_grid])
def test_a_grid_has_a_step(grid: object) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        grid(0, 1.0)  # type: ignore[operator]


@given(st.floats(0.01, 0.99), st.floats(0.2, 10), st.floats(0.5, 10))
def test_a_shifted_law_is_the_law_at_both_shifts(share: float, factor: float, shift: float) -> None:
    law = Shifted(LOGIT_NORMAL, factor)
    level = law.level(share, shift)
    assert level == LOGIT_NORMAL.level(share, shift * factor)
    assert law.share_below(level, shift) == pytest.approx(share, abs=1e-6)
    assert Below(law, 0.9).level(share, shift) <= 0.9
