"""The metric judge, the judging stage, the measures and the audit on drawn clips in real files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.labels.conftest import PAIR_COLUMNS, pair_row

from densedpo.clips.encode import write_video
from densedpo.errors import MediaError, ProjectError
from densedpo.keys import stream
from densedpo.labels.audit import audit
from densedpo.labels.judges.base import Judgement, SegmentPair
from densedpo.labels.judges.metric import MetricJudge
from densedpo.labels.judges.run import judge_pairs
from densedpo.labels.measures import measure_pairs
from densedpo.labels.snapshot import freeze
from densedpo.labels.store import current_answers
from densedpo.miniworld.scenes import draw_scene, render, subjects
from densedpo.store.project import Project
from densedpo.store.tables import read_table, write_table

Frames = NDArray[np.uint8]


def drawn(number: int) -> Frames:
    return render(draw_scene(subjects()[number], "judge-tests", number))


def flickering(frames: Frames) -> Frames:
    gain = 1 + 0.25 * stream("judge-tests", "flicker").choice([-1, 1], len(frames))
    return np.clip(frames * gain[:, None, None, None], 0, 255).astype(np.uint8)


@dataclass
class Scripted:
    """A judge that gives prepared judgements, and counts how often it is asked."""

    said: Iterator[Judgement]
    settings_digest: str = "one"
    parallel: int = 1
    name: str = "scripted"
    asked: list[SegmentPair] = field(default_factory=list)

    def judge(self, pair: SegmentPair) -> Judgement:
        self.asked.append(pair)
        return next(self.said)


def always(answer: Judgement, digest: str = "one") -> Scripted:
    return Scripted(itertools.repeat(answer), digest)


@pytest.fixture(scope="module")
def videos() -> dict[str, tuple[Frames, Frames]]:
    clean = [drawn(number) for number in (0, 7, 21)]
    return {
        "p1": (clean[0], flickering(clean[0])),
        "p2": (flickering(clean[1]), clean[1]),
        "p3": (clean[2], clean[2]),
    }


@pytest.fixture
def filmed(tmp_path: Path, videos: dict[str, tuple[Frames, Frames]]) -> Project:
    project = Project(tmp_path)
    for pair_id, sides in videos.items():
        for side, frames in zip("ab", sides, strict=True):
            write_video(project.pairs / pair_id / f"{side}.mp4", frames, 8.0)
    write_table(project.pairs_table, [pair_row(pair_id) for pair_id in videos], PAIR_COLUMNS)
    return project


def test_flicker_loses_on_either_side() -> None:
    judge = MetricJudge()
    for number in (0, 7, 21, 40):
        clean = drawn(number)[:9]
        bad = flickering(clean)
        assert judge.judge(SegmentPair(clean, bad, 8.0)).answer == "a"
        assert judge.judge(SegmentPair(bad, clean, 8.0)).answer == "b"


def test_blurred_texture_loses_where_nothing_moves() -> None:
    texture = stream("judge-tests", "texture").integers(0, 256, (32, 32, 3)).astype(np.uint8)
    soft = cv2.GaussianBlur(texture, (0, 0), 1.0).astype(np.uint8)
    sharp, blurred = (np.repeat(image[None], 8, axis=0) for image in (texture, soft))
    assert MetricJudge().judge(SegmentPair(sharp, blurred, 8.0)).answer == "a"


def test_swap_is_exact_on_noise() -> None:
    swapped = {"a": "b", "b": "a", "tie": "tie"}
    judge = MetricJudge(tie_band=0.02)
    seen = set()
    for number in range(12):
        rng = stream("judge-tests", "noise", number)
        a, b = (rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8) for _ in range(2))
        forward, backward = judge.judge(SegmentPair(a, b, 8.0)), judge.judge(SegmentPair(b, a, 8.0))
        assert forward.answer is not None
        assert backward.answer == swapped[forward.answer]
        seen.add(forward.answer)
    assert len(seen) > 1


def test_identical_sides_tie_even_without_a_band() -> None:
    frames = drawn(5)[:8]
    assert MetricJudge(tie_band=0.0).judge(SegmentPair(frames, frames, 8.0)).answer == "tie"


def test_one_frame_cannot_be_judged() -> None:
    frames = drawn(5)[:1]
    assert MetricJudge().judge(SegmentPair(frames, frames, 8.0)).answer == "cannot_judge"


def test_other_settings_other_digest() -> None:
    assert MetricJudge(0.1).settings_digest != MetricJudge(0.2).settings_digest
    assert MetricJudge(0.1).settings_digest == MetricJudge(0.1).settings_digest


def test_judging_real_files_then_repeating(filmed: Project) -> None:
    summary = judge_pairs(filmed, MetricJudge(), 1.0)
    assert (summary.judged, summary.skipped) == (12, 0)
    assert summary.answers == {"a": 4, "b": 4, "tie": 4}
    assert summary.outcomes == {"ok": 12}
    again = judge_pairs(filmed, MetricJudge(), 1.0)
    assert (again.judged, again.skipped) == (0, 12)
    forced = judge_pairs(filmed, MetricJudge(), 1.0, force=True)
    assert forced.judged == 12
    assert len(current_answers(filmed.labels_database)) == 12
    frozen = freeze(filmed)
    assert (frozen.source, frozen.pairs, frozen.non_tie_segments) == ("judge", 3, 8)
    json.dumps(summary.as_dict())


def test_the_judge_sees_the_frames_of_its_segment(filmed: Project) -> None:
    judge = always(Judgement("tie"))
    judge_pairs(filmed, judge, 1.0)
    assert [len(pair.frames_a) for pair in judge.asked[:4]] == [8, 8, 8, 9]
    assert judge.asked[0].caption == "caption of p1"
    starts = [event.start_s for event in current_answers(filmed.labels_database)[:4]]
    assert starts == [0.0, 1.0, 2.0, 3.0]


def test_other_settings_are_judged_anew_and_replace(filmed: Project) -> None:
    judge_pairs(filmed, always(Judgement("a")), 1.0)
    assert judge_pairs(filmed, always(Judgement("b"), "two"), 1.0).judged == 12
    assert judge_pairs(filmed, always(Judgement("b"), "two"), 1.0).skipped == 12
    assert {event.answer for event in current_answers(filmed.labels_database)} == {"b"}
    assert judge_pairs(filmed, always(Judgement("a")), 1.0).judged == 12
    assert {event.answer for event in current_answers(filmed.labels_database)} == {"a"}


def test_unusable_judgements_are_outcomes_and_failures_are_asked_again(filmed: Project) -> None:
    said = [Judgement(None, "failed"), Judgement(None, "refused"), Judgement("a", cost=0.5)]
    summary = judge_pairs(filmed, Scripted(itertools.cycle(said)), 1.0)
    assert summary.outcomes == {"failed": 4, "refused": 4, "ok": 4}
    assert summary.answers == {"a": 4}
    assert summary.cost == pytest.approx(2.0)
    assert judge_pairs(filmed, always(Judgement("b")), 1.0).judged == 4


def test_a_judge_that_breaks_off_loses_no_answer(filmed: Project) -> None:
    with pytest.raises(StopIteration):
        judge_pairs(filmed, Scripted(iter([Judgement("a")] * 6)), 1.0)
    judge = always(Judgement("b"))
    assert judge_pairs(filmed, judge, 1.0).skipped == 6
    assert [event.answer for event in current_answers(filmed.labels_database)] == ["a"] * 6 + ["b"] * 6


def test_a_damaged_pair_is_named_and_the_rest_goes_on(filmed: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (filmed.pairs / "p2" / "b.mp4").write_bytes(b"not a video")
    summary = judge_pairs(filmed, MetricJudge(), 1.0)
    assert summary.judged == 8
    assert [item["pair_id"] for item in summary.rejected] == ["p2"]
    assert "p2" in capsys.readouterr().err
    for pair_id in ("p1", "p3"):
        (filmed.pairs / pair_id / "a.mp4").unlink()
    with pytest.raises(MediaError, match="none of 3 pairs"):
        judge_pairs(filmed, MetricJudge(), 1.0, force=True)


def test_a_file_of_another_size_is_named(filmed: Project) -> None:
    write_video(filmed.pairs / "p1" / "a.mp4", drawn(0)[:17], 8.0)
    summary = judge_pairs(filmed, MetricJudge(), 1.0)
    assert "the pairs table says (33, 32, 32)" in summary.rejected[0]["reason"]


def test_no_pairs_yet(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="pairs make"):
        judge_pairs(Project(tmp_path), MetricJudge(), 1.0)


def test_measures_are_cached_by_pair_and_segment_length(filmed: Project) -> None:
    pairs = read_table(filmed.pairs_table)
    first = measure_pairs(filmed, pairs, 1.0)
    assert (first.computed, first.rejected) == (3, [])
    again = measure_pairs(filmed, pairs, 1.0)
    assert again.computed == 0
    assert again.pairs == first.pairs
    sides = first.pairs["p3"]
    assert sides["a"] == sides["b"]
    assert len(sides["a"].segments) == 4
    assert all(value is not None for value in sides["a"].clip.values())
    steady, shaky = (first.pairs["p1"][side].clip["flicker"] for side in ("a", "b"))
    assert steady is not None and shaky is not None
    assert shaky > 2 * steady
    (filmed.cache / "measures" / "p1.json").write_text("{ damaged")
    assert measure_pairs(filmed, pairs, 1.0).computed == 1
    assert measure_pairs(filmed, pairs, 0.5).computed == 3


def test_audit_of_judged_pairs(filmed: Project) -> None:
    judge_pairs(filmed, MetricJudge(), 1.0)
    (filmed.pairs / "p3" / "b.mp4").write_bytes(b"")
    found = audit(filmed)
    assert json.loads(filmed.audit_file.read_text()) == found
    assert found["source"] == "judge"
    assert found["groups"]["guided"]["pairs"] == 2
    assert [item["pair_id"] for item in found["rejected"]] == ["p3"]
    assert found["groups"]["all"]["segments"]["non_tie"] == 8
    assert found["groups"]["all"]["both_signs"]["mean"] == 0.0
