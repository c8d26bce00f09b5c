"""Where the project lies, and a way to run the installed command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Runs main() once a command line and reports, as JSON on the real standard output, what happened and what was imported.
_DRIVER = """
import contextlib, io, json, sys
lines = json.loads(sys.argv[1])
exec(sys.argv[2])
from densedpo.cli import main
results = []
for line in lines:
    sys.argv = ["densedpo", *line]
    out = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    results.append({"code": code or 0, "text": out.getvalue()})
print(json.dumps({"results": results, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""

RunCommand = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def run_command() -> RunCommand:
    """Run several ``densedpo`` command lines in one fresh process, after an optional statement."""

    def run(lines: list[list[str]], before: str = "") -> dict[str, Any]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"}
        command = [sys.executable, "-c", _DRIVER, json.dumps(lines), before]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    return run
