from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.faults.dying import kill_at
from tests.unit.clips.makers import REAL_CLIPS, moving, texture, write_foreign

from densedpo.clips.add import CLIPS_SCHEMA, AddSummary, add_clips
from densedpo.clips.decode import read_video
from densedpo.clips.geometry import ClipGeometry
from densedpo.config import ClipSettings
from densedpo.errors import MediaError, ProjectError
from densedpo.store.files import sha256_file
from densedpo.store.project import Project
from densedpo.store.tables import read_table

GEOMETRY = ClipGeometry(8.0, 9, 32, 32, 4)
SETTINGS = ClipSettings()


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "deeper").mkdir(parents=True)
    cut = np.concatenate([np.repeat(texture(name)[None], 30, axis=0) for name in ("one", "two")])
    write_foreign(folder / "a.mp4", moving(60, name="a"), fps=20)
    write_foreign(folder / "b.mkv", cut, fps=20, container="matroska")
    write_foreign(folder / "deeper" / "c.mp4", moving(24, name="c"))
    for name, caption in (("a", "first"), ("b", "second"), ("deeper/c", "third")):
        (folder / f"{name}.txt").write_text(caption)
    return folder


def add(project: Path, *sources: Path, **changes: Any) -> AddSummary:
    options: dict[str, Any] = {"captions": None, "geometry": GEOMETRY, "settings": SETTINGS, "segment_s": 1.0}
    return add_clips(Project(project), list(sources), **options | changes)


def digests(project: Path) -> dict[str, str]:
    """Digest of every durable file below a project."""
    files = sorted(path for path in project.rglob("*") if path.is_file())
    return {str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_files_become_clips_of_the_geometry(tmp_path: Path, videos: Path) -> None:
    summary = add(tmp_path / "p", videos)
    project = Project(tmp_path / "p")
    rows = read_table(project.clips_table)
    assert summary.as_dict() == {
        "files": 3,
        "accepted": 3,
        "clips": len(rows),
        "skipped_existing": 0,
        "duplicates": 0,
        "rejected": [],
        "captions_without_file": [],
        "total_clips": len(rows),
    }
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        assert list(row) == CLIPS_SCHEMA.names
        by_name.setdefault(Path(row["path"]).name, []).append(row)
        clip = project.clips / row["clip_id"] / "clip.mp4"
        assert sha256_file(clip) == row["sha256"]
        assert sha256_file(Path(row["path"])) == row["source_sha256"]
        video = read_video(clip)
        assert video.frames.shape == (row["num_frames"], 32, 32, 3)
        assert video.fps == row["fps"] == 8.0
        assert row["duration_s"] == row["num_frames"] / 8
        assert (row["source_height"], row["source_width"]) == (64, 96)
    assert {name: sorted(r["start_s"] for r in found) for name, found in by_name.items()} == {
        "a.mp4": [0.1875, 1.6875],
        "b.mkv": [pytest.approx(0.1875), pytest.approx(1.6875)],
        "c.mp4": [0.1875, 1.6875],
    }
    assert {row["caption"] for row in by_name["b.mkv"]} == {"second"}
    assert [row["source_fps"] for row in by_name["c.mp4"]] == [8.0, 8.0]


def test_frames_are_those_at_the_right_times(tmp_path: Path) -> None:
    # the brightness of a frame tells its time: 0 to 240 over 3 s, at a rate that varies
    times = np.cumsum(np.tile([1, 1, 4, 2, 7], 20))
    levels = np.round(times / times[-1] * 200 + 20)
    frames = np.repeat(levels.astype(np.uint8), 64 * 64 * 3).reshape(-1, 64, 64, 3)
    write_foreign(tmp_path / "v.mkv", frames, fps=100, times=times.tolist(), container="matroska")
    (tmp_path / "v.txt").write_text("x")
    add(tmp_path / "p", tmp_path / "v.mkv", settings=ClipSettings(cut_threshold=1.0))
    project = Project(tmp_path / "p")
    (row,) = (row for row in read_table(project.clips_table) if row["start_s"] < 1)
    got = read_video(project.clips / row["clip_id"] / "clip.mp4").frames.mean(axis=(1, 2, 3))
    wanted_s = row["start_s"] + np.arange(row["num_frames"]) / 8
    nearest = np.abs((times - times[0])[None] / 100 - wanted_s[:, None]).argmin(axis=1)
    np.testing.assert_allclose(got, levels[nearest], atol=3)


def test_repeating_changes_nothing_and_decodes_nothing(tmp_path: Path, videos: Path) -> None:
    add(tmp_path / "p", videos)
    before = digests(tmp_path / "p")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("clip.mp4")}
    # a limit that no file could meet proves that none is opened again
    again = add(tmp_path / "p", videos, settings=ClipSettings(max_pixels=1))
    assert (again.accepted, again.clips, again.skipped_existing) == (0, 0, 3)
    assert digests(tmp_path / "p") == before
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("clip.mp4")}


def test_two_projects_are_equal_bit_for_bit(tmp_path: Path, videos: Path) -> None:
    add(tmp_path / "p", videos)
    add(tmp_path / "q", videos)
    assert digests(tmp_path / "p") == digests(tmp_path / "q")


def test_equal_bytes_count_once(tmp_path: Path, videos: Path) -> None:
    (videos / "copy.mp4").write_bytes((videos / "a.mp4").read_bytes())
    (videos / "copy.txt").write_text("other words")
    summary = add(tmp_path / "p", videos)
    assert (summary.files, summary.accepted, summary.duplicates) == (4, 3, 1)
    again = add(tmp_path / "p", videos)
    assert (again.skipped_existing, again.duplicates) == (3, 1)


def test_a_lost_clip_is_made_again(tmp_path: Path, videos: Path) -> None:
    add(tmp_path / "p", videos)
    before = digests(tmp_path / "p")
    next((tmp_path / "p" / "clips").glob("*/row.json")).unlink()
    assert add(tmp_path / "p", videos).accepted == 1
    assert digests(tmp_path / "p") == before


def test_a_corrected_caption_replaces_the_old_one(tmp_path: Path, videos: Path) -> None:
    first = add(tmp_path / "p", videos)
    (videos / "b.txt").write_text("corrected")
    second = add(tmp_path / "p", videos)
    assert (second.accepted, second.total_clips) == (1, first.total_clips)
    captions = {row["caption"] for row in read_table(Project(tmp_path / "p").clips_table)}
    assert captions == {"first", "corrected", "third"}


def test_other_windows_replace_the_old_ones(tmp_path: Path, videos: Path) -> None:
    add(tmp_path / "p", videos)
    summary = add(tmp_path / "p", videos, settings=ClipSettings(max_windows=1))
    assert summary.total_clips == 4
    assert len(list((tmp_path / "p" / "clips").glob("*/clip.mp4"))) == 4


def test_reasons_are_counted_and_the_rest_goes_on(
    tmp_path: Path, videos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_foreign(videos / "short.mp4", moving(7))
    write_foreign(videos / "dumb.mp4", moving(16, name="dumb"))
    (videos / "short.txt").write_text("short")
    summary = add(tmp_path / "p", videos)
    reasons = {Path(item["path"]).name: item["reason"] for item in summary.rejected}
    assert reasons["short.mp4"].startswith("shorter than one segment: its longest shot lasts 0.88 s")
    assert reasons["dumb.mp4"] == "no caption; add a row to the captions table or a file dumb.txt"
    assert summary.accepted == 3
    assert capfd.readouterr().err.count("warning: ") == 2
    # rejected files are tried again
    (videos / "dumb.txt").write_text("now it speaks")
    again = add(tmp_path / "p", videos)
    assert (again.accepted, again.skipped_existing, len(again.rejected)) == (1, 3, 1)


def test_nothing_to_add_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("no video here")
    (tmp_path / "text.mp4").write_text("text")
    (tmp_path / "text.txt").write_text("caption")
    with pytest.raises(ProjectError, match="gone: no such file or folder"):
        add(tmp_path / "p", tmp_path / "gone")
    with pytest.raises(MediaError, match="empty: no video file in it"):
        add(tmp_path / "p", tmp_path / "empty")
    with pytest.raises(MediaError, match=r"none of 1 video files can be used; the first: .*text\.mp4: not a known"):
        add(tmp_path / "p", tmp_path / "text.mp4")
    assert not Project(tmp_path / "p").clips_table.exists()


def test_a_project_inside_the_folder_of_videos_is_left_alone(videos: Path) -> None:
    add(videos, videos)
    again = add(videos, videos)
    assert (again.files, again.skipped_existing) == (3, 3)


def test_hidden_files_are_skipped_and_videos_without_a_suffix_are_found(tmp_path: Path, videos: Path) -> None:
    (videos / "a.mp4").rename(videos / "a")
    (videos / ".b.mkv").write_bytes((videos / "b.mkv").read_bytes())
    summary = add(tmp_path / "p", videos)
    assert (summary.files, summary.accepted) == (3, 3)


SCRIPT = """
import sys
from pathlib import Path
from densedpo.clips.add import add_clips
from densedpo.clips.geometry import ClipGeometry
from densedpo.config import ClipSettings
from densedpo.store.project import Project
add_clips(Project(Path(sys.argv[1])), [Path(sys.argv[2])], None, ClipGeometry(8.0, 9, 32, 32, 4), ClipSettings(), 1.0)
"""


@pytest.mark.faults
def test_a_killed_run_ends_in_the_same_files_when_repeated(tmp_path: Path, videos: Path) -> None:
    add(tmp_path / "whole", videos)
    expected = digests(tmp_path / "whole")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    for moment in (1, 4, 8, 14, 17):  # 8 a clip, of which the first file gives two, then 2 for that file's marker
        project = tmp_path / f"killed-{moment}"
        kill_at(moment, SCRIPT, str(project), str(videos), env=environment)
        assert digests(project) != expected, "control: the kill left something undone"
        add(project, videos)
        assert digests(project) == expected


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="the folder of real clips is not there")
def test_real_files_for_the_miniature(tmp_path: Path) -> None:
    miniature = ClipGeometry(8.0, 33, 32, 32, 4)
    summary = add(tmp_path / "p", REAL_CLIPS, captions=REAL_CLIPS / "captions.csv", geometry=miniature)
    assert (summary.files, summary.accepted, summary.rejected) == (4, 4, [])
    frames = {
        (Path(row["path"]).name, round(row["start_s"], 1)): row["num_frames"]
        for row in read_table(Project(tmp_path / "p").clips_table)
    }
    assert frames == {
        ("nasa_13013.mp4", 0.4): 33,
        ("nasa_13013.mp4", 6.0): 17,
        ("nasa_13013.mp4", 8.4): 33,
        ("av1_video.mkv", 0.4): 33,
        ("h265_video.mp4", 0.0): 9,
        ("h264_10bits.mp4", 0.0): 9,
    }
