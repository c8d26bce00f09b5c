"""SIGKILL inside a training run, in the pre-pass, between steps and inside saves: the repeated run ends bit for bit.

Every kill is proved: by the exit status, and in a save by what lies half-made in the folder. A twin whose noise comes
from a generator that is not re-derived shows that the comparison can fail.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.training.processes import environment
from tests.unit.training.reference_maker import make_items

from densedpo.observe import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]

DRIVER = Path(__file__).with_name("train_and_die.py")
PROCESS_TIMEOUT_S = 120.0
SAVE_STEPS = 3
SETTINGS = {
    "max_steps": 24,
    "save_steps": SAVE_STEPS,
    "eval_steps": 6,
    "batch_size": 2,
    "micro_batch_size": 2,
    "lora_rank": 4,
    "warmup_steps": 2,
    "save_total_limit": 3,
    "ema_decay": 0.9,
    "precompute_ref_errors": True,
    "ref_draws": 2,
}


class Runs:
    """Starts processes of one run, each bounded in time and ended by its id."""

    def __init__(
        self, model: Path, latents: Path, run: Path, *, stateful_noise: bool = False, **changes: object
    ) -> None:
        self.folder = run
        self._plan = {
            "model": str(model),
            "latents": str(latents),
            "run": str(run),
            "settings": {**SETTINGS, **changes},
            "stateful_noise": stateful_noise,
        }

    def finish(self) -> None:
        process = self._start(None)
        status, errors = self._end(process)
        assert status == 0, errors

    def die(self, place: str, number: int) -> int:
        """Let the process kill itself at a place; return its id."""
        process = self._start((place, number))
        status, errors = self._end(process)
        assert status == -signal.SIGKILL, errors
        return process.pid

    def _start(self, die: tuple[str, int] | None) -> subprocess.Popen[bytes]:
        plan = json.dumps({**self._plan, "die": die})
        return subprocess.Popen(
            [sys.executable, str(DRIVER), plan], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> tuple[int, str]:
        try:
            _, errors = process.communicate(timeout=PROCESS_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()
        return process.returncode, errors.decode(errors="replace")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def last_row(folder: Path) -> int:
    return int(read_jsonl(folder / "metrics.jsonl")[-1]["step"])


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    make_items(tmp_path / "latents", 8)
    return tmp_path / "latents"


def test_a_run_killed_six_times_equals_one_that_was_not(tiny_model_folder: Path, latents: Path, tmp_path: Path) -> None:
    whole = Runs(tiny_model_folder, latents, tmp_path / "whole")
    whole.finish()
    killed = Runs(tiny_model_folder, latents, tmp_path / "killed")
    saves = killed.folder / "checkpoints"

    killed.die("pre-pass", 3)
    measured = sorted(path.name for path in (killed.folder / "cache" / "reference").rglob("*.safetensors"))
    assert "p2.safetensors" in measured and "p4.safetensors" not in measured
    assert any(name.startswith(".tmp-") and name.endswith("-p3.safetensors") for name in measured)
    assert not saves.exists()

    killed.die("row", 5)
    assert last_row(killed.folder) == 5

    half_made = saves / f".tmp-{killed.die('tensors', 12)}-step-12"
    expected = tmp_path / "whole" / "checkpoints" / "step-24" / "tensors.safetensors"
    assert [path.name for path in half_made.iterdir()] == ["tensors.safetensors"]
    assert (half_made / "tensors.safetensors").stat().st_size == expected.stat().st_size // 2
    assert last_row(killed.folder) == 12 and not (saves / "step-12").exists() and (saves / "step-9" / "DONE").exists()

    killed.die("row", 14)
    assert not half_made.exists()
    assert last_row(killed.folder) == 14

    half_made = saves / f".tmp-{killed.die('marker', 21)}-step-21"
    assert sorted(path.name for path in half_made.iterdir()) == ["state.json", "tensors.safetensors"]

    half_made = saves / f".tmp-{killed.die('rename', 24)}-step-24"
    assert (half_made / "DONE").exists() and not (saves / "step-24").exists()

    killed.finish()
    wanted, found = contents(whole.folder), contents(killed.folder)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if wanted[name] != found[name]] == []


def test_a_twin_with_stateful_noise_differs_after_a_kill(
    tiny_model_folder: Path, latents: Path, tmp_path: Path
) -> None:
    changes = {"precompute_ref_errors": False, "max_steps": 9}
    whole = Runs(tiny_model_folder, latents, tmp_path / "whole", stateful_noise=True, **changes)
    killed = Runs(tiny_model_folder, latents, tmp_path / "killed", stateful_noise=True, **changes)
    whole.finish()
    killed.die("tensors", 6)
    rows = [read_jsonl(runs.folder / "metrics.jsonl") for runs in (whole, killed)]
    assert rows[0][:6] == rows[1]  # the twin, too, repeats itself until it is killed
    killed.finish()
    rows = [read_jsonl(runs.folder / "metrics.jsonl") for runs in (whole, killed)]
    assert rows[0][:3] == rows[1][:3] and rows[0][3] != rows[1][3]  # resumed from step 3
    file = Path("lora") / "pytorch_lora_weights.safetensors"
    assert (whole.folder / file).read_bytes() != (killed.folder / file).read_bytes()
