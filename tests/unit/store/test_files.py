"""Durable files: what a failed or concurrent writer leaves, and which names may become folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from densedpo.errors import ProjectError
from densedpo.store.files import read_object, remove_leftovers, replacing, replacing_folder, write_text
from densedpo.store.project import Project


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, dead_pid: int) -> None:
    for name in (f".tmp-{dead_pid}-a.mp4", f".tmp-{os.getpid()}-b.mp4", f".tmp-{os.getppid()}-c.mp4"):
        (tmp_path / name).write_text("half")
    for name in (f".tmp-{dead_pid}-pair", f".tmp-{dead_pid}-old-pair", f".tmp-{os.getpid()}-pair"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_text("half")
    assert remove_leftovers(tmp_path) == 3
    kept = {f".tmp-{os.getpid()}-b.mp4", f".tmp-{os.getppid()}-c.mp4", f".tmp-{os.getpid()}-pair"}
    assert {item.name for item in tmp_path.iterdir()} == kept


def fill(folder: Path, *names: str) -> None:
    with replacing_folder(folder) as temporary:
        for name in names:
            (temporary / name).write_text(name)


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    fill(tmp_path / "report", "old", "both")
    fill(tmp_path / "report", "new", "both")
    assert sorted(item.name for item in (tmp_path / "report").iterdir()) == ["both", "new"]
    assert [item.name for item in tmp_path.iterdir()] == ["report"]


def test_the_old_folder_is_whole_until_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "report", "a", "b")
    seen: list[list[str]] = []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        olds = [item for item in tmp_path.iterdir() if (item / "a").exists() or (item / "b").exists()]
        seen.extend(sorted(item.name for item in old.iterdir()) for old in olds)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    fill(tmp_path / "report", "c")
    assert seen == [["a", "b"], ["a", "b"]]  # before either rename nothing of the old was deleted


def test_an_error_of_the_system_names_the_file_that_was_wanted(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder") as failed:
        write_text(tmp_path / "folder", "text")
    assert (failed.value.filename, failed.value.filename2) == (str(tmp_path / "folder"), None)
    with pytest.raises(OSError, match="No space") as full, replacing(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert full.value.filename == str(tmp_path / "file")
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]


def test_other_errors_pass_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"^one line$"), replacing(tmp_path / "file"):
        raise ProjectError("one line")
    with pytest.raises(OSError, match="input") as failed, replacing(tmp_path / "file"):
        (tmp_path / "input").read_text()
    assert Path(failed.value.filename) == tmp_path / "input"


def test_an_object_is_an_object(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    for text in ("[]", "3", "null", "{"):
        file.write_text(text)
        with pytest.raises(ProjectError, match=r"file\.json"):
            read_object(file)
    file.write_text('{"a": 1}')
    assert read_object(file) == {"a": 1}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "/etc", "a b", "a\n", "é", "a\0b"])
def test_names_that_cannot_be_folders(tmp_path: Path, name: str) -> None:
    for place in (Project(tmp_path).run, Project(tmp_path).evaluation):
        with pytest.raises(ProjectError, match="name"):
            place(name)


def test_names_that_can(tmp_path: Path) -> None:
    assert Project(tmp_path).run("dense_2.1-b").name == "dense_2.1-b"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to("/etc")
    with pytest.raises(ProjectError, match="leads outside"):
        Project(tmp_path).run("link")
