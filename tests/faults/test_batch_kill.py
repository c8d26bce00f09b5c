"""Batches and SIGKILL: a command killed at each of its requests goes on, and no batch is started twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fake_batches import FakeBatches, serving
from tests.faults.batch_filler import PAIRS

ROOT = Path(__file__).parents[2]
KILLS = (1, 2, 3, 4, 1, 2, 3, 4)


class Killing(FakeBatches):
    """Kills its client at a request of a given number, before or after doing what it asks for."""

    def __init__(self, *, heard: bool) -> None:
        super().__init__(polls=3)
        self.heard = heard
        self.kill_at = 0
        self.client: subprocess.Popen[str] | None = None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.kill_at -= 1
        if self.kill_at == 0 and self.client is not None:
            done = super().answer(method, path, body) if self.heard else (500, b"{}")
            os.kill(self.client.pid, signal.SIGKILL)
            self.client.wait()
            return done
        return super().answer(method, path, body)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("heard", [True, False], ids=["after", "before"])
def test_killed_at_every_request(tmp_path: Path, heard: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.faults.batch_filler"]
    kills, output = 0, ""
    with serving(Killing(heard=heard)) as service:
        assert isinstance(service, Killing)
        while not output:
            # each client does what the one before left, so later requests are reached in turn
            service.kill_at = KILLS[kills] if kills < len(KILLS) else 0
            line = [*command, service.url, str(tmp_path)]
            with subprocess.Popen(line, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
                service.client = client
                output, _ = client.communicate(timeout=100)
            if not output:
                assert client.returncode == -signal.SIGKILL
                kills += 1
    assert output.strip() == ",".join(["ok"] * PAIRS)
    assert kills >= 4
    assert len(service.batches) == 1
    assert service.asked_alone <= 2
    assert len(service.rows_of_files) <= 2  # an upload nobody heard of costs nothing and is repeated
    assert list((tmp_path / "batches").rglob("*.json*")) == []
