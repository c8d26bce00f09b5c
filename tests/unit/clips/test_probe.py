from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.stream import VideoStream
from tests.unit.clips.makers import REAL_CLIPS, moving, texture, write_foreign

from densedpo.clips.decode import read_video
from densedpo.clips.encode import write_video
from densedpo.clips.probe import FrameReader
from densedpo.config import ClipSettings
from densedpo.errors import MediaError

FRAMES = moving(24)


@pytest.fixture(scope="module")
def reader() -> Iterator[FrameReader]:
    with FrameReader(ClipSettings()) as shared:
        yield shared


def error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got.astype(int) - expected).mean())


@pytest.mark.parametrize(
    ("container", "codec", "pixel_format"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mov", "mpeg4", "yuv420p"),
        ("mp4", "libx265", "yuv420p10le"),
        ("matroska", "libx264", "yuv444p"),
        ("matroska", "ffv1", "bgra"),
        ("webm", "libvpx-vp9", "yuva420p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("mpegts", "libx264", "yuv420p"),
        ("mpeg", "mpeg1video", "yuv420p"),
        ("flv", "flv", "yuv420p"),
        ("gif", "gif", "rgb8"),
        ("yuv4mpegpipe", "rawvideo", "yuv420p"),
    ],
)
def test_every_container_is_known_by_its_content(
    reader: FrameReader, tmp_path: Path, container: str, codec: str, pixel_format: str
) -> None:
    path = tmp_path / "name says.nothing"
    write_foreign(path, FRAMES, container=container, codec=codec, pixel_format=pixel_format, fps=25)
    scan = reader.scan(path)
    assert len(scan.timestamps_s) == 24
    assert (scan.height, scan.width) == (64, 96)
    np.testing.assert_allclose(scan.timestamps_s, np.arange(24) / 25, atol=0.006)  # gif counts in 10 ms
    picked = reader.extract(path, np.array([0, 12, 23]), 64, 96)
    assert error(picked, FRAMES[[0, 12, 23]]) < 16, "colours and order survive"


def test_a_master_clip_reads_the_same_through_the_child(reader: FrameReader, tmp_path: Path) -> None:
    write_video(tmp_path / "m.mp4", FRAMES, 8.0)
    through_child = reader.extract(tmp_path / "m.mp4", np.arange(24), 64, 96)
    assert error(through_child, read_video(tmp_path / "m.mp4").frames) < 0.5


def test_full_range_is_honoured(reader: FrameReader, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "v", FRAMES, codec="mjpeg", pixel_format="yuvj444p", container="avi")
    assert error(reader.extract(path, np.arange(24), 64, 96), FRAMES) < 6


@pytest.mark.parametrize("fps", [Fraction(1), Fraction(24000, 1001), Fraction(240), Fraction(1, 4)])
def test_rates(reader: FrameReader, tmp_path: Path, fps: Fraction) -> None:
    path = write_foreign(tmp_path / "v.mp4", FRAMES, fps=fps)
    scan = reader.scan(path)
    assert scan.fps == pytest.approx(float(fps))
    np.testing.assert_allclose(scan.timestamps_s, np.arange(24) / float(fps), rtol=1e-4, atol=1e-4)
    assert scan.end_s == pytest.approx(24 / float(fps), rel=1e-3)


def test_variable_rate_keeps_its_timestamps(reader: FrameReader, tmp_path: Path) -> None:
    times = np.cumsum([0, 1, 1, 5, 1, 9, 2, 2, 1, 30, 1, 1])
    path = write_foreign(tmp_path / "v.mkv", FRAMES[:12], fps=100, times=times.tolist(), container="matroska")
    np.testing.assert_allclose(reader.scan(path).timestamps_s, times / 100, atol=1e-3)


def test_a_late_start_counts_from_the_first_frame(reader: FrameReader, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "v.ts", FRAMES, times=list(range(100, 124)), container="mpegts")
    assert reader.scan(path).timestamps_s[0] == 0


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotation_is_undone(reader: FrameReader, tmp_path: Path, rotation: int, turns: int) -> None:
    path = write_foreign(tmp_path / "v.mp4", FRAMES, rotation=rotation)
    scan = reader.scan(path)
    upright = np.rot90(FRAMES, turns, axes=(1, 2))
    assert (scan.height, scan.width) == upright.shape[1:3]
    got = reader.extract(path, np.arange(24), scan.height, scan.width)
    assert error(got, upright) < 8
    assert error(got, np.rot90(upright, 2, axes=(1, 2))) > 20, "control: the other way up is far off"


def test_pixels_that_are_not_square_are_made_so(reader: FrameReader, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "v.mp4", FRAMES, options={"x264-params": "sar=2/1"})
    scan = reader.scan(path)
    assert (scan.height, scan.width) == (64, 192)


def test_the_largest_moving_picture_is_taken_and_never_a_cover(reader: FrameReader, tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w", format="mp4") as out:
        streams = []
        for codec, height, width in (("mjpeg", 300, 300), ("mpeg4", 16, 16), ("mpeg4", 64, 96)):
            added = out.add_stream(codec, rate=8)
            assert isinstance(added, VideoStream)
            added.height, added.width = height, width
            added.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            streams.append(added)
        streams[0].disposition = Disposition.attached_pic
        for index in range(8):
            for added in streams if index == 0 else streams[1:]:
                picture = np.zeros((added.height, added.width, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 8)
                out.mux(added.encode(frame))
        for added in streams:
            out.mux(added.encode(None))
    scan = reader.scan(path)
    assert (len(scan.timestamps_s), scan.height, scan.width) == (8, 64, 96)


def test_odd_sizes(reader: FrameReader, tmp_path: Path) -> None:
    frames = moving(6, 33, 47)
    path = write_foreign(tmp_path / "v.mkv", frames, pixel_format="yuv444p", container="matroska")
    assert error(reader.extract(path, np.arange(6), 33, 47), frames) < 8


def test_interlaced_frames_are_read(reader: FrameReader, tmp_path: Path) -> None:
    frames = moving(12, 64, 96)
    path = write_foreign(tmp_path / "v.mp4", frames, options={"x264-params": "tff=1"})
    assert len(reader.scan(path).timestamps_s) == 12


def test_extract_fills_and_crops_the_middle(reader: FrameReader, tmp_path: Path) -> None:
    wide = np.zeros((3, 64, 192, 3), dtype=np.uint8)
    wide[:, :, 64:128] = texture("middle", 64, 64)
    path = write_foreign(tmp_path / "v.mp4", wide)
    got = reader.extract(path, np.array([2, 0, 0]), 32, 32)
    assert got.shape == (3, 32, 32, 3)
    expected = wide[0, :, 64:128].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert error(got[1], expected) < 6
    assert reader.extract(path, np.array([0]), 100, 50).shape == (1, 100, 50, 3), "enlarging works too"


def test_indices_may_repeat_and_a_missing_one_is_noticed(reader: FrameReader, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "v.mp4", FRAMES)
    got = reader.extract(path, np.array([5, 1, 5]), 64, 96)
    np.testing.assert_array_equal(got[0], got[2])
    assert error(got[1], FRAMES[1]) < error(got[1], FRAMES[5])
    with pytest.raises(MediaError, match="changed while it was read"):
        reader.extract(path, np.array([24]), 64, 96)


def test_a_name_that_is_no_utf8_is_read(reader: FrameReader, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / b"caf\xe9.mp4".decode("utf-8", "surrogateescape"), FRAMES)
    assert len(reader.scan(path).timestamps_s) == 24


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="the folder of real clips is not there")
@pytest.mark.parametrize(
    ("name", "shape", "fps"),
    [
        ("nasa_13013.mp4", (390, 270, 480), 29.97),
        ("av1_video.mkv", (125, 360, 640), 25.0),
        ("h265_video.mp4", (10, 128, 128), 10.0),
        ("h264_10bits.mp4", (30, 200, 200), 30.0),
    ],
)
def test_real_files(reader: FrameReader, name: str, shape: tuple[int, int, int], fps: float) -> None:
    scan = reader.scan(REAL_CLIPS / name)
    assert (len(scan.timestamps_s), scan.height, scan.width) == shape
    assert scan.fps == pytest.approx(fps, abs=0.01)
