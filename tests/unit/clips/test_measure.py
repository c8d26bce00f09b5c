from __future__ import annotations

from dataclasses import fields

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.clips.makers import moving, texture

from densedpo.clips.measure import FrameMeasures, measure
from densedpo.keys import stream
from densedpo.miniworld.scenes import FPS, MOTIONS, SPEED_PX_S, coverage, draw_scene, render, subjects

Frames = NDArray[np.uint8]
SCENES = [draw_scene(subject, "measure") for subject in subjects() if subject.motion != "spin"]


@pytest.fixture(scope="module")
def measured() -> list[FrameMeasures]:
    return [measure(render(scene), FPS) for scene in SCENES]


def test_shapes_and_ranges() -> None:
    found = measure(moving(7, 40, 60), 8.0)
    for field in fields(found):
        values = getattr(found, field.name)
        steps = field.name in ("motion_px_s", "mean_motion_px_s", "flicker", "warp_error")
        assert values.shape == ((6,) if steps else (7,)), field.name
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        if not field.name.endswith("px_s"):
            assert (values <= 1).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (3, 2), (32, 200), (300, 40)])
def test_any_size_and_a_single_frame(height: int, width: int) -> None:
    frames = stream("tests", "sizes").integers(0, 256, size=(3, height, width, 3), dtype=np.uint8)
    assert measure(frames, 8.0).motion_px_s.shape == (2,)
    assert measure(frames[:1], 8.0).motion_px_s.shape == (0,)


def test_motion_is_the_speed_that_was_drawn(measured: list[FrameMeasures]) -> None:
    truth = [np.linalg.norm(np.diff(scene.centre_px, axis=0), axis=1).mean() * FPS for scene in SCENES]
    found = [float(m.motion_px_s.mean()) for m in measured]
    ratio = np.array(found) / np.array(truth)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1)
    assert np.percentile(np.abs(ratio - 1), 90) < 0.25
    assert np.corrcoef(np.log(found), np.log(truth))[0, 1] > 0.97
    assert min(truth) < 2 * SPEED_PX_S[0], "slow and fast clips are both in it"
    assert max(truth) > 0.5 * SPEED_PX_S[1]


def test_motion_of_a_spin_rises_with_its_speed() -> None:
    scenes = [draw_scene(subject, "spin", k) for subject in subjects() if subject.motion == "spin" for k in range(1)]
    assert {scene.subject.motion for scene in scenes} <= set(MOTIONS)
    found = [measure(render(scene), FPS).motion_px_s.mean() for scene in scenes]
    assert np.corrcoef(np.log(found), np.log([scene.speed_px_s for scene in scenes]))[0, 1] > 0.6


def test_motion_scales_with_rate_and_size() -> None:
    frames = render(SCENES[0])
    once = measure(frames, 8.0)
    np.testing.assert_allclose(measure(frames, 16.0).motion_px_s, 2 * once.motion_px_s)
    large = frames.repeat(2, axis=1).repeat(2, axis=2)
    assert measure(large, 8.0).motion_px_s.mean() == pytest.approx(2 * once.motion_px_s.mean(), rel=0.15)


def test_motion_of_a_large_picture() -> None:
    wide = texture("large", 480, 900, cell_px=40)
    frames = np.stack([wide[:, 4 * i : 4 * i + 832] for i in range(5)])
    found = measure(frames, 10.0)
    np.testing.assert_allclose(found.mean_motion_px_s, 40, rtol=0.1)


def test_a_still_picture_does_not_move_also_with_a_little_noise() -> None:
    still = np.repeat(render(SCENES[3])[:1], 9, axis=0)
    quiet = measure(still, 8.0)
    assert quiet.motion_px_s.max() == quiet.flicker.max() == quiet.warp_error.max() == 0
    noise = stream("tests", "noise").normal(0, 2, size=still.shape)
    noisy = measure(np.clip(still + noise, 0, 255).astype(np.uint8), 8.0)
    assert noisy.motion_px_s.mean() < 0.5 < SPEED_PX_S[0]


def test_subject_share_follows_the_drawn_area(measured: list[FrameMeasures]) -> None:
    truth = []
    for scene in SCENES:
        radius = np.full(len(scene.centre_px), scene.radius_px)
        truth.append(float(coverage(scene.subject.shape, scene.centre_px, radius, scene.angle_rad).mean()))
    found = np.array([m.subject_share.mean() for m in measured])
    assert np.corrcoef(found, truth)[0, 1] > 0.9
    # pixels that the subject covers in part count whole, hence the fifth more
    assert np.median(found / truth) == pytest.approx(1.2, abs=0.1)


def test_no_subject_has_no_share() -> None:
    y, x = np.mgrid[0:32, 0:32] / 31
    ground = np.stack([40 + 30 * x, 50 + 20 * y, 60 - 20 * x * y], axis=2).round().astype(np.uint8)
    assert measure(ground[None], 8.0).subject_share[0] == 0


def test_light_colour_and_sharpness() -> None:
    flat = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    flat[1], flat[2, ..., 0] = 255, 255
    found = measure(flat, 8.0)
    np.testing.assert_allclose(found.brightness, [0, 1, 0.299], atol=1e-6)
    np.testing.assert_allclose(found.saturation, [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(found.sharpness, 0, atol=1e-6)
    frame = render(SCENES[5])[0]
    blurred = cv2.GaussianBlur(frame, (0, 0), 1.5).astype(np.uint8)
    sharp = measure(np.stack([frame, blurred]), 8.0).sharpness
    assert sharp[1] < 0.7 * sharp[0]


def test_flicker_is_seen_and_motion_is_not_taken_for_it(measured: list[FrameMeasures]) -> None:
    clean = np.array([m.flicker.mean() for m in measured])
    for scene, before in list(zip(SCENES, clean, strict=True))[::30]:
        gain = 1 + 0.1 * np.where(np.arange(33) % 2, 1, -1)[:, None, None, None]
        shaken = np.clip(render(scene) * gain, 0, 255).astype(np.uint8)
        assert measure(shaken, FPS).flicker.mean() > 5 * before
    assert np.percentile(clean, 95) < 0.003


def test_what_motion_cannot_explain_raises_the_warp_error() -> None:
    frames = render(SCENES[8])
    jumpy = frames.copy()
    jumpy[10, 8:20, 8:20] = [250, 250, 0]
    found, clean = measure(jumpy, FPS).warp_error, measure(frames, FPS).warp_error
    assert found[9] > 4 * clean[9]
    assert found[10] > 4 * clean[10]
    np.testing.assert_allclose(found[:9], clean[:9])
