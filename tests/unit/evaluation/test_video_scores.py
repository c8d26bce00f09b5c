from __future__ import annotations

import cv2
import numpy as np
import pytest
from tests.unit.evaluation.video_scenes import Thing, panned, scored

from densedpo.clips.measure import measure
from densedpo.evaluation.scorers import FrameScorer
from densedpo.evaluation.video.meter import VideoMeter, measure_frames
from densedpo.evaluation.video.summary import summarise
from densedpo.keys import stream

FPS = 8.0
STILL = panned(96, 160, (0, 0), count=12)
MOVING = panned(96, 160, (2.0, 1.0), count=12)


def test_every_score_is_finite_and_in_its_range() -> None:
    found = scored(MOVING, FPS, 0.5)
    assert set(FrameScorer.infos) == set(found.scores)
    for scores in (found.scores, *found.segments):
        assert all(np.isfinite(value) for value in scores.values())
        assert all(0 <= scores[name] <= 1 for name in scores if name.endswith(("_share", "_error", "_coverage")))
    assert set(found.segments[0]) == set(found.scores) | {"start_s", "end_s"}


def test_exactly_one_score_is_motion_and_a_quality_with_a_direction_follows() -> None:
    motion = [name for name, info in FrameScorer.infos.items() if info.is_motion]
    assert motion == ["motion_px_s"]
    directed = [name for name, info in FrameScorer.infos.items() if info.better != "neither"]
    assert directed[0] == "warp_error"


def test_the_frame_scorer_says_what_the_scores_say() -> None:
    scores = FrameScorer().score(MOVING, FPS, "any prompt")
    assert list(scores) == list(FrameScorer.infos)
    assert scores == scored(MOVING, FPS).scores


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 8), (3, 2), (16, 200), (120, 20)])
def test_any_size_and_a_single_frame(height: int, width: int) -> None:
    frames = stream("tests", "sizes").integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    assert all(np.isfinite(value) for value in scored(frames).scores.values())
    alone = scored(frames[:1]).scores
    assert all(np.isfinite(value) for value in alone.values())
    assert (alone["motion_px_s"], alone["freeze_share"], alone["warp_error"]) == (0, 1, 0)


def test_a_large_picture_is_looked_at_smaller_but_measured_in_its_own_pixels() -> None:
    large = np.stack([cv2.resize(frame, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC) for frame in MOVING[:4]])
    found, small = scored(large.astype(np.uint8)).scores, scored(MOVING[:4]).scores
    assert found["motion_px_s"] == pytest.approx(8 * small["motion_px_s"], rel=0.05)


def test_flicker_and_what_motion_cannot_explain_are_seen() -> None:
    clean = scored(MOVING).scores
    gain = 1 + 0.1 * np.where(np.arange(12) % 2, 1, -1)[:, None, None, None]
    shaken = scored(np.clip(MOVING * gain, 0, 255).astype(np.uint8)).scores
    assert shaken["flicker"] > 10 * clean["flicker"]
    assert shaken["warp_error"] > 5 * clean["warp_error"]
    torn = MOVING.copy()
    torn[6, 30:60, 40:90] = stream("tests", "torn").integers(0, 256, (30, 50, 3))
    assert scored(torn).scores["warp_coverage"] < clean["warp_coverage"]


def test_freezes_repeats_and_black_pictures_are_counted() -> None:
    paused = np.concatenate([MOVING[:4], np.repeat(MOVING[4:5], 6, axis=0), MOVING[5:7]])
    found = scored(paused, FPS).scores
    assert found["freeze_share"] == pytest.approx(5 / 11)
    assert found["duplicate_share"] == pytest.approx(5 / 11)
    short = np.concatenate([MOVING[:4], np.repeat(MOVING[4:5], 3, axis=0), MOVING[5:7]])
    assert scored(short, FPS).scores["freeze_share"] == 0  # a quarter of a second is no freeze
    dark = MOVING.copy()
    dark[:3] = stream("tests", "dark").integers(0, 12, (3, 96, 160, 3))
    assert scored(dark).scores["black_share"] == pytest.approx(0.25)


def test_a_cut_is_counted_and_is_no_motion() -> None:
    other = np.clip(255 - 0.5 * panned(96, 160, (2.0, 1.0), count=20)[8:], 0, 255).astype(np.uint8)
    found, whole = scored(np.concatenate([MOVING, other])).scores, scored(MOVING).scores
    assert found["cuts"] == 1
    assert found["motion_px_s"] == pytest.approx(whole["motion_px_s"], rel=0.05)
    assert found["motion_in_range"] == 1


def test_light_and_colour_agree_with_the_audits_measures() -> None:
    found, audit = scored(STILL).scores, measure(STILL, FPS)
    for name in ("brightness", "saturation", "sharpness"):
        assert found[name] == pytest.approx(getattr(audit, name).mean(), abs=0.005)


def test_drift_is_from_the_first_quarter_to_the_last() -> None:
    grey = STILL.mean(axis=3, keepdims=True)
    less = np.linspace(1, 0.4, 12)[:, None, None, None]
    faded = scored(
        np.clip(grey + less * (STILL - grey) + 3.0 * np.arange(12)[:, None, None, None], 0, 255).astype(np.uint8)
    )
    steady = scored(STILL)
    assert faded.scores["saturation_drift"] < -0.1
    assert faded.scores["brightness_drift"] == pytest.approx(27 / 255, rel=0.15)
    assert faded.scores["colour_drift"] > 0.08
    assert steady.scores["saturation_drift"] == steady.scores["colour_drift"] == 0
    assert scored(np.flip(STILL, 3).copy()).scores["colour_drift"] == 0


def test_blur_lowers_sharpness() -> None:
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in STILL]).astype(np.uint8)
    assert scored(blurred).scores["sharpness"] < 0.6 * scored(STILL).scores["sharpness"]


def test_segments_have_their_own_scores() -> None:
    """A second of motion and a second of standing still, then a short tail that joins it."""
    frames = np.concatenate([panned(96, 160, (2.0, 0.0), count=8), np.repeat(MOVING[7:8], 10, axis=0)])
    found = scored(frames, FPS, 1.0).segments
    assert [(part["start_s"], part["end_s"]) for part in found] == [(0.0, 1.0), (1.0, 2.25)]
    assert found[0]["motion_px_s"] > 10
    assert found[1]["motion_px_s"] == 0
    assert found[1]["freeze_share"] == 1


def test_an_uneven_rate_has_the_speed_that_is_seen() -> None:
    """The same pan with every other frame of its second half left out: the steps are longer, and take longer."""
    frames = panned(96, 160, (2.0, 0.0), count=13)
    meter = VideoMeter(96, 160)
    for index in (0, 1, 2, 3, 4, 5, 6, 8, 10, 12):
        meter.add(frames[index], index / FPS)
    uneven = summarise(meter.numbers(), 1.0, 0.35)
    assert uneven.scores["motion_px_s"] == pytest.approx(2 * FPS, rel=0.03)
    assert uneven.scores["flow_acceleration_px_s2"] < 0.05 * 2 * FPS**2
    assert uneven.segments[1]["motion_px_s"] == pytest.approx(2 * FPS, rel=0.05)


def test_a_frame_shown_at_the_same_instant_is_left_out() -> None:
    meter = VideoMeter(96, 160)
    for frame, time_s in zip(MOVING[:4], (0.0, 0.125, 0.125, 0.25), strict=True):
        meter.add(frame, time_s)
    assert meter.numbers().times_s.tolist() == [0, 0.125, 0.25]


def test_the_same_video_twice_gives_the_same_numbers() -> None:
    frames, _ = Thing(40, (3.0, 1.0)).on(MOVING)
    first, second = measure_frames(frames, FPS), measure_frames(frames, FPS)
    assert all((first.steps[name] == second.steps[name]).all() for name in first.steps)
