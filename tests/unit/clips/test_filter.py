from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.clips.makers import moving, texture, write_foreign

from densedpo.clips import filter as stage
from densedpo.clips.add import add_clips
from densedpo.clips.caption_check import Verdict
from densedpo.clips.criteria import measure_clip
from densedpo.clips.cuts import cut_strength, find_shots
from densedpo.clips.filter import filter_clips
from densedpo.clips.geometry import ClipGeometry
from densedpo.clips.kept import decisions_file, kept_clips
from densedpo.config import ClipSettings, FilterSettings, parse_settings
from densedpo.errors import MediaError, ProjectError
from densedpo.models.load import load_model
from densedpo.pairs.make import make_pairs
from densedpo.store.files import read_json
from densedpo.store.project import Project
from densedpo.store.tables import read_table

GEOMETRY = ClipGeometry(8.0, 17, 64, 96, 4)


def subject(count: int, px_a_frame: int, height: int = 64, width: int = 96) -> Any:
    frames = np.repeat(texture("ground", height, width)[None], count, axis=0).copy()
    top = height // 2 - 10
    for index in range(count):
        frames[index, top : top + 20, 4 + px_a_frame * index : 24 + px_a_frame * index] = texture("subject", 20, 20, 5)
    return frames


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five files, each with one fault but the first: still, small, short, narrow."""
    root = tmp_path_factory.mktemp("filter")
    source = root / "source"
    source.mkdir()
    files = {
        "good": subject(20, 3),
        "still": subject(20, 0),
        "small": subject(20, 3)[:, ::2, ::2],
        "short": subject(11, 3),
        "narrow": subject(20, 1, 160, 64),
    }
    for name, frames in files.items():
        write_foreign(source / f"{name}.mp4", frames)
        (source / f"{name}.txt").write_text(f"a {name} clip")
    add_clips(Project(root / "p"), [source], None, GEOMETRY, ClipSettings(), 1.0)
    return root / "p"


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    return Project(Path(shutil.copytree(template, tmp_path / "p")))


def reasons(project: Project) -> dict[str, list[str]]:
    names = {row["clip_id"]: Path(row["path"]).stem for row in read_table(project.clips_table)}
    rows = read_table(decisions_file(project))
    return {names[row["clip_id"]]: [reason.partition(":")[0] for reason in row["reasons"]] for row in rows}


def kept_names(project: Project) -> set[str]:
    return {Path(row["path"]).stem for row in kept_clips(project)}


def test_each_fault_is_found_counted_and_explained(project: Project) -> None:
    found = filter_clips(project, FilterSettings())
    assert reasons(project) == {
        "good": [],
        "still": ["motion"],
        "small": ["resolution"],
        "short": ["duration"],
        "narrow": ["resolution", "aspect"],
    }
    assert (found.clips, found.kept, found.left_out) == (5, 1, 4)
    assert found.broken == {"motion": 1, "resolution": 2, "duration": 1, "aspect": 1}
    assert found.broken_alone == {"motion": 1, "resolution": 1, "duration": 1}
    rows = {row["caption"]: row for row in read_table(decisions_file(project))}
    assert rows["a small clip"]["reasons"] == ["resolution: upscale 2 > 1"]
    assert rows["a good clip"]["kept"] is True
    assert rows["a good clip"]["foreground_px_s"] == pytest.approx(24, rel=0.3)
    assert found.captions == {} and rows["a good clip"]["caption_answer"] is None
    stored = read_json(project.clips / "filter.json")
    assert stored["broken"] == found.broken
    assert stored["limits"]["motion"] == {"measure": "foreground_px_s", "low": pytest.approx(1.28), "high": None}
    assert Path(found.picture).read_bytes().startswith(b"\x89PNG")
    assert kept_names(project) == {"good"}


def test_clips_come_back_with_other_limits_and_without_decoding(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    filter_clips(project, FilterSettings())
    monkeypatch.setattr(stage, "measure_clip", lambda _: pytest.fail("decoded again"))
    everything = FilterSettings(max_upscale=100, min_duration_s=0, max_crop_share=1, min_motion_px_s=0)
    assert filter_clips(project, everything).kept == 5
    assert kept_names(project) == {"good", "still", "small", "short", "narrow"}
    assert filter_clips(project, FilterSettings(max_upscale=100)).kept == 2
    assert kept_names(project) == {"good", "small"}


def test_a_killed_run_keeps_what_it_measured(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = measure_clip, []

    def dies_at_the_third(file: Path) -> dict[str, float]:
        calls.append(file)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(file)

    monkeypatch.setattr(stage, "measure_clip", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        filter_clips(project, FilterSettings())
    assert not decisions_file(project).exists()
    assert len(kept_clips(project)) == 5, "undecided: all are used"
    filter_clips(project, FilterSettings())
    assert len(calls) == 3 + 3
    first = decisions_file(project).read_bytes()
    filter_clips(project, FilterSettings())
    assert decisions_file(project).read_bytes() == first


def test_a_damaged_clip_is_named_and_left_out(project: Project) -> None:
    row = read_table(project.clips_table)[0]
    (project.clips / row["clip_id"] / "clip.mp4").write_bytes(b"junk")
    found = filter_clips(project, FilterSettings())
    assert [item["clip_id"] for item in found.unreadable] == [row["clip_id"]]
    assert found.broken["unreadable"] == 1


def test_only_captions_of_clips_still_in_are_asked_about(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(captions: Any, _settings: FilterSettings, _cache: Path) -> dict[str, Verdict]:
        asked.extend(captions)
        return {caption: Verdict("yes" if "good" in caption else "failed", "said") for caption in asked}

    monkeypatch.setattr(stage, "check_captions", answer)
    settings = FilterSettings(caption_endpoint="http://127.0.0.1:9/v1", caption_model="tiny", max_upscale=100)
    found = filter_clips(project, settings)
    assert sorted(asked) == ["a good clip", "a small clip"]
    assert found.captions == {"yes": 1, "failed": 1}
    assert reasons(project)["small"] == ["caption"]
    assert kept_names(project) == {"good"}


def test_undecided_clips_are_left_out_with_a_warning(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    filter_clips(project, FilterSettings(min_motion_px_s=0))
    extra = project.root / "more"
    extra.mkdir()
    write_foreign(extra / "new.mp4", moving(20))
    add_clips(project, [extra], None, GEOMETRY, ClipSettings(), 1.0)
    assert kept_names(project) == {"good", "still"}
    assert "1 clips were added or changed" in capsys.readouterr().err


def test_a_filter_that_leaves_nothing_says_so(project: Project, tmp_path: Path) -> None:
    filter_clips(project, FilterSettings(min_motion_px_s=1e6))
    with pytest.raises(ProjectError, match="none of 5 clips is kept"):
        kept_clips(project)
    with pytest.raises(ProjectError, match="clips add"):
        filter_clips(Project(tmp_path / "empty"), FilterSettings())


def test_pairs_are_made_of_kept_clips_alone(
    pairs_project: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(pairs_project)
    speeds = sorted(_speeds(project, FilterSettings(min_motion_px_s=0)))
    assert len(speeds) == 6
    kept = _speeds(project, FilterSettings(min_motion_px_s=(speeds[2] + speeds[3]) / 2))
    assert len(kept) == 6
    model = load_model(str(tiny_model_folder), device="cpu")
    settings = parse_settings({"pairs": {"mode": "guided", "steps": 2, "batch_size": 3}})
    assert make_pairs(project, model, settings).planned == 3
    of_kept = {row["clip_id"] for row in kept_clips(project)}
    assert {row["clip_id"] for row in read_table(project.pairs_table)} == of_kept
    filter_clips(project, FilterSettings(min_motion_px_s=0))
    found = make_pairs(project, model, settings)
    assert (found.made, found.planned, found.pairs_in_project) == (0, 6, 12), "those made before come back"


def _speeds(project: Project, settings: FilterSettings) -> list[float]:
    filter_clips(project, settings)
    return [row["foreground_px_s"] for row in read_table(decisions_file(project))]


@pytest.mark.parametrize("make", [lambda: moving(30, 27, 48), lambda: np.repeat(texture("one", 27, 48)[None], 9, 0)])
def test_no_cut_has_no_strength(make: Callable[[], Any]) -> None:
    assert cut_strength(make(), 1 / 25) == 0


def test_cut_strength_is_the_threshold_at_which_shots_begin_to_be_found() -> None:
    one, two = (np.repeat(texture(name, 27, 48)[None], 20, axis=0) for name in ("one", "two"))
    frames = np.concatenate([one, two])
    strength = cut_strength(frames, 1 / 25)
    assert len(find_shots(frames, 1 / 25, strength)) == 2
    assert len(find_shots(frames, 1 / 25, strength + 1 / 64)) == 1


def test_a_missing_file_is_a_media_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        measure_clip(tmp_path / "clip.mp4")
