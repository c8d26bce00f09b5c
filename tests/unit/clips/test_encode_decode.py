from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from tests.unit.clips.makers import moving

from densedpo.clips.decode import read_video
from densedpo.clips.encode import rate_of, view_frames, write_video
from densedpo.errors import MediaError
from densedpo.miniworld.scenes import draw_scene, render, subjects

DRAWN = render(draw_scene(subjects()[7], "encode"))


def test_master_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, DRAWN, 8.0)
    video = read_video(path)
    assert video.frames.shape == DRAWN.shape
    assert video.fps == 8.0
    np.testing.assert_allclose(video.timestamps_s, np.arange(33) / 8, atol=1e-9)
    difference = video.frames.astype(int) - DRAWN
    assert np.abs(difference).mean() < 1.0
    assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 0.5, "no colour may drift"


def test_master_keeps_extreme_colours(tmp_path: Path) -> None:
    corners = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], dtype=np.uint8)
    frames = np.repeat(corners.reshape(1, 1, 8, 3), 32, axis=1).repeat(4, axis=2).repeat(5, axis=0)
    write_video(tmp_path / "c.mp4", frames, 8.0)
    assert np.abs(read_video(tmp_path / "c.mp4").frames.astype(int) - frames).mean() <= 2


@pytest.mark.parametrize("profile", ["master", "view"])
def test_same_frames_give_the_same_bytes_under_any_name(tmp_path: Path, profile: str) -> None:
    paths = [tmp_path / "one.mp4", tmp_path / "http: zwei é.mp4"]
    for path in paths:
        write_video(path, DRAWN, 8.0, profile=profile)  # type: ignore[arg-type]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 32), (33, 47), (32, 101), (256, 144)])
def test_odd_sizes(tmp_path: Path, height: int, width: int) -> None:
    frames = moving(6, height, width)
    write_video(tmp_path / "m.mp4", frames, 8.0)
    assert read_video(tmp_path / "m.mp4").frames.shape == frames.shape
    write_video(tmp_path / "v.mp4", frames, 8.0, profile="view")
    shown = read_video(tmp_path / "v.mp4").frames.shape
    assert shown[1] % 2 == 0
    assert shown[2] % 2 == 0
    assert min(shown[1:3]) >= 240 or min(height, width) >= 240


@pytest.mark.parametrize("fps", [0.5, 1.0, 8.0, 16.0, 24000 / 1001, 29.97, 30000 / 1001, 240.0])
def test_rate_and_timestamps_are_exact(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "m.mp4", DRAWN[:9], fps)
    video = read_video(tmp_path / "m.mp4")
    assert video.fps == pytest.approx(fps, rel=1e-9)
    np.testing.assert_allclose(video.timestamps_s, np.arange(9) / fps, rtol=1e-6, atol=1e-6)
    assert video.duration_s == pytest.approx(9 / fps)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf"), 1e6])
def test_impossible_rates_are_refused(fps: float) -> None:
    with pytest.raises(MediaError, match="fps"):
        rate_of(fps)


def test_ntsc_rates_are_the_fractions_meant() -> None:
    assert str(rate_of(24000 / 1001)) == "24000/1001"
    assert str(rate_of(29.97)) == "2997/100"


def test_view_is_what_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "view.mp4"
    write_video(path, DRAWN, 8.0, profile="view")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "it must play while loading"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.pix_fmt, stream.width, stream.height) == ("yuv420p", 256, 256)
        keys = [index for index, frame in enumerate(container.decode(stream)) if frame.key_frame]
    assert {0, 8, 16, 24, 32} <= set(keys)
    shown = read_video(path).frames.reshape(33, 32, 8, 32, 8, 3).mean(axis=(2, 4))
    assert np.abs(shown - DRAWN).mean() < 3, "small clips keep their colours"


def test_view_enlarges_by_whole_numbers() -> None:
    large = view_frames(DRAWN[:2])
    assert large.shape == (2, 256, 256, 3)
    np.testing.assert_array_equal(large[:, ::8, ::8], DRAWN[:2])
    assert view_frames(np.zeros((1, 243, 301, 3), dtype=np.uint8)).shape == (1, 244, 302, 3)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, DRAWN, 8.0)
    before = path.read_bytes()
    with pytest.raises(MediaError):
        write_video(path, DRAWN, -1.0)
    assert path.read_bytes() == before


def test_reading_what_is_not_ours_or_not_whole_fails(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, DRAWN, 8.0)
    data = path.read_bytes()
    with pytest.raises(MediaError, match="no such file"):
        read_video(tmp_path / "gone.mp4")
    for length in [0, 10, *np.linspace(11, len(data) - 1, 15).astype(int).tolist()]:
        path.write_bytes(data[:length])
        with pytest.raises(MediaError, match=r"clip\.mp4"):
            read_video(path)
