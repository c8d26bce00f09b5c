"""Stored scores are served by a scorer's VERSION: numbers that change without it are found here.

The numbers of a few clips are kept in tests/data/golden/scores.json, under the versions that gave them. If this fails
after a change that was meant: raise the VERSION that it names, and write the file again with REWRITE_SCORES=1.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.evaluation.video_scenes import Frames, Thing, panned, plain

from densedpo.evaluation import properties
from densedpo.evaluation.scorers import FrameScorer, Scorer
from densedpo.miniworld import scenes
from densedpo.miniworld.scorer import ExaminerScorer

KEPT = Path(__file__).parents[2] / "data" / "golden" / "scores.json"


def drawn() -> tuple[Frames, str]:
    subject = scenes.subjects()[0]
    frames = scenes.render(scenes.draw_scene(subject, "versions", 0, 0)).copy()
    frames[::3, 4:12, 4:12] //= 2  # a flaw that comes and goes
    return frames, subject.caption


def clips() -> dict[str, Frames]:
    """Return clips that together move every score: wide, tall and square, a pan, a thing, a cut, a fade, a freeze."""
    wide, other = panned(48, 240, (5.0, 0.0)), panned(48, 240, (0.0, 1.0), zoom=0.02)
    tall = panned(160, 64, (0.0, -2.0), count=9)
    fade = (tall * np.linspace(1, 0, len(tall))[:, None, None, None]).astype(np.uint8)
    return {
        "wide": wide,
        "thing": Thing(24, (3.0, 2.0)).on(plain(96, 96))[0],
        "fade": fade,
        "cut and freeze": np.concatenate([other // 4, np.repeat(wide[-1:], 6, axis=0)]),
    }


def numbers() -> dict[str, Any]:
    frames, caption = drawn()
    found: dict[str, Any] = {"frames": {}, "properties": {}, "examiner": {"drawn": {}}}
    for name, clip in clips().items():
        found["frames"][name] = FrameScorer().score(clip, 8.0, "")
        found["properties"][name] = properties.properties_of(clip)
    found["examiner"]["drawn"] = ExaminerScorer().score(frames, scenes.FPS, caption)
    return found


VERSIONS = {"frames": FrameScorer.version, "properties": properties.VERSION, "examiner": ExaminerScorer.version}


@pytest.mark.parametrize("scorer", VERSIONS)
def test_other_numbers_are_another_version(scorer: str) -> None:
    found = numbers()
    if os.environ.get("REWRITE_SCORES"):
        text = json.dumps({"versions": VERSIONS, "numbers": found}, indent=2, sort_keys=True)
        KEPT.write_text(text + "\n", encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    assert kept["versions"][scorer] == VERSIONS[scorer], f"write {KEPT.name} again with REWRITE_SCORES=1"
    for clip, scores in kept["numbers"][scorer].items():
        # processors differ in the last digits of flow; a change that matters is larger
        expected = {name: pytest.approx(value, rel=0.02, abs=1e-4) for name, value in scores.items()}
        assert found[scorer][clip] == expected, f"{scorer}, {clip}: other numbers; raise its VERSION"


def test_the_clips_move_every_score() -> None:
    """A score that were 0 in all clips could change unseen."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))["numbers"]
    for scorer, of_clips in kept.items():
        names = {name for scores in of_clips.values() for name in scores}
        assert {name for scores in of_clips.values() for name, value in scores.items() if value} == names, scorer


@pytest.mark.parametrize("scorer", [FrameScorer(), ExaminerScorer()])
def test_scorers_have_versions(scorer: Scorer) -> None:
    assert isinstance(scorer, Scorer)
