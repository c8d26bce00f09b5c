"""Speed and breaks of tracks: blind to turns, jitter is not motion, teleports are breaks."""

from __future__ import annotations

import numpy as np
import pytest

from densedpo.miniworld import scenes, tracks
from densedpo.miniworld.defects import path_steps


def true_tracks(count: int) -> list[scenes.Scene]:
    pool = [subject for subject in scenes.subjects() if subject.motion != "spin"]
    return [scenes.draw_scene(pool[index % len(pool)], "test-tracks", index) for index in range(count)]


def test_turns_and_reflections_are_no_breaks() -> None:
    for scene in true_tracks(200):
        steps = tracks.step_lengths(scene.centre_px)
        assert tracks.jump_excess(steps).max() == 0
        assert tracks.freeze_share(steps, steps).max() == 0


@pytest.mark.parametrize(("jitter_px", "least"), [(0.0, 0.995), (0.2, 0.99)])
def test_speed_follows_the_path(jitter_px: float, least: float) -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    drawn = true_tracks(150)
    truth = np.array([path_steps(scene).mean() for scene in drawn])
    shaken = [scene.centre_px + jitter_px * rng.normal(size=(33, 2)) for scene in drawn]
    found = np.array([tracks.line_speeds(track).mean() for track in shaken])
    assert np.corrcoef(found, truth)[0, 1] >= least
    assert found.mean() == pytest.approx(truth.mean(), rel=0.03)


def test_a_teleport_is_a_break_and_no_motion() -> None:
    track = np.stack([np.arange(33) * 0.4, np.zeros(33)], axis=1)
    track[17:, 1] += 12
    assert np.flatnonzero(tracks.jump_excess(tracks.step_lengths(track))).tolist() == [16]
    assert tracks.line_speeds(track).mean() == pytest.approx(0.4, rel=0.15)


def test_a_teleport_there_and_back_is_two_breaks() -> None:
    track = np.stack([np.arange(33) * 0.4, np.zeros(33)], axis=1)
    track[17, 1] += 12
    assert np.flatnonzero(tracks.jump_excess(tracks.step_lengths(track))).tolist() == [16, 17]


def test_standing_still_is_no_freeze_but_stopping_is() -> None:
    assert tracks.freeze_share(np.zeros(32), np.zeros(32)).max() == 0
    steps = np.full(32, 1.0)
    steps[10:14] = 0
    assert np.flatnonzero(tracks.freeze_share(steps, steps)).tolist() == [10, 11, 12, 13]


def test_two_frames_are_enough() -> None:
    track = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert tracks.line_speeds(track).tolist() == [1.0]
    assert tracks.jump_excess(tracks.step_lengths(track)).tolist() == [0.0]
