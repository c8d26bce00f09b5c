"""How commands end when the system or the user stops them: one line, the right status, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.judged_pairs import make_project

COMMAND = "from densedpo.cli import main; main()"
# a verb that tells when it has begun and then waits to be stopped
WAITING = textwrap.dedent("""
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    import densedpo.store.tables as tables
    def wait(path):
        print("begun", file=sys.stderr, flush=True)
        time.sleep(60)
    tables.read_table = wait
    from densedpo.cli import main
    main()
""")


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(*arguments: object) -> tuple[int, str]:
    process = start(COMMAND, *arguments)
    out, errors = process.communicate(timeout=120)
    assert out == ""
    return process.returncode, errors


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_is_answered_by_one_line(pairs_project: Path, number: int, status: int, word: str) -> None:
    process = start(WAITING, "label", "status", "--project", pairs_project)
    assert process.stderr is not None
    assert process.stderr.readline() == "begun\n"
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (status, f"{word}; repeat the command to go on\n")


def test_a_project_that_is_a_file(tiny_model_folder: Path, tmp_path: Path) -> None:
    source, project = tmp_path / "source", tmp_path / "project"
    assert ended("miniworld", "clips", source, "--count", "1")[0] == 0
    project.write_text("a file")
    add = ["clips", "add", source, "--captions", source / "captions.csv", "--model", tiny_model_folder]
    status, errors = ended(*add, "--project", project)
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert status == 1 and len(lines) == 1 and str(project) in lines[0] and "Traceback" not in errors
    status, errors = ended(*add, "--project", project, "--debug")
    assert status == 1 and "Traceback" in errors


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    make_project(tmp_path / "project", 1)
    in_the_way = tmp_path / "project" / "cache"
    in_the_way.write_text("a file")
    status, errors = ended("label", "judge", "--project", tmp_path / "project")
    told = f"error: {in_the_way}: a file stands where a folder is needed; move it away"
    assert (status, errors.splitlines()[-1]) == (1, told)


def test_an_export_onto_a_folder(labelled_project: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    status, errors = ended("label", "export", tmp_path / "taken", "--project", labelled_project)
    assert (status, errors) == (1, f"error: {tmp_path}/taken: Is a directory\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_may_not_be_written(labelled_project: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    file = tmp_path / "locked" / "answers.jsonl"
    status, errors = ended("label", "export", file, "--project", labelled_project)
    assert (status, errors) == (1, f"error: {file}: Permission denied\n")


def test_wrong_usage_is_printed_as_before() -> None:
    status, errors = ended("train", "--no-such-flag")
    assert status == 2 and errors.startswith("Usage: ") and "No such option" in errors
