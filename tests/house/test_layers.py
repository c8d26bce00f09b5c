"""The import contract holds, and would notice if it did not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()",
        "--config", str(folder / "pyproject.toml"), "--no-cache",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def copy_of_code(root: Path, folder: Path) -> Path:
    shutil.copy(root / "pyproject.toml", folder)
    only_code = shutil.ignore_patterns("__pycache__", "base", "assets", "static")
    shutil.copytree(root / "src", folder / "src", ignore=only_code)
    return folder


def test_layers_hold(root: Path) -> None:
    done = lint_imports(root)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("room", "statement", "contract"),
    [
        ("store", "import densedpo.labels", "Data flows one way"),
        ("labels", "import torch", "torch stays out"),
        ("diffusion", "import densedpo.config", "The maths knows no settings"),
        ("training", "import densedpo.labels.judges", "Training sees frozen labels"),
    ],
)
def test_a_planted_violation_is_found(root: Path, tmp_path: Path, room: str, statement: str, contract: str) -> None:
    folder = copy_of_code(root, tmp_path)
    (folder / "src" / "densedpo" / room / "planted.py").write_text(f'"""Planted."""\n\n{statement}\n', encoding="utf-8")
    done = lint_imports(folder)
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if contract in line and "BROKEN" in line]
    assert broken, done.stdout
