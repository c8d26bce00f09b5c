"""SIGKILL in the middle of stages: the repeated command ends with the same files, bit for bit.

The kills are counted off, not timed, and every one is seen to hit. A control shows that the comparison can fail: a run
with another seed ends with other bytes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.dying import kill_at

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1200)]

SCRIPT = "from densedpo.cli import main; main()"


def finish(*arguments: str) -> None:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    process = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, timeout=280, check=False)
    assert process.returncode == 0, process.stderr.decode()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_pairs_make(pairs_project: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    for made in ("pairs", "cache"):
        shutil.rmtree(pairs_project / made)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for copy in (whole, killed):
        shutil.copytree(pairs_project, copy)
    arguments = ["pairs", "make", "--model", str(tiny_model_folder), "--steps", "4", "--batch-size", "2"]
    finish(*arguments, "--project", str(whole))
    # a caption, 2 a clip's latents, 12 a pair, 2 the table: in a caption, inside of pairs, between two, at the table
    for moment in (9, 15, 10, 24, 20, 30, 13):
        kill_at(moment, SCRIPT, *arguments, "--project", str(killed))
    finish(*arguments, "--project", str(killed))
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
    arguments = ["train", "--model", str(tiny_model_folder), "--max-steps", "16", "--save-steps", "2"]
    arguments += ["--batch-size", "2", "--lora-rank", "4", "--eval-steps", "4", "--name", "run"]
    finish(*arguments, "--project", str(whole))
    # 2 for the settings, 10 a save: in the first save, the second, the sixth and the last, each of them not whole yet
    for moment, step in ((4, None), (20, 2), (45, 10), (30, 14)):
        kill_at(moment, SCRIPT, *arguments, "--project", str(killed))
        saves = (killed / "runs" / "run" / "checkpoints").glob("step-*")
        assert max((int(save.name.removeprefix("step-")) for save in saves), default=None) == step
    finish(*arguments, "--project", str(killed))
    expected, found = contents(whole / "runs" / "run"), contents(killed / "runs" / "run")
    assert found.keys() == expected.keys()
    assert [name for name in expected if expected[name] != found[name]] == []
    finish(*arguments, "--seed", "1", "--project", str(control))
    other = contents(control / "runs" / "run")
    assert other["lora/pytorch_lora_weights.safetensors"] != expected["lora/pytorch_lora_weights.safetensors"]
