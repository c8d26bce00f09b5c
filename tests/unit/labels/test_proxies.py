"""Browser copies: both sides alike, frame by frame the originals, made once, made again when the original changed."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from densedpo.clips.decode import Video, read_video
from densedpo.clips.encode import view_frames, write_video
from densedpo.errors import MediaError
from densedpo.labels.people.proxies import at_constant_rate, pair_proxies, prepare_proxies
from densedpo.store.files import sha256_file
from densedpo.store.project import Project
from densedpo.store.tables import Row


def moving(shade: int, count: int = 17, size: int = 32) -> np.ndarray:
    frames = np.full((count, size, size, 3), 40 + shade, np.uint8)
    for index in range(count):
        frames[index, 8:16, index : index + 8] = (220, 60 + shade, 40)
    return frames


def write_pair(project: Project, pair_id: str = "p1", shade: int = 30, **changes: object) -> Row:
    for side, extra in (("a", 0), ("b", shade)):
        write_video(project.pairs / pair_id / f"{side}.mp4", moving(extra), 8.0)
    return {"pair_id": pair_id, "fps": 8.0, "num_frames": 17, **changes}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_both_sides_are_alike_and_show_the_originals(project: Project) -> None:
    made = pair_proxies(project, write_pair(project))
    assert (made.fps, made.num_frames, made.height, made.width) == (8.0, 17, 256, 256)
    for side, shade in (("a", 0), ("b", 30)):
        proxy = made.sides[side]
        video = read_video(proxy.path)
        assert proxy.sha256 == sha256_file(proxy.path)
        assert proxy.size == proxy.path.stat().st_size
        assert proxy.source_sha256 == sha256_file(project.pairs / "p1" / f"{side}.mp4")
        assert np.allclose(video.timestamps_s, np.arange(17) / 8)
        assert np.abs(video.frames.astype(int) - view_frames(moving(shade))).mean() < 3
    assert len(made.differences) == 17
    assert all(20 < difference < 31 for difference in made.differences)


def test_key_frames_are_close_and_the_index_comes_first(project: Project) -> None:
    path = pair_proxies(project, write_pair(project)).sides["a"].path
    with av.open(str(path)) as container:
        keys = [packet.pts for packet in container.demux(video=0) if packet.is_keyframe and packet.pts is not None]
    ticks = [key / keys[1] * 8 for key in keys]
    assert ticks == [0, 8, 16]
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_nothing_but_the_picture_tells_the_sides_apart(project: Project) -> None:
    write_pair(project)
    same = project.pairs / "p1" / "b.mp4"
    same.write_bytes((project.pairs / "p1" / "a.mp4").read_bytes())
    made = pair_proxies(project, {"pair_id": "p1", "fps": 8.0, "num_frames": 17})
    assert made.sides["a"].path.read_bytes() == made.sides["b"].path.read_bytes()
    assert set(made.differences) == {0.0}


def test_they_are_made_once_and_again_when_the_original_changes(project: Project) -> None:
    row = write_pair(project)
    first = pair_proxies(project, row)
    stamp = first.sides["a"].path.stat().st_mtime_ns
    assert pair_proxies(project, row) == first
    assert first.sides["a"].path.stat().st_mtime_ns == stamp
    write_video(project.pairs / "p1" / "a.mp4", moving(60), 8.0)
    again = pair_proxies(project, row)
    assert again.sides["a"].sha256 != first.sides["a"].sha256
    assert again.sides["b"].sha256 == first.sides["b"].sha256


@pytest.mark.parametrize("damage", ["no file", "no record", "broken record"])
def test_a_damaged_cache_is_made_again(project: Project, damage: str) -> None:
    row = write_pair(project)
    first = pair_proxies(project, row)
    folder = first.sides["a"].path.parent
    if damage == "no file":
        (folder / "b.mp4").unlink()
    elif damage == "no record":
        (folder / "proxies.json").unlink()
    else:
        (folder / "proxies.json").write_text("{", encoding="utf-8")
    assert pair_proxies(project, row) == first


def test_unusable_pairs_are_named_and_the_others_made(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [write_pair(project, "good"), write_pair(project, "short", num_frames=33), write_pair(project, "gone")]
    (project.pairs / "gone" / "b.mp4").unlink()
    failed = prepare_proxies(project, rows)
    assert [item["pair_id"] for item in failed] == ["short", "gone"]
    assert "shorter" in failed[0]["reason"]
    assert "b.mp4" in failed[1]["reason"]
    assert "short" in capsys.readouterr().err
    record = json.loads((project.cache / "proxies" / "good" / "proxies.json").read_text(encoding="utf-8"))
    assert record["num_frames"] == 17


def test_sides_of_unequal_size_are_refused(project: Project) -> None:
    row = write_pair(project)
    write_video(project.pairs / "p1" / "b.mp4", moving(0, size=40), 8.0)
    with pytest.raises(MediaError, match="differ in size"):
        pair_proxies(project, row)


def test_a_variable_rate_becomes_constant_by_time() -> None:
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    video = Video(frames, np.array([0.5, 0.6, 1.0, 1.4]), 4 / 1.2)
    shown = at_constant_rate(video, 5.0, 6, "x")
    assert shown[:, 0, 0, 0].tolist() == [0, 1, 2, 2, 3, 3]
    with pytest.raises(MediaError, match="shorter"):
        at_constant_rate(video, 5.0, 8, "x")
