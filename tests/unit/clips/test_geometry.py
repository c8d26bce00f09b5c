from __future__ import annotations

from typing import Any

import pytest

from densedpo.clips.geometry import ClipGeometry
from densedpo.errors import ConfigError

MINIATURE = ClipGeometry(fps=8.0, num_frames=33, height=32, width=32, temporal_stride=4)


@pytest.mark.parametrize(("available", "expected"), [(0, 0), (1, 1), (4, 1), (5, 5), (8, 5), (33, 33), (900, 33)])
def test_valid_frames_causal(available: int, expected: int) -> None:
    assert MINIATURE.valid_frames(available) == expected


@pytest.mark.parametrize(("available", "expected"), [(0, 0), (3, 0), (4, 4), (31, 28), (900, 32)])
def test_valid_frames_of_whole_groups(available: int, expected: int) -> None:
    assert ClipGeometry(8.0, 32, 32, 32, 4, causal=False).valid_frames(available) == expected


@pytest.mark.parametrize(
    "change",
    [{"fps": 0.0}, {"fps": float("nan")}, {"num_frames": 32}, {"num_frames": 0}, {"height": 0}, {"temporal_stride": 0}],
)
def test_impossible_geometry_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        ClipGeometry(**MINIATURE.as_dict() | change)


@pytest.mark.parametrize(("available", "expected"), [(0, 0), (1, 1), (9, 9), (13, 9), (16, 9), (17, 17), (900, 49)])
def test_a_step_of_several_strides(available: int, expected: int) -> None:
    assert ClipGeometry(8.0, 49, 32, 32, 4, frame_step=8).valid_frames(available) == expected


@pytest.mark.parametrize("step", [0, -8, 6, 2])
def test_a_step_is_whole_strides(step: int) -> None:
    with pytest.raises(ConfigError, match="frame_step must be a multiple of 4"):
        ClipGeometry(8.0, 49, 32, 32, 4, frame_step=step)


def test_frames_must_fit_the_step() -> None:
    with pytest.raises(ConfigError, match=r"of the form 8k \+ 1, got 45"):
        ClipGeometry(8.0, 45, 32, 32, 4, frame_step=8)


def test_a_step_that_is_not_set_is_in_no_id() -> None:
    assert "frame_step" not in MINIATURE.as_dict()
    assert ClipGeometry(8.0, 49, 32, 32, 4, frame_step=8).as_dict()["frame_step"] == 8


def test_duration_counts_the_last_frame() -> None:
    assert MINIATURE.duration_s == 33 / 8
