from __future__ import annotations

import numpy as np
import pytest

from densedpo.clips.geometry import ClipGeometry
from densedpo.clips.window import Window, centre_crop, cover_size, resample_times, shot_windows

MINIATURE = ClipGeometry(fps=8.0, num_frames=33, height=32, width=32, temporal_stride=4)


def test_resampling_takes_the_nearest_frame() -> None:
    thirty = np.arange(300) / 30
    np.testing.assert_array_equal(resample_times(thirty, 0.0, 10.0, 5), [0, 3, 6, 9, 12])
    np.testing.assert_array_equal(resample_times(thirty, 1.02, 30.0, 3), [31, 32, 33])
    np.testing.assert_array_equal(resample_times(np.arange(5.0), 0.0, 4.0, 9), [0, 0, 0, 1, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(resample_times(np.array([0.0]), 0.0, 8.0, 5), [0] * 5)


def test_resampling_a_variable_rate() -> None:
    times = np.array([0.0, 0.1, 0.11, 0.5, 0.5, 1.0])
    np.testing.assert_array_equal(resample_times(times, 0.0, 4.0, 5), [0, 2, 3, 4, 5])


def test_a_long_shot_gives_even_windows_that_do_not_overlap() -> None:
    windows = shot_windows(2.0, 22.0, MINIATURE, 8, 1.0)
    assert [window.num_frames for window in windows] == [33] * 4
    starts = np.array([window.start_s for window in windows])
    np.testing.assert_allclose(np.diff(starts), 5.0)
    assert starts[0] >= 2.0
    assert starts[-1] + MINIATURE.duration_s <= 22.0
    assert len(shot_windows(2.0, 22.0, MINIATURE, 2, 1.0)) == 2


def test_a_shot_of_exactly_one_clip() -> None:
    assert shot_windows(1.0, 1.0 + 33 / 8, MINIATURE, 8, 1.0) == [Window(1.0, 33)]
    assert shot_windows(0.0, 4.0, MINIATURE, 8, 1.0) == [Window(0.0, 33)], "the last instant lies on the end"


@pytest.mark.parametrize(
    ("length_s", "frames"), [(0.5, None), (0.999, None), (1.0, 9), (1.49, 9), (1.5, 13), (3.9, 29), (4.0, 33)]
)
def test_a_short_shot_gives_a_shorter_clip_or_none(length_s: float, frames: int | None) -> None:
    expected = [] if frames is None else [Window(3.0, frames)]
    assert shot_windows(3.0, 3.0 + length_s, MINIATURE, 8, 1.0) == expected


def test_a_clip_is_never_shorter_than_a_segment() -> None:
    coarse = ClipGeometry(fps=4.0, num_frames=17, height=8, width=8, temporal_stride=8)
    assert shot_windows(0.0, 3.0, coarse, 8, 2.5) == []  # 9 frames are 2.25 s


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ((270, 480), (32, 32), (32, 57)),
        ((480, 270), (32, 32), (57, 32)),
        ((32, 32), (480, 832), (832, 832)),
        ((1, 4000), (32, 32), (32, 128000)),
        ((480, 832), (480, 832), (480, 832)),
    ],
)
def test_cover_size(source: tuple[int, int], target: tuple[int, int], expected: tuple[int, int]) -> None:
    assert cover_size(*source, *target) == expected


def test_centre_crop() -> None:
    image = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    np.testing.assert_array_equal(centre_crop(image, 2, 3), image[2:4, 3:6])
