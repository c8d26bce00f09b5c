"""The examiner on single clips: what it returns, what it refuses, and what its badness must not know."""

from __future__ import annotations

import numpy as np
import pytest

from densedpo.errors import ConfigError, MediaError
from densedpo.miniworld import scenes
from densedpo.miniworld.defects import DEFECTS, path_steps, plant
from densedpo.miniworld.examiner import Examination, examine


def scene_of(caption: str, number: int = 0) -> scenes.Scene:
    subject = scenes.parse_caption(caption)
    assert subject is not None
    return scenes.draw_scene(subject, "test-examiner", number)


@pytest.mark.parametrize("caption", [scenes.subjects()[index].caption for index in range(0, 114, 9)])
def test_clean_clip_is_perfect_and_measured(caption: str) -> None:
    scene = scene_of(caption)
    exam = examine(scenes.render(scene), caption)
    scores = exam.scores()
    assert scores["artifact"] < 0.01
    assert scores["temporal_consistency"] > 0.99
    assert exam.text == {"shape": 1.0, "colour": 1.0}
    assert exam.found.all()
    assert np.abs(exam.centre_px - scene.centre_px).max() < 0.25
    assert np.abs(exam.radius_px - scene.radius_px).max() < 0.2
    assert scores["dynamic_degree"] == pytest.approx(path_steps(scene).mean() * scenes.FPS, rel=0.2)


def test_shapes_of_the_result() -> None:
    exam = examine(scenes.render(scene_of("a red square drifting"))[:9], "a red square drifting", fps=8.0)
    assert exam.artifact.shape == exam.radius_px.shape == exam.found.shape == (9,)
    assert exam.consistency.shape == exam.speed_px_s.shape == (8,)
    assert exam.centre_px.shape == (9, 2)


@pytest.mark.parametrize(("drawn", "asked"), [("circle", "square"), ("square", "cross"), ("triangle", "circle")])
def test_wrong_shape_is_a_text_fault_and_an_artifact(drawn: str, asked: str) -> None:
    frames = scenes.render(scene_of(f"a cyan {drawn} drifting"))
    exam = examine(frames, f"a cyan {asked} drifting")
    assert exam.shape_share == 0.0
    assert exam.colour_share == 1.0
    assert exam.scores()["artifact"] > 0.03


def test_empty_clip_scores_about_one() -> None:
    frames = np.full((9, 32, 32, 3), 40, dtype=np.uint8)
    exam = examine(frames, "a red circle drifting")
    assert not exam.found.any()
    assert exam.scores() == pytest.approx(
        {"artifact": 1.0, "temporal_consistency": np.exp(-1), "dynamic_degree": 0.0, "text_agreement": 0.0}, abs=0.15
    )


def test_noise_is_bad_and_finite() -> None:
    frames = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    scores = examine(frames, "a red square spinning").scores()
    assert all(np.isfinite(value) for value in scores.values())
    assert scores["artifact"] > 1.0


def test_one_missing_frame_is_about_one_and_the_others_stay_clean() -> None:
    scene = scene_of("a green circle orbiting")
    defect = plant("vanished", scene)
    exam = examine(defect.frames, scene.subject.caption)
    gone = np.zeros(33, dtype=bool)
    gone[defect.touched] = True
    assert np.array_equal(exam.found, ~gone)
    assert exam.artifact[gone].min() > 0.6
    assert exam.artifact[gone].max() < 1.4
    assert exam.artifact[~gone].max() < 0.02


@pytest.mark.parametrize("kind", ["flicker", "deformed", "doubled", "see-through"])
def test_faults_do_not_read_as_motion(kind: str) -> None:
    slow = min((scene_of("a yellow square drifting", n) for n in range(8)), key=lambda scene: scene.speed_px_s)
    clean = examine(scenes.render(slow), slow.subject.caption).scores()["dynamic_degree"]
    faulty = examine(plant(kind, slow).frames, slow.subject.caption).scores()["dynamic_degree"]
    assert faulty == pytest.approx(clean, rel=0.35)


def test_freeze_lowers_consistency_where_it_happens() -> None:
    scene = max((scene_of("a blue triangle orbiting", n) for n in range(6)), key=lambda scene: scene.speed_px_s)
    defect = plant("freeze", scene)
    exam = examine(defect.frames, scene.subject.caption)
    inside = np.zeros(32, dtype=bool)
    inside[defect.touched.start - 1 : defect.touched.stop - 1] = True
    assert exam.consistency[inside].mean() < 0.6
    assert exam.consistency[~inside].mean() > 0.98


def test_badness_is_quality_alone() -> None:
    rows = []
    for number in range(10):
        scene = scene_of("a magenta circle drifting", number)
        rows.append((examine(scenes.render(scene), scene.subject.caption).badness(), scene.speed_px_s))
    badness, speed = np.array(rows).T
    assert np.ptp(badness) < 0.3
    fields = {"artifact": np.full(9, 0.1), "consistency": np.full(8, 0.9)}
    shared = {"radius_px": np.ones(9), "centre_px": np.zeros((9, 2)), "found": np.ones(9, dtype=bool)}
    still, fast = (
        Examination(**fields, **shared, speed_px_s=np.full(8, pace), shape_share=1.0, colour_share=1.0)
        for pace in (0.0, 9.0)
    )
    assert still.badness() == fast.badness() == pytest.approx(np.log(0.11) + 0.2)
    assert speed.std() > 0


def test_segments_count_each_step_once() -> None:
    consistency = np.ones(8)
    consistency[3] = 0.0  # the step from frame 3 to frame 4
    exam = Examination(
        np.full(9, 0.1), consistency, np.zeros(8), 1.0, 1.0, np.ones(9), np.zeros((9, 2)), np.ones(9, dtype=bool)
    )
    assert exam.badness(slice(0, 4)) == pytest.approx(np.log(0.11))
    assert exam.badness(slice(4, 9)) == pytest.approx(np.log(0.11) + 2 / 5)


def test_refuses_what_is_not_of_this_world() -> None:
    with pytest.raises(ConfigError, match="a dog running"):
        examine(np.zeros((9, 32, 32, 3), dtype=np.uint8), "a dog running")
    for shape in [(9, 64, 64, 3), (1, 32, 32, 3), (9, 32, 32)]:
        with pytest.raises(MediaError, match="at least 2 frames"):
            examine(np.zeros(shape, dtype=np.uint8), "a red circle drifting")


@pytest.mark.parametrize("kind", DEFECTS)
def test_defects_repeat_and_touch_only_what_they_say(kind: str) -> None:
    scene = scene_of("a red cross zigzagging")
    first, again, other = plant(kind, scene, 1), plant(kind, scene, 1), plant(kind, scene, 2)
    assert np.array_equal(first.frames, again.frames) and first.touched == again.touched
    assert not np.array_equal(first.frames, other.frames)
    changed = (first.frames != scenes.render(scene)).any(axis=(1, 2, 3))
    assert changed.any()
    if kind != "jump":  # a jump moves everything after it
        untouched = np.ones(33, dtype=bool)
        untouched[first.touched] = False
        assert not changed[untouched].any()
