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
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from densedpo.keys import stream

pytestmark = [pytest.mark.slow, pytest.mark.faults]

COMMAND = [sys.executable, "-c", "from densedpo.cli import main; main()"]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def finish(*arguments: str) -> None:
    process = start(*arguments)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors.decode()


def kill_and_finish(arguments: list[str], progress: Callable[[], int], targets: Sequence[int], name: str) -> int:
    """SIGKILL once each time ``progress`` reaches a target, a random moment later; then run to the end.

    Returns:
        How many kills hit a running process.
    """
    rng = stream("test", "kill", name)
    hits = 0
    for target in targets:
        process = start(*arguments)
        until = time.monotonic() + 250
        while progress() < target and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.15)))
        process.send_signal(signal.SIGKILL)
        hits += process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
    finish(*arguments)
    return hits


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

    def published() -> int:
        return len(list((killed / "pairs").glob("[!.]*/row.json")))

    hits = kill_and_finish([*arguments, "--project", str(killed)], published, [0, 1, 1, 2, 2, 3, 4, 4, 5, 5], "pairs")
    assert hits >= 8, f"only {hits} kills hit a running process"
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
    arguments = ["train", "--model", str(tiny_model_folder), "--max-steps", "40", "--save-steps", "2"]
    arguments += ["--batch-size", "2", "--lora-rank", "4", "--eval-steps", "10", "--name", "run"]
    finish(*arguments, "--project", str(whole))
    metrics = killed / "runs" / "run" / "metrics.jsonl"

    def logged() -> int:
        return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0

    hits = kill_and_finish([*arguments, "--project", str(killed)], logged, [1, 6, 13, 25], "train")
    assert hits >= 3, f"only {hits} kills hit a running process"
    expected, found = contents(whole / "runs" / "run"), contents(killed / "runs" / "run")
    assert found.keys() == expected.keys()
    assert [name for name in expected if expected[name] != found[name]] == []
    finish(*arguments, "--seed", "1", "--project", str(control))
    other = contents(control / "runs" / "run")
    assert other["lora/pytorch_lora_weights.safetensors"] != expected["lora/pytorch_lora_weights.safetensors"]
