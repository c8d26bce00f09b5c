"""What must hold for every window, timestamp and caption, not only for the examples."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from densedpo.clips.captions import clean
from densedpo.clips.geometry import ClipGeometry
from densedpo.clips.sniff import sniff
from densedpo.clips.window import centre_crop, cover_size, resample_times, shot_windows

geometries = st.builds(
    lambda fps, groups, stride: ClipGeometry(fps, groups * stride + 1, 8, 8, stride),
    st.floats(0.5, 60.0),
    st.integers(0, 40),
    st.integers(1, 8),
)
sides = st.integers(1, 5000)


@given(geometries, st.floats(0.0, 500.0), st.floats(0.0, 300.0), st.integers(1, 9), st.floats(0.1, 5.0))
def test_windows_stay_inside_and_apart(
    geometry: ClipGeometry, start_s: float, length_s: float, most: int, segment_s: float
) -> None:
    windows = shot_windows(start_s, start_s + length_s, geometry, most, segment_s)
    assert len(windows) <= most
    end_s = start_s - 1e-6
    for window in windows:
        assert window.start_s >= end_s - 1e-6
        assert geometry.valid_frames(window.num_frames) == window.num_frames
        end_s = window.start_s + window.num_frames / geometry.fps
        last_instant_s = window.start_s + (window.num_frames - 1) / geometry.fps
        assert last_instant_s <= start_s + length_s + 1e-4
    if length_s < segment_s * 0.999:
        assert not windows
    if length_s >= max(geometry.duration_s, segment_s) * 1.001:
        assert windows


@given(
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=60),
    st.floats(0.0, 100.0),
    st.floats(0.1, 60.0),
    st.integers(1, 50),
)
def test_resampling_is_nearest_and_rising(times: list[float], start_s: float, fps: float, count: int) -> None:
    clock = np.sort(np.array(times))
    found = resample_times(clock, start_s, fps, count)
    assert found.shape == (count,)
    assert (np.diff(found) >= 0).all()
    wanted = start_s + np.arange(count) / fps
    best = np.abs(clock[None] - wanted[:, None]).min(axis=1)
    np.testing.assert_allclose(np.abs(clock[found] - wanted), best, atol=1e-6)


@given(sides, sides, st.integers(1, 1000), st.integers(1, 1000))
def test_cover_size_covers_and_touches(height: int, width: int, target_height: int, target_width: int) -> None:
    covered = cover_size(height, width, target_height, target_width)
    assert covered[0] >= target_height
    assert covered[1] >= target_width
    assert covered[0] == target_height or covered[1] == target_width


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_centre_crop_is_central(height: int, width: int, data: st.DataObject) -> None:
    crop_height, crop_width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    assert centre_crop(image, crop_height, crop_width).shape == (crop_height, crop_width, 3)


@given(st.text())
def test_a_clean_caption_is_one_printable_line_and_stays_clean(text: str) -> None:
    cleaned = clean(text)
    assert cleaned == clean(cleaned)
    assert len(cleaned.splitlines()) <= 1
    cleaned.encode()  # no lone surrogates


@given(st.binary(max_size=1024))
def test_sniffing_never_fails(head: bytes) -> None:
    assert sniff(head) is None or isinstance(sniff(head), str)


@given(st.text(max_size=1024))
def test_no_playlist_or_script_is_ever_a_video(rest: str) -> None:
    for start in ("#EXTM3U", "ffconcat version 1.0", "<?xml", "http://", "concat:", "[playlist]", "file '"):
        assert sniff((start + "\n" + rest).encode()) is None
