from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.clips.makers import REAL_CLIPS, texture

from densedpo.clips.camera import Motion, motion
from densedpo.clips.probe import FrameReader
from densedpo.config import ClipSettings
from densedpo.keys import stream
from densedpo.miniworld.scenes import FPS as WORLD_FPS
from densedpo.miniworld.scenes import draw_scene, render, subjects

Frames = NDArray[np.uint8]
HEIGHT, WIDTH, COUNT, FPS = 120, 208, 9, 16.0


def panned(px_a_frame: int) -> Frames:
    wide = texture("ground", HEIGHT, WIDTH + COUNT * px_a_frame, 14)
    return np.stack([wide[:, px_a_frame * i : px_a_frame * i + WIDTH] for i in range(COUNT)])


def with_subject(frames: Frames, px_a_frame: float) -> Frames:
    subject, found = texture("subject", 40, 40, 8), frames.copy()
    for index in range(len(found)):
        x = 30 + round(px_a_frame * index)
        found[index, 40:80, x : x + 40] = subject
    return found


def zoomed() -> Frames:
    ground = texture("ground", HEIGHT + 40, WIDTH + 40, 14)[20:-20, 20:-20]
    turns = [cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 0.4 * i, 1 + 0.012 * i) for i in range(COUNT)]
    frames = [cv2.warpAffine(ground, turn, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=2) for turn in turns]
    return np.stack(frames).astype(np.uint8)


def means(found: Motion) -> tuple[float, float, float]:
    return float(found.total_px_s.mean()), float(found.camera_px_s.mean()), float(found.foreground_px_s.mean())


def test_a_pan_is_camera_motion_alone() -> None:
    total, camera, foreground = means(motion(panned(3), FPS))
    assert total == pytest.approx(48, rel=0.1)
    assert camera == pytest.approx(48, rel=0.05)
    assert foreground < 0.1 * camera


def test_a_zoom_with_roll_is_camera_motion_too() -> None:
    total, camera, foreground = means(motion(zoomed(), FPS))
    assert camera > 5
    assert foreground < 0.2 * total


def test_a_subject_before_a_still_camera_is_foreground() -> None:
    _, camera, foreground = means(motion(with_subject(panned(0), 4), FPS))
    assert camera < 2
    assert foreground == pytest.approx(64, rel=0.2)


def test_a_subject_that_the_camera_follows_is_foreground() -> None:
    """It stays in its place in the picture while the ground goes by."""
    _, camera, foreground = means(motion(with_subject(panned(4), 0), FPS))
    assert camera == pytest.approx(64, rel=0.1)
    assert foreground > 0.6 * camera


def test_a_still_noisy_picture_has_no_motion() -> None:
    rough = panned(0) + stream("tests", "camera-noise").normal(0, 3, (COUNT, HEIGHT, WIDTH, 3))
    total, camera, foreground = means(motion(np.clip(rough, 0, 255).astype(np.uint8), FPS))
    assert max(total, camera, foreground) < 2
    assert means(motion(panned(0), FPS)) == (0, 0, 0)


def test_a_lone_subject_before_a_plain_ground_is_not_taken_for_the_camera() -> None:
    scenes = [draw_scene(subject, "camera") for subject in list(subjects())[:40:8] if subject.motion != "spin"]
    for scene in scenes:
        truth = float(np.linalg.norm(np.diff(scene.centre_px, axis=0), axis=1).mean() * WORLD_FPS)
        _, camera, foreground = means(motion(render(scene), WORLD_FPS))
        assert camera < 0.2 * truth
        assert foreground == pytest.approx(truth, rel=0.3)


def test_speed_is_in_px_of_the_given_frames() -> None:
    frames = with_subject(panned(0), 4)
    large = np.stack([cv2.resize(frame, (3 * WIDTH, 3 * HEIGHT), interpolation=cv2.INTER_CUBIC) for frame in frames])
    ratio = means(motion(large.astype(np.uint8), FPS))[2] / means(motion(frames, FPS))[2]
    assert ratio == pytest.approx(3, rel=0.15)
    assert means(motion(frames, 2 * FPS))[2] == pytest.approx(2 * means(motion(frames, FPS))[2])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (3, 2), (32, 200), (300, 40)])
def test_any_size_and_a_single_frame(height: int, width: int) -> None:
    frames = stream("tests", "sizes").integers(0, 256, size=(3, height, width, 3), dtype=np.uint8)
    found = motion(frames, 8.0)
    assert all(values.shape == (2,) and np.isfinite(values).all() for values in vars(found).values())
    assert all(values.shape == (0,) for values in vars(motion(frames[:1], 8.0)).values())


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="needs the folder of real clips beside the project")
def test_a_real_moving_camera_is_told_from_a_still_one() -> None:
    """The last shot of the film follows a lift; in the first one the camera stands."""
    file = Path(REAL_CLIPS / "nasa_13013.mp4")
    with FrameReader(ClipSettings()) as reader:
        fps = reader.scan(file).fps
        still, moving = (reader.extract(file, np.arange(a, a + 24), 135, 240) for a in (20, 250))
    assert means(motion(still, fps))[1] < 2
    assert means(motion(moving, fps))[1] > 3
