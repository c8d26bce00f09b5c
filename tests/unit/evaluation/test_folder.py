from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.clips.makers import write_foreign
from tests.unit.evaluation.video_scenes import panned

from densedpo.config import ClipSettings
from densedpo.errors import MediaError, ProjectError
from densedpo.evaluation.folder import FolderSummary, score_folder
from densedpo.store.project import Project
from densedpo.store.tables import read_table

FPS = 8
PAN = panned(64, 96, (2.0, 0.0), count=17)
STILL = np.repeat(PAN[:1], 17, axis=0)


def score(project: Project, folder: Path, **settings: Any) -> FolderSummary:
    return score_folder(project, folder, ClipSettings(**settings), 1.0, "videos", workers=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "videos"
    (found / "deeper").mkdir(parents=True)
    write_foreign(found / "pan.mp4", PAN, fps=FPS)
    write_foreign(found / "deeper" / "été 物.mp4", STILL, fps=FPS)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def by_name(summary: FolderSummary) -> dict[str, dict[str, Any]]:
    return {Path(video["path"]).name: video for video in summary.videos}


def test_every_file_is_scored_and_its_series_stored(folder: Path, project: Project) -> None:
    found = score(project, folder)
    assert [video["path"] for video in found.videos] == [str(folder / "deeper" / "été 物.mp4"), str(folder / "pan.mp4")]
    pan, still = by_name(found)["pan.mp4"], by_name(found)["été 物.mp4"]
    assert pan["motion_px_s"] == pytest.approx(2 * FPS, rel=0.05)
    assert pan["camera_motion_px_s"] == pytest.approx(2 * FPS, rel=0.05)
    assert pan["object_motion_px_s"] < 0.5
    assert (pan["frames"], pan["height"], pan["width"], pan["duration_s"]) == (17, 64, 96, 17 / FPS)
    assert pan["motion_in_range"] is True
    assert (still["motion_px_s"], still["freeze_share"], still["cuts"]) == (0, 1, 0)
    assert (found.files, found.scored, found.known, found.rejected, found.out_of_range) == (2, 2, 0, [], 0)
    assert read_table(Path(found.scores)) == found.videos
    series = [row for row in read_table(Path(found.segments)) if row["path"].endswith("pan.mp4")]
    assert [(row["segment"], row["start_s"], row["end_s"]) for row in series] == [(0, 0.0, 1.0), (1, 1.0, 17 / FPS)]
    assert all(row["motion_px_s"] == pytest.approx(2 * FPS, rel=0.05) for row in series)


def test_files_that_cannot_be_used_are_named_and_the_rest_goes_on(folder: Path, project: Project) -> None:
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes((folder / "pan.mp4").read_bytes()[:-400])
    (folder / "text.mp4").write_text("not a video")
    (folder / "notes.txt").write_text("no video and never looked at")
    (folder / ".hidden.mp4").touch()
    write_foreign(folder / "huge.mp4", np.zeros((3, 128, 128, 3), np.uint8), fps=FPS)
    write_foreign(folder / "narrow.mp4", np.zeros((3, 16, 512, 3), np.uint8), fps=FPS)
    write_foreign(folder / "single.mp4", PAN[:1], fps=FPS)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "bad\nname.mp4").touch()
    found = score(project, folder, max_pixels=128 * 100)
    reasons = {Path(item["path"]).name: item["reason"] for item in found.rejected}
    assert sorted(reasons) == sorted(
        ("bad\nname.mp4", "cut.mp4", "empty.mp4", "huge.mp4", "narrow.mp4", "pipe.mp4", "single.mp4", "text.mp4")
    )
    for name, said in (
        ("cut.mp4", "cut short"), ("empty.mp4", "empty"), ("huge.mp4", "max_pixels"), ("narrow.mp4", "too narrow"),
        ("single.mp4", "single frame"), ("text.mp4", "not a known video format"), ("pipe.mp4", "not a regular file"),
    ):  # fmt: skip
        assert said in reasons[name]
    assert len(found.videos) == 2
    assert all("\n" not in reason for reason in reasons.values())


def test_an_uneven_rate_is_timed_by_its_timestamps(folder: Path, project: Project) -> None:
    write_foreign(folder / "uneven.mp4", PAN[[0, 1, 2, 3, 4, 6, 8, 12]], fps=FPS, times=[0, 1, 2, 3, 4, 6, 8, 12])
    uneven = by_name(score(project, folder))["uneven.mp4"]
    assert uneven["motion_px_s"] == pytest.approx(2 * FPS, rel=0.05)
    assert uneven["frames"] == 8


def test_a_repeated_picture_is_known_as_one_after_coding(folder: Path, project: Project) -> None:
    """Film at 12 pictures a second shown at 24; and a slow pan, in which nothing repeats."""
    sharp = panned(144, 240, (2.0, 1.0), count=12)
    write_foreign(folder / "twice.mp4", np.repeat(sharp, 2, axis=0), fps=24)
    write_foreign(folder / "slow.mp4", panned(144, 240, (0.3, 0.0), count=24), fps=24)
    found = by_name(score(project, folder))
    assert found["twice.mp4"]["duplicate_share"] == pytest.approx(12 / 23)
    assert found["twice.mp4"]["freeze_share"] == 0
    assert found["twice.mp4"]["motion_px_s"] == pytest.approx(math.hypot(2, 1) * 11 / (23 / 24), rel=0.05)
    assert found["slow.mp4"]["duplicate_share"] == 0


def test_nothing_is_scored_twice_and_equal_bytes_once(
    folder: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score(project, folder)
    (folder / "copy.mp4").write_bytes((folder / "pan.mp4").read_bytes())
    again = score(project, folder)
    assert (again.scored, again.known) == (0, 3)
    assert by_name(again)["pan.mp4"] == by_name(first)["pan.mp4"]
    assert list(by_name(again)["pan.mp4"]) == list(by_name(first)["pan.mp4"])  # the same bytes as JSON too
    assert score_folder(project, folder, ClipSettings(), 0.5, "videos").scored > 0  # other segments
    monkeypatch.setattr("densedpo.evaluation.folder.VERSION", -1)
    assert score(project, folder).scored > 0  # other meaning
    write_foreign(folder / "pan.mp4", STILL, fps=FPS)
    assert by_name(score(project, folder))["pan.mp4"]["motion_px_s"] == 0  # other bytes


def test_a_killed_run_goes_on_where_it_was(folder: Path, project: Project) -> None:
    for index in range(6):
        write_foreign(folder / f"more{index}.mp4", np.roll(PAN, 8 * index + 4, axis=2), fps=FPS)
    code = "from densedpo.cli import main; main()"
    command = [sys.executable, "-c", code, "evaluate", "--videos", str(folder), "--project", str(project.root)]
    command += ["--workers", "1", "--json"]
    stored = project.cache / "video-scores"
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(stored.glob("[!.]*.json"))) < 2 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = {path.name for path in stored.glob("[!.]*.json")}
    assert 2 <= len(before) < 8
    assert not (project.evaluation("videos") / "scores.parquet").exists()
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (found["known"], found["scored"]) == (len(before), 8 - len(before))
    assert len(found["videos"]) == 8
    assert {"path", "motion_px_s", "object_motion_px_s", "camera_motion_px_s"} <= set(found["videos"][0])


def test_a_folder_without_a_usable_video_says_so(tmp_path: Path, project: Project) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="no video file"):
        score(project, tmp_path / "none")
    (tmp_path / "none" / "x.mp4").touch()
    with pytest.raises(MediaError, match="none of 1 video files can be used"):
        score(project, tmp_path / "none")
    with pytest.raises(ProjectError, match="no such file or folder"):
        score(project, tmp_path / "missing")


def test_no_model_library_is_loaded(folder: Path, project: Project) -> None:
    code = (
        "import sys; from densedpo.cli import main; from contextlib import suppress\n"
        "with suppress(SystemExit): main()\n"
        "assert not {'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules), sorted(sys.modules)"
    )
    command = [sys.executable, "-c", code, "evaluate", "--videos", str(folder), "--project", str(project.root)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (project.evaluation("videos") / "scores.parquet").exists()
