from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.clips.makers import REAL_CLIPS, moving, texture

from densedpo.clips.cuts import find_shots
from densedpo.clips.probe import FrameReader
from densedpo.config import ClipSettings
from densedpo.keys import stream
from densedpo.miniworld.scenes import draw_scene, render, subjects

THRESHOLD = ClipSettings().cut_threshold
Frames = NDArray[np.uint8]


def still(name: str, count: int) -> Frames:
    return np.repeat(texture(name, 27, 48)[None], count, axis=0)


def blend(before: Frames, after: Frames, count: int) -> Frames:
    share = (np.arange(1, count + 1) / (count + 1))[:, None, None, None]
    mixed: Frames = np.round(before[-1] * (1 - share) + after[0] * share).astype(np.uint8)
    return mixed


A, B, C = (still(name, 40) for name in ("one", "two", "three"))


def test_one_shot() -> None:
    assert find_shots(A, 1 / 25, THRESHOLD) == [(0, 40)]
    assert find_shots(A[:1], 1 / 25, THRESHOLD) == [(0, 1)]
    assert find_shots(A[:2], 1 / 25, THRESHOLD) == [(0, 2)]


def test_hard_cuts() -> None:
    assert find_shots(np.concatenate([A, B, C]), 1 / 25, THRESHOLD) == [(0, 40), (40, 80), (80, 120)]
    assert find_shots(np.concatenate([A[:1], B[:1]]), 1.0, THRESHOLD) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("length", [6, 12, 25, 50])
@pytest.mark.parametrize("fps", [25.0, 30.0])
def test_dissolves_are_left_out(length: int, fps: float) -> None:
    frames = np.concatenate([A, blend(A, B, length), B])
    (first_start, first_stop), (second_start, second_stop) = find_shots(frames, 1 / fps, THRESHOLD)
    assert (first_start, second_stop) == (0, len(frames))
    assert 40 - 3 <= first_stop <= 40 + 2
    assert 40 + length - 2 <= second_start <= 40 + length + 3


def test_a_fade_through_black_is_left_out() -> None:
    black = np.zeros_like(A[:6])
    frames = np.concatenate([A, blend(A, black, 12), black, blend(black, B, 12), B])
    shots = find_shots(frames, 1 / 25, THRESHOLD)
    assert shots[0][1] == pytest.approx(40, abs=3)
    assert shots[-1][0] == pytest.approx(70, abs=3)


def test_a_flash_is_no_cut() -> None:
    frames = A.copy()
    frames[20] = 255
    assert find_shots(frames, 1 / 25, THRESHOLD) == [(0, 40)]


def test_moving_pictures_are_one_shot() -> None:
    for step in (1, 2, 4):
        wide = texture("wide", 27, 48 + 60 * step)
        pan = np.stack([wide[:, step * i : step * i + 48] for i in range(60)])
        assert find_shots(pan, 1 / 25, THRESHOLD) == [(0, 60)], step
    assert find_shots(moving(60, 27, 48), 1 / 25, THRESHOLD) == [(0, 60)]


def test_noise_is_one_shot() -> None:
    frames = stream("tests", "noise").integers(0, 256, size=(50, 27, 48, 3), dtype=np.uint8)
    assert find_shots(frames, 1 / 25, THRESHOLD) == [(0, 50)]


def test_drawn_clips_are_one_shot_however_fast() -> None:
    for subject in subjects()[::3]:
        assert find_shots(render(draw_scene(subject, "cuts")), 1 / 8, THRESHOLD) == [(0, 33)], subject


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="the folder of real clips is not there")
def test_real_files() -> None:
    with FrameReader(ClipSettings()) as reader:
        for name in ("av1_video.mkv", "h265_video.mp4", "h264_10bits.mp4"):
            scan = reader.scan(REAL_CLIPS / name)
            assert find_shots(scan.thumbnails, scan.step_s, THRESHOLD) == [(0, len(scan.timestamps_s))]
        scan = reader.scan(REAL_CLIPS / "nasa_13013.mp4")
        shots = find_shots(scan.thumbnails, scan.step_s, THRESHOLD)
    # seen by eye: a dissolve from frame 149 to 178, a hard cut at 240
    assert len(shots) == 3
    assert shots[0][0] == 0
    assert 145 <= shots[0][1] <= 150
    assert 178 <= shots[1][0] <= 183
    assert shots[1][1] == shots[2][0] == 240
    assert shots[2][1] == 390
