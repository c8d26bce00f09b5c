"""The load benchmark runs, in small, and reports what it promises."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_load_benchmark_reports_waits_of_both_servers() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "benchmarks" / "label_server.py"), "--json", "--port", str(port)]
    small = ["--pairs", "30", "--people", "3", "--seconds", "1", "--think-s", "0.02"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([*command, *small], capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for server in ("server", "naive"):
        waits = found[server]["waits"]
        assert set(waits) == {"answer acknowledged", "next pair", "part of a video", "submission"}
        assert all(row["n"] > 0 and row["p50_ms"] <= row["p95_ms"] <= row["max_ms"] for row in waits.values())
        assert found[server]["server_memory"]["after_mib"] > 0
