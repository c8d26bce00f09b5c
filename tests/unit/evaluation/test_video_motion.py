from __future__ import annotations

import cv2
import numpy as np
import pytest
from tests.unit.evaluation.video_scenes import Frames, Thing, panned, plain, scored

from densedpo.keys import stream

HEIGHT, WIDTH, FPS = 144, 240, 8.0
DIRECTION = np.array([0.8, 0.6])


def step(share: float, height: int = HEIGHT) -> tuple[float, float]:
    """A step of ``share`` of the picture's short side."""
    x, y = DIRECTION * share * height
    return float(x), float(y)


def mean_speed(frames: Frames, fps: float = FPS) -> float:
    return scored(frames, fps).scores["motion_px_s"]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (144, 240), (512, 512)])
@pytest.mark.parametrize("share", [0.01, 0.06])
def test_a_pan_is_right_within_5_percent_and_is_the_camera(height: int, width: int, share: float) -> None:
    short = min(height, width)
    frames = panned(height, width, step(share, short), count=4)
    for fps in (8.0, 24.0):
        found, truth = scored(frames, fps).scores, share * short * fps
        assert found["motion_px_s"] == pytest.approx(truth, rel=0.05)
        assert found["top_motion_px_s"] == pytest.approx(truth, rel=0.06)
        assert found["camera_motion_px_s"] == pytest.approx(truth, rel=0.05)
        assert found["object_motion_px_s"] < 0.02 * truth
        assert found["motion_in_range"] == 1
        assert found["moving_share"] == 1


def test_a_pan_over_a_very_wide_picture_is_the_camera() -> None:
    for height, width in ((64, 640), (640, 64)):
        found, truth = scored(panned(height, width, step(0.03, 64), count=4)).scores, 0.03 * 64 * FPS
        assert found["camera_motion_px_s"] == pytest.approx(truth, rel=0.05)
        assert found["object_motion_px_s"] < 0.02 * truth


@pytest.mark.parametrize(("zoom", "roll_deg"), [(0.02, 0.0), (0.0, 2.0), (0.03, 1.0)])
def test_zoom_and_roll_are_the_camera_too(zoom: float, roll_deg: float) -> None:
    found = scored(panned(HEIGHT, WIDTH, (0, 0), zoom=zoom, roll_deg=roll_deg)).scores
    assert found["motion_in_range"] == 1
    assert found["camera_motion_px_s"] > 5
    assert found["object_motion_px_s"] < 0.02 * found["camera_motion_px_s"]


@pytest.mark.parametrize("share", [0.01, 0.03, 0.07])
@pytest.mark.parametrize("textured", [True, False])
def test_a_thing_before_a_still_ground_is_right(share: float, textured: bool) -> None:
    """Its speed within 5 %; the mean over the picture, which its outline goes into, within 8 %."""
    ground = panned(HEIGHT, WIDTH, (0, 0)) if textured else plain(HEIGHT, WIDTH)
    frames, covered = Thing(60, step(share)).on(ground)
    found, truth = scored(frames).scores, share * HEIGHT * FPS
    assert found["top_motion_px_s"] == pytest.approx(truth, rel=0.05)
    assert found["object_motion_px_s"] == pytest.approx(covered * truth, rel=0.08)
    assert found["motion_px_s"] == pytest.approx(covered * truth, rel=0.08)
    assert found["camera_motion_px_s"] < 0.02 * truth
    assert found["moving_share"] == pytest.approx(covered, rel=0.15)
    assert found["motion_in_range"] == 1


def test_a_plain_thing_before_a_plain_ground_has_its_inside_too() -> None:
    frames, covered = Thing(50, step(0.03), plain=True).on(plain(HEIGHT, WIDTH))
    assert scored(frames).scores["object_motion_px_s"] == pytest.approx(covered * 0.03 * HEIGHT * FPS, rel=0.12)


def test_a_thing_before_a_moving_ground_is_told_from_it() -> None:
    pan = np.array([-3.0, 1.0])
    frames, covered = Thing(60, step(0.03)).on(panned(HEIGHT, WIDTH, (-3.0, 1.0)))
    found = scored(frames).scores
    relative = np.linalg.norm(np.array(step(0.03)) - pan) * FPS
    assert found["camera_motion_px_s"] == pytest.approx(np.linalg.norm(pan) * FPS, rel=0.05)
    assert found["object_motion_px_s"] == pytest.approx(covered * relative, rel=0.1)


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_motion_too_fast_to_follow_is_said_to_be_out_of_range(share: float) -> None:
    moving, _ = Thing(40, step(share)).on(panned(HEIGHT, WIDTH, (0, 0), count=4))
    for frames in (moving, panned(HEIGHT, WIDTH, step(share), count=4)):
        found = scored(frames).scores
        assert found["motion_in_range"] == 0
        assert found["out_of_range_share"] > 0.5


def test_no_speed_is_wrong_without_being_said() -> None:
    """From slow to far too fast: wherever a pan or a thing reads more than 10 % off, it is out of range."""
    silent, noticed = [], 0
    for share in (0.02, 0.05, 0.08, 0.11, 0.14, 0.18, 0.25):
        thing, covered = Thing(36, step(share)).on(panned(HEIGHT, WIDTH, (0, 0), count=4))
        for frames, part in ((thing, covered), (panned(HEIGHT, WIDTH, step(share), count=4), 1.0)):
            found = scored(frames).scores
            wrong = abs(found["motion_px_s"] / (part * share * HEIGHT * FPS) - 1) > 0.1
            noticed += int(found["motion_in_range"] == 0)
            if wrong and found["motion_in_range"]:
                silent.append((share, part, found["motion_px_s"]))
    assert silent == []
    assert 4 <= noticed <= 10  # the check neither sleeps nor cries at everything


def test_frames_left_out_would_lose_the_motion() -> None:
    """Why every frame is used: of a film at 24 fps, 8 pictures a second lie too far apart."""
    frames, covered = Thing(50, step(0.04)).on(panned(HEIGHT, WIDTH, (0, 0), count=13))
    truth = covered * 0.04 * HEIGHT * 24
    every, third = scored(frames, 24.0).scores, scored(frames[::3], 8.0).scores
    assert every["motion_px_s"] == pytest.approx(truth, rel=0.08)
    assert every["motion_in_range"] == 1
    assert third["motion_px_s"] < 0.8 * truth
    assert third["motion_in_range"] == 0


def test_frozen_reads_nothing_and_noise_next_to_nothing() -> None:
    still = panned(HEIGHT, WIDTH, (0, 0))
    frozen = scored(still).scores
    assert frozen["motion_px_s"] == frozen["top_motion_px_s"] == frozen["flow_acceleration_px_s2"] == 0
    assert frozen["warp_error"] == frozen["flicker"] == 0
    assert frozen["freeze_share"] == frozen["duplicate_share"] == 1
    noise = stream("tests", "video-noise").normal(0, 4, still.shape)
    noisy = scored(np.clip(still + noise, 0, 255).astype(np.uint8)).scores
    assert noisy["motion_px_s"] < 0.5
    assert noisy["duplicate_share"] == 0


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0])
def test_a_share_of_uneven_times_stays_at_most_1(fps: float) -> None:
    for count in range(2, 32):
        frozen = scored(plain(32, 32, count), fps).scores
        assert 0.999 < frozen["freeze_share"] <= 1


def test_a_repeated_picture_changes_no_mean_speed() -> None:
    """Film at 24 pictures a second shown at 30: every fifth picture is a repeat."""
    frames = panned(HEIGHT, WIDTH, step(0.02), count=9)
    shown = frames[[0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8]]
    found = scored(shown, 30.0).scores
    assert found["motion_px_s"] == pytest.approx(0.02 * HEIGHT * 8 / (10 / 30), rel=0.05)
    assert found["duplicate_share"] == pytest.approx(0.2)
    assert found["freeze_share"] == 0


def test_steady_motion_has_little_acceleration_and_jerky_motion_much() -> None:
    wide = panned(HEIGHT, 2 * WIDTH, (0, 0), count=1)[0]
    steady = np.stack([wide[:, place : place + WIDTH] for place in (0, 4, 8, 12, 16, 20, 24)])
    jerky = np.stack([wide[:, place : place + WIDTH] for place in (0, 1, 8, 9, 16, 17, 24)])
    assert mean_speed(steady) == pytest.approx(mean_speed(jerky), rel=0.05)
    smooth, rough = (scored(frames).scores["flow_acceleration_px_s2"] for frames in (steady, jerky))
    assert rough == pytest.approx(6 * FPS**2, rel=0.25)  # each step is 6 px longer or shorter than the last
    assert smooth < 0.05 * rough


def test_a_wrong_twin_that_takes_the_camera_for_a_thing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from densedpo.clips.camera_fit import STILL
    from densedpo.evaluation.video import between

    monkeypatch.setattr(between, "fit_camera", lambda *_: (STILL, 0.0))
    found = scored(panned(HEIGHT, WIDTH, step(0.03), count=4)).scores
    assert found["camera_motion_px_s"] == 0
    assert found["object_motion_px_s"] > 0.5 * found["motion_px_s"] > 0


@pytest.mark.parametrize("share", [0.002, 0.005])
def test_a_slow_pan_of_fine_grain_is_right_within_5_percent(share: float) -> None:
    """Flow alone reads a pan of half a pixel of fine grain a fifth too fast."""
    height, width, count = 240, 384, 5
    noise = stream("tests", "fine-grain").standard_normal((height + 40, width + 40, 3)).astype(np.float32)
    grain = np.clip(128 + 180 * cv2.GaussianBlur(noise, (0, 0), 1.4), 0, 255)
    x, y = step(share, height)
    places = [np.array([[1, 0, x * index - 20], [0, 1, y * index - 20]]) for index in range(count)]
    frames = [cv2.warpAffine(grain, place, (width, height), flags=cv2.INTER_CUBIC) for place in places]
    found = scored(np.clip(np.stack(frames) + 0.5, 0, 255).astype(np.uint8)).scores
    assert found["motion_px_s"] == pytest.approx(share * height * FPS, rel=0.05)
    assert found["object_motion_px_s"] < 0.02 * share * height * FPS


@pytest.mark.parametrize("pan", [(0.0, 0.0), (2.0, 1.0)])
def test_a_thing_over_two_fifths_of_the_picture_is_not_the_camera(pan: tuple[float, float]) -> None:
    """It agrees with itself better than the ground does, whose flow it smears; but the ground reaches past it."""
    frames, covered = Thing(118, step(0.04)).on(panned(HEIGHT, WIDTH, pan))
    found = scored(frames).scores
    beside = float(np.linalg.norm(np.array(step(0.04)) - pan)) * FPS
    assert covered > 0.39
    assert found["camera_motion_px_s"] == pytest.approx(float(np.linalg.norm(pan)) * FPS, rel=0.03, abs=0.1)
    assert found["object_motion_px_s"] == pytest.approx(covered * beside, rel=0.05)


def test_a_large_thing_clear_of_the_sides_before_a_plain_ground_is_not_the_camera() -> None:
    frames, covered = Thing(104, step(0.02)).on(plain(HEIGHT, HEIGHT + 16))
    found = scored(frames).scores
    assert found["camera_motion_px_s"] == 0
    assert found["object_motion_px_s"] == pytest.approx(covered * 0.02 * HEIGHT * FPS, rel=0.08)


def test_a_pan_below_a_plain_sky_is_the_camera() -> None:
    """Texture reaches three sides of the picture, and less than two thirds of its height."""
    frames = panned(HEIGHT, WIDTH, (4.0, 0.0))
    frames[:, : HEIGHT * 2 // 5] = (150, 180, 230)
    found = scored(frames).scores
    assert found["camera_motion_px_s"] == pytest.approx(4 * FPS, rel=0.03)
    assert found["object_motion_px_s"] < 0.02 * 4 * FPS


@pytest.mark.parametrize("bars", [np.s_[:, :20], np.s_[:, :, :30]])
@pytest.mark.parametrize("pan", [(4.0, 0.0), (0.0, -4.0)])
def test_black_bars_stand_still_and_the_pan_between_them_is_the_camera(
    bars: tuple[slice, ...], pan: tuple[float, float]
) -> None:
    frames = panned(HEIGHT, WIDTH, pan)
    frames[bars] = frames[:, ::-1, ::-1][bars] = 0
    found, truth = scored(frames).scores, 4 * FPS * float((frames[0].max(axis=2) > 0).mean())
    assert found["motion_px_s"] == pytest.approx(truth, rel=0.05)
    assert found["camera_motion_px_s"] == pytest.approx(truth, rel=0.05)
    assert found["object_motion_px_s"] < 0.05 * truth
    assert found["motion_in_range"] == 1
