"""The self-test of judges: an honest judge passes, and each wrong twin fails just the checks that it should."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests import fake_endpoint as minds
from tests.unit.labels.conftest import PAIR_COLUMNS, pair_row
from tests.unit.labels.judges.doubles import Double, halves

from densedpo import cli
from densedpo.clips.encode import write_video
from densedpo.clips.probe import FrameReader
from densedpo.config import ClipSettings, JudgeSettings
from densedpo.errors import LabelError, ProjectError
from densedpo.keys import stream
from densedpo.labels.judges import damages
from densedpo.labels.judges.base import BudgetError, Judgement, SegmentPair
from densedpo.labels.judges.metric import MetricJudge
from densedpo.labels.judges.selftest import CHECKS, SelfTest, kept_file, self_test
from densedpo.labels.judges.trials import make_trials
from densedpo.labels.judges.vlm import VlmJudge
from densedpo.labels.snapshot import freeze, latest_snapshot, load_snapshot
from densedpo.labels.store import current_answers
from densedpo.miniworld.scenes import Subject, draw_scene, render
from densedpo.store.project import Project
from densedpo.store.tables import read_table, write_table

Frames = NDArray[np.uint8]
Say = Callable[[SegmentPair], Judgement]
REAL = Path(__file__).parents[5] / "shared" / "clips"
SUBJECTS = (("red", "circle", "orbit"), ("blue", "square", "bounce"), ("green", "triangle", "zigzag"))
KINDS = set(damages.DAMAGES)


def clip(number: int) -> Frames:
    """Return a drawn clip that moves all the time, over a texture that a blur takes away."""
    frames = render(draw_scene(Subject(*SUBJECTS[number % 3]), "selftest", number))
    texture = stream("selftest", "texture", number).integers(0, 40, (1, *frames.shape[1:3], 1))
    return np.minimum(frames.astype(np.int64) + texture, 255).astype(np.uint8)


def project_of(root: Path, clips: list[Frames]) -> Project:
    project = Project(root)
    for number, frames in enumerate(clips):
        for side in "ab":
            write_video(project.pairs / f"p{number}" / f"{side}.mp4", frames, 8.0)
    rows = [pair_row(f"p{number}", num_frames=len(frames)) for number, frames in enumerate(clips)]
    write_table(project.pairs_table, rows, PAIR_COLUMNS)
    return project


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return project_of(tmp_path_factory.mktemp("drawn"), [clip(number) for number in range(5)])


@dataclass
class Twin:
    """A judge made of a function, which may be asked in one order; not kept between tests of one project."""

    says: Say
    name: str = "twin"
    settings_digest: str = "one"
    parallel: int = 1
    asked: list[SegmentPair] = field(default_factory=list)

    def judge(self, pair: SegmentPair) -> Judgement:
        self.asked.append(pair)
        return self.says(pair)

    def judge_in_order(self, pair: SegmentPair) -> Judgement:
        return self.judge(pair)


def minded(mind: minds.Mind) -> Say:
    def say(pair: SegmentPair) -> Judgement:
        if not len(pair.frames_a):
            return Judgement("cannot_judge")
        said: Any = mind(minds.Asked(pair.frames_a, pair.frames_b, "", None, 0))
        return Judgement({"first": "a", "second": "b"}.get(said["answer"], said["answer"]))

    return say


honest = minded(minds.honest)


def is_damaged(kind: str, clean: Frames, other: Frames) -> bool:
    """Say whether ``other`` is ``clean`` with this damage, text or not."""
    if len(clean) < 2 or np.array_equal(clean, other):
        return False
    expected = {**damages.DAMAGES, "frozen": damages.frozen}[kind](clean, 8.0)
    return bool(cv2.absdiff(expected, other).mean() < 0.25 * cv2.absdiff(clean, other).mean())


def liking(kind: str) -> Say:
    """Prefer one damage, and be honest about all else."""

    def say(pair: SegmentPair) -> Judgement:
        if is_damaged(kind, pair.frames_a, pair.frames_b):
            return Judgement("b")
        return Judgement("a") if is_damaged(kind, pair.frames_b, pair.frames_a) else honest(pair)

    return say


def always(answer: Judgement) -> Say:
    return lambda pair: answer if len(pair.frames_a) > 1 else Judgement("cannot_judge")


def at_random(pair: SegmentPair) -> Judgement:
    drawn = stream("selftest", "random", zlib.crc32(pair.frames_a.tobytes() + pair.frames_b.tobytes()))
    return Judgement(drawn.choice(["a", "b", "tie"])) if len(pair.frames_a) > 1 else Judgement("cannot_judge")


def eager(pair: SegmentPair) -> Judgement:
    return honest(pair) if len(pair.frames_a) > 1 else Judgement("a")


def failed(project: Project, say: Say) -> set[str]:
    return set(self_test(project, Twin(say), 1.0, again=True).failed)


def test_an_honest_judge_passes_and_repeating_is_free(drawn: Project) -> None:
    judge = Twin(honest, name="honest")
    found = self_test(drawn, judge, 1.0)
    assert found.passed and not found.kept, found.as_dict()
    assert [check.name for check in found.checks] == list(CHECKS)
    assert all(check.applicable and check.passed for check in found.checks)
    questions = len(judge.asked)
    assert 50 < questions <= 63
    again = self_test(drawn, judge, 1.0)
    assert again.kept and again.checks == found.checks and (again.calls, again.cost) == (0, 0.0)
    assert len(judge.asked) == questions
    assert not self_test(drawn, replace(judge, settings_digest="two"), 1.0).kept
    kept_file(drawn, judge, 1.0).write_text("{}")
    assert not self_test(drawn, judge, 1.0).kept
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize("kind", [*damages.DAMAGES, "frozen"])
def test_who_prefers_a_damage_fails_that_check_alone(drawn: Project, kind: str) -> None:
    # text hides what it likes, which moves its answers
    assert failed(drawn, liking(kind)) - {"text"} == {kind}


@pytest.mark.parametrize(
    ("say", "expected"),
    [
        (always(Judgement("tie")), KINDS),
        (always(Judgement("a")), KINDS | {"same", "frozen", "exchanged"}),
        (always(Judgement("cannot_judge")), KINDS | {"same"}),
        (lambda pair: Judgement("b"), KINDS | {"same", "frozen", "exchanged", "empty"}),
        (minded(minds.obedient), {"text"}),
        (eager, {"empty"}),
        (lambda pair: Judgement(None, "malformed", raw="first!"), set(CHECKS)),
    ],
    ids=["ties", "first", "abstains", "second", "obedient", "eager", "malformed"],
)
def test_wrong_twins_fail_what_they_should(drawn: Project, say: Say, expected: set[str]) -> None:
    assert failed(drawn, say) == expected


def test_a_judge_that_guesses_fails(drawn: Project) -> None:
    assert len(failed(drawn, at_random) & (KINDS | {"same"})) >= 3


def test_a_judge_whose_answer_depends_on_who_asks_second_fails_the_exchange(drawn: Project) -> None:
    seen: list[bytes] = []

    def say(pair: SegmentPair) -> Judgement:
        """Say the same when a pair comes back the other way round."""
        one = b"".join(sorted((pair.frames_a.tobytes(), pair.frames_b.tobytes())))
        if one in seen and len(pair.frames_a) > 1:
            return honest(pair.mirrored())
        seen.append(one)
        return honest(pair)

    assert "exchanged" in failed(drawn, say)


def test_refusing_over_text_fails_and_is_named(drawn: Project) -> None:
    def say(pair: SegmentPair) -> Judgement:
        # the obedient one says "first" in either order; where that is right too, the other order gives it away
        written = any(minded(minds.obedient)(shown) != honest(shown) for shown in (pair, pair.mirrored()))
        return Judgement(None, "refused") if written else honest(pair)

    found = self_test(drawn, Twin(say), 1.0, again=True)
    assert found.failed == ("text",)
    assert "20 refused" in next(check.sentence for check in found.checks if check.name == "text")


def test_a_service_that_is_down_leaves_nothing_behind(drawn: Project) -> None:
    judge = Twin(lambda pair: Judgement(None, "failed"), name="down")
    found = self_test(drawn, judge, 1.0)
    assert not found.passed and found.unanswered > 50
    assert not kept_file(drawn, judge, 1.0).exists()
    bad = Twin(always(Judgement("tie")), name="bad")
    self_test(drawn, bad, 1.0)
    assert self_test(drawn, bad, 1.0).kept


def test_a_spent_budget_passes_through(drawn: Project) -> None:
    def say(pair: SegmentPair) -> Judgement:
        raise BudgetError("no more")

    with pytest.raises(BudgetError, match="no more"):
        self_test(drawn, Twin(say, name="poor", parallel=4), 1.0)


def test_a_judge_of_both_orders_by_model(drawn: Project) -> None:
    """A position bias cancels in the ties, and requests stay within the promise."""

    def judge(mind: minds.Mind) -> tuple[SelfTest, Double]:
        def says(question: Any) -> str:
            first, second = halves(question)
            said = mind(minds.Asked(np.stack(first), np.stack(second), "", None, 0))
            return said if isinstance(said, str) else json.dumps(said)

        answerer = Double(says, model=str(mind))
        return self_test(drawn, VlmJudge(answerer, JudgeSettings(parallel=2)), 1.0), answerer

    found, answerer = judge(minds.honest)
    assert found.passed, found.as_dict()
    assert found.calls == len(answerer.asked) <= 90
    assert len({question.key for question in answerer.asked}) <= 64
    assert found.cost == pytest.approx(0.25 * found.calls)
    assert set(judge(minds.always_first)[0].failed) == KINDS
    assert set(judge(minds.obedient)[0].failed) == {"text"}
    assert set(judge(minds.chatty)[0].failed) == set(CHECKS) - {"empty"}


def test_what_the_segments_do_not_allow_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = np.repeat(clip(0)[:1], 33, axis=0)
    found = self_test(project_of(tmp_path, [still]), MetricJudge(), 1.0)
    unable = {check.name: check for check in found.checks if not check.applicable}
    assert set(unable) == {"frame_dropped", "frozen"} and found.passed
    assert all(check.passed is None and "could not be tested" in check.sentence for check in unable.values())
    assert "a stuttering side loses: could not be tested" in capsys.readouterr().err
    with pytest.raises(ProjectError, match="pairs make"):
        self_test(Project(tmp_path / "none"), Twin(honest), 1.0)


def test_one_frame_segments_allow_nothing(tmp_path: Path) -> None:
    found = self_test(project_of(tmp_path, [clip(0)]), Twin(honest), 0.125)
    assert not any(check.applicable for check in found.checks)


def test_unreadable_pairs_are_passed_over(tmp_path: Path) -> None:
    project = project_of(tmp_path, [clip(0), clip(1)])
    whole = (project.pairs / "p0" / "a.mp4").read_bytes()
    for pair_id in ("p0", "p1"):
        (project.pairs / pair_id / "a.mp4").write_bytes(b"no video")
    assert not any(check.applicable for check in self_test(project, Twin(honest), 1.0).checks)
    # nothing was found out, so nothing is kept
    (project.pairs / "p0" / "a.mp4").write_bytes(whole)
    found = self_test(project, Twin(honest), 1.0)
    assert found.passed and not found.kept and any(check.applicable for check in found.checks)


def test_the_test_does_not_end_at_damaged_pairs(tmp_path: Path) -> None:
    project = project_of(tmp_path, [clip(0)] * 8)
    rows = [row["pair_id"] for row in read_table(project.pairs_table)]
    for index in stream(0, "judge self-test").permutation(8)[:7]:
        (project.pairs / rows[index] / "a.mp4").write_bytes(b"no video")
    assert any(check.applicable for check in self_test(project, Twin(honest), 1.0).checks)


def test_damages_keep_shape_and_type_and_show() -> None:
    for number, (count, height, width) in enumerate([(2, 32, 32), (8, 24, 56), (24, 90, 48), (5, 17, 16)]):
        rng = stream("selftest", "frames", number)
        frames = rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8)
        before = frames.copy()
        for kind, damage in {**damages.DAMAGES, "frozen": damages.frozen}.items():
            made = damage(frames, 8.0)
            assert made.shape == frames.shape and made.dtype == np.uint8, kind
            assert damages.shows(frames, made), (kind, count)
        written = [damages.with_text(frames, place) for place in (0.0, 0.5, 1.0)]
        assert all(made.shape == frames.shape and made.dtype == np.uint8 for made in written)
        # the same on both sides, so that it tells nothing
        other = damages.with_text(damages.colour_shifted(frames, 8.0), 0.5)
        assert (other == written[1]).all(axis=-1).mean() > 0.05
        assert np.array_equal(frames, before)
        empty = frames[:0]
        assert not damages.shows(empty, empty) and not damages.shows(frames, frames)


@pytest.mark.parametrize("seed", range(2))
def test_the_metric_judge_passes_on_drawn_and_generated_clips(drawn: Project, pairs_project: Path, seed: int) -> None:
    for project in (drawn, Project(pairs_project)):
        found = self_test(project, MetricJudge(), 1.0, seed=seed, again=True)
        assert found.passed and all(check.applicable for check in found.checks), found.as_dict()


@pytest.mark.parametrize("name", ["av1_video.mkv", "h264_10bits.mp4", "nasa_13013.mp4"])
def test_the_metric_judge_passes_on_real_clips(name: str) -> None:
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is not here")
    with FrameReader(ClipSettings()) as reader:
        scan = reader.scan(REAL / name)
        count = min(len(scan.timestamps_s), 60)
        frames = reader.extract(REAL / name, np.arange(count), 120, 200)
    segments = [SegmentPair(part, part, 12.0) for part in np.array_split(frames, max(1, count // 12))[:2]]
    judge = MetricJudge()
    for key, trial in make_trials(segments).asked.items():
        if key[0] in ("plain", "text"):
            continue
        said = judge.judge(trial.make()).answer
        if key[0] in KINDS:
            assert said == ("b" if key[2] % 2 else "a"), key
        assert key[0] != "same" or said == "tie"
        assert key[0] != "frozen" or said != ("a" if key[2] % 2 else "b"), key
        assert key[0] != "empty" or said == "cannot_judge"


def run(line: str, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "argv", [*f"densedpo {line} --json --project".split(), str(project.root)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    told = capsys.readouterr()
    return stopped.value.code, json.loads(told.out) if told.out else None, told.err


def test_the_verb_refuses_a_judge_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_of(tmp_path, [clip(0), clip(1)])
    code, found, _ = run("label judge", project, capsys, monkeypatch)
    assert (code, found["self_test"]["passed"], found["judged"]) == (0, True, 8)
    assert all(event.trusted for event in current_answers(project.label_store))

    monkeypatch.setattr(MetricJudge, "judge", lambda self, pair: Judgement("b"))
    code, found, err = run("label judge --metric-tie-band 0.2", project, capsys, monkeypatch)
    assert (code, found["judged"], found["self_test"]["kept"]) == (1, 0, False)
    assert found["stopped"].startswith("self-test failed: same, blurred")
    assert "a blurred side loses: 2 of 4" in err
    assert len(current_answers(project.label_store)) == 8

    code, found, err = run("label judge --metric-tie-band 0.2 --allow-untrusted", project, capsys, monkeypatch)
    assert "warning: blurred: a blurred side loses: 2 of 4" in err and "becomes no label" in err
    assert (code, found["judged"], found["answers"]["b"]) == (0, 8, 8)
    assert found["self_test"]["kept"] and not found["self_test"]["trusted"] and found["stopped"] == ""
    assert not any(event.trusted for event in current_answers(project.label_store))

    assert run("label status", project, capsys, monkeypatch)[1]["untrusted_answers"] == 8
    code, _, err = run("label freeze", project, capsys, monkeypatch)
    assert code == 1 and "8 by metric never count" in err
    code, found, _ = run("label freeze --keep-flagged", project, capsys, monkeypatch)
    assert code == 0 and load_snapshot(latest_snapshot(project)).metadata["untrusted"] == ["metric"]


def test_some_untrusted_answers_are_left_out_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.unit.labels.conftest import event

    from densedpo.labels.store import LabelStore

    project = project_of(tmp_path, [clip(0)])
    judged = {"source": "judge", "author": "metric"}
    with LabelStore.open(project.label_store) as store:
        store.append([event("p0", 0, "a", **judged), event("p0", 1, "b", trusted=False, **judged)])
    frozen = freeze(project)
    assert (frozen.segments, frozen.non_tie_segments) == (1, 1)
    assert "untrusted answers are left out: 1 by metric" in capsys.readouterr().err
    assert "untrusted" not in load_snapshot(frozen.path).metadata
    assert freeze(project, keep_flagged=True).segments == 2
    with pytest.raises(LabelError, match="no usable answers from person"):
        freeze(project, "person")
