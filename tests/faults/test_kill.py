"""SIGKILL at random moments: the repeated command ends with the same files, bit for bit.

Each test counts how many kills really hit a running process and fails below its quota. A control shows that the
comparison can fail: a run with another seed ends with other bytes.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from densedpo.keys import stream

pytestmark = [pytest.mark.slow, pytest.mark.faults]

COMMAND = [sys.executable, "-c", "from densedpo.cli import main; main()"]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def finish(*arguments: str) -> float:
    """Run to the end and return the seconds it took."""
    begun = time.monotonic()
    process = start(*arguments)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors.decode()
    return time.monotonic() - begun


def kill_and_finish(arguments: list[str], seconds: float, kills: int, name: str) -> int:
    """Start and SIGKILL ``kills`` times within the time a whole run takes, then run to the end; return the hits."""
    rng = stream("test", "kill", name)
    hits = 0
    for _ in range(kills):
        process = start(*arguments)
        try:
            process.wait(timeout=float(rng.uniform(0.25, 1.0)) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            hits += process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
    finish(*arguments)
    return hits


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_pairs_make(pairs_project: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(pairs_project / "pairs")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for copy in (whole, killed):
        shutil.copytree(pairs_project, copy)
    arguments = ["pairs", "make", "--model", str(tiny_model_folder), "--steps", "4", "--batch-size", "1"]
    seconds = finish(*arguments, "--project", str(whole))
    hits = kill_and_finish([*arguments, "--project", str(killed)], seconds, 5, "pairs")
    assert hits >= 3, f"only {hits} kills hit a running process"
    expected, found = contents(whole / "pairs"), contents(killed / "pairs")
    assert len(expected) == 6 * 4 + 1
    assert found.keys() == expected.keys()  # nothing half-made is left behind either
    assert found == expected
    finish(*arguments, "--seed", "1", "--project", str(killed))
    assert contents(killed / "pairs") != expected


def test_train(labelled_project: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    whole, killed, control = (tmp_path / name for name in ("whole", "killed", "control"))
    for copy in (whole, killed, control):
        shutil.copytree(labelled_project, copy)
    arguments = ["train", "--model", str(tiny_model_folder), "--max-steps", "40", "--save-every", "2"]
    arguments += ["--batch-size", "2", "--lora-rank", "4", "--eval-every", "10", "--name", "run"]
    seconds = finish(*arguments, "--project", str(whole))
    hits = kill_and_finish([*arguments, "--project", str(killed)], seconds, 5, "train")
    assert hits >= 3, f"only {hits} kills hit a running process"
    expected, found = contents(whole / "runs" / "run"), contents(killed / "runs" / "run")
    assert found.keys() == expected.keys()
    assert [name for name in expected if expected[name] != found[name]] == []
    finish(*arguments, "--seed", "1", "--project", str(control))
    other = contents(control / "runs" / "run")
    assert other["lora/pytorch_lora_weights.safetensors"] != expected["lora/pytorch_lora_weights.safetensors"]
