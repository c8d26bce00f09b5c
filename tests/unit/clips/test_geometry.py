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


def test_duration_counts_the_last_frame() -> None:
    assert MINIATURE.duration_s == 33 / 8
