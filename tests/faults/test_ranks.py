"""Trouble on one process of several: all stop before the update, the pair is named, and nobody waits forever.

This file is also the program that each process runs: the real training stage, with one thing planted in it.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.unit.training.processes import ranks, torchrun

from densedpo.config import TrainSettings, parse_settings
from densedpo.errors import TrainingError
from densedpo.labels.snapshot import latest_snapshot, load_snapshot
from densedpo.models.load import load_model
from densedpo.store.project import Project
from densedpo.training import run
from densedpo.training.data import batch_at, load_items, split_by_source
from densedpo.training.loss import LossOutput
from densedpo.training.objective import Part
from densedpo.training.parallel import Parallel
from densedpo.training.trainer import DenseDPOTrainer

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

PLANTED_RANK = 1
PLANTED_STEP = 1  # counted from 0: weights have moved once
NAME = "run"
BATCH = 4
STEPS = 12
KILLED_STEP = 3  # counted from 0
CASES = [
    ("none", "ddp", "lora"),
    ("loss", "ddp", "lora"),
    ("gradient", "ddp", "lora"),
    ("loss", "fsdp", "lora"),
    ("loss", "fsdp", "full"),
]
SMALL = {"lora_rank": 4, "warmup_steps": 0, "micro_batch_size": 1}


class Planted(DenseDPOTrainer):
    """The trainer, with a number that is not one on one process in one step; says what every process then does."""

    kind = "none"
    report = Path()

    def train_step(self, step: int) -> dict[str, float]:
        """Do a step; leave behind what was raised and whether a weight has moved."""
        planted = step == PLANTED_STEP and self.parallel.rank == PLANTED_RANK
        if planted and self.kind == "gradient":
            self.parameters[-1].register_hook(lambda gradient: gradient * float("nan"))
        self.poisoned = planted and self.kind == "loss"
        before = [weight.detach().clone() for weight in self.parameters]
        batch = self.parallel.share(batch_at(self.items, self.config.seed, step, self.config.batch_size))
        try:
            return super().train_step(step)
        except TrainingError as error:
            moved = not all(torch.equal(a, b) for a, b in zip(before, self.parameters, strict=True))
            facts = {
                "error": str(error),
                "moved": moved,
                "step": step,
                "pairs": [visit.item.pair_id for visit in batch],
            }
            (self.report / f"rank-{self.parallel.rank}.json").write_text(json.dumps(facts), encoding="utf-8")
            raise

    def part_loss(self, part: Part, totals: Sequence[float]) -> LossOutput:
        """Return the loss, poisoned where that was planted."""
        output = super().part_loss(part, totals)
        return replace(output, loss=output.loss * float("nan")) if getattr(self, "poisoned", False) else output


def work(root: Path, model: Path) -> None:
    """What each process does: every case in a project folder of its own."""
    vars(run)["DenseDPOTrainer"] = Planted
    for case in CASES:
        kind, mode, tuning = case
        Planted.kind, Planted.report = kind, root / "-".join(case)
        chosen = {**SMALL, "max_steps": 3, "save_steps": 1, "batch_size": 2, "eval_share": 0}
        train = {**chosen, "parallel": mode, "tuning": tuning}
        settings = parse_settings({"model": str(model), "device": "cpu", "train": train})
        with suppress(TrainingError):
            run.train(Project(Planted.report), load_model(str(model), device="cpu"), settings, NAME, None)


def wait_for_each_other(timeout_s: float, file: Path) -> None:
    """What each process does where one falls asleep."""
    parallel = Parallel(TrainSettings(), "cpu", timeout_s=timeout_s)
    parallel.wait()
    (file / str(parallel.rank)).touch()
    while True:
        parallel.wait()


@pytest.fixture(scope="module")
def stopped(
    labelled_project_template: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder in which every case was run by two processes, and what they said."""
    root = tmp_path_factory.mktemp("stopped")
    for case in CASES:
        shutil.copytree(labelled_project_template, root / "-".join(case))
    return root, torchrun([__file__, "work", str(root), str(tiny_model_folder)], timeout_s=400)[1]


@pytest.mark.parametrize("case", CASES[1:], ids="-".join)
def test_a_nan_on_one_process_stops_all_before_the_update(case: Sequence[str], stopped: tuple[Path, str]) -> None:
    root, said = stopped
    project = root / "-".join(case)
    files = [project / f"rank-{rank}.json" for rank in (0, 1)]
    assert all(file.exists() for file in files), said[-1500:]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    (pair,) = found[PLANTED_RANK]["pairs"]
    assert found[0]["pairs"] != [pair]
    for facts in found:  # the same words on both, though only one has seen it
        assert f"step {PLANTED_STEP + 1}: the {case[0]} is not finite; pairs {pair};" in facts["error"], said[-1500:]
        assert (facts["step"], facts["moved"]) == (PLANTED_STEP, False)
    folder = project / "runs" / NAME
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{PLANTED_STEP}"]
    assert len((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == PLANTED_STEP


def test_without_anything_planted_the_same_program_ends_well(stopped: tuple[Path, str]) -> None:
    project = stopped[0] / "-".join(CASES[0])
    assert list(project.glob("rank-*.json")) == []
    assert (project / "runs" / NAME / "run.json").exists()


def command(project: Path, model: Path, *more: str) -> list[str]:
    words = ["train", "--project", str(project), "--model", str(model), "--name", NAME, "--device", "cpu"]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    return [*words, *sizes, f"--batch-size={BATCH}", "--save-steps=1", *more]


@pytest.mark.parametrize("rank", [0, 1])
def test_damage_that_one_process_reads_is_named(rank: int, labelled_project: Path, tiny_model_folder: Path) -> None:
    """Each process reads pairs of its own; whichever it is that fails, the user must see why."""
    settings = parse_settings({"train": SMALL}).train
    project, model = Project(labelled_project), load_model(str(tiny_model_folder), device="cpu")
    items = load_items(project, load_snapshot(latest_snapshot(project)), settings, "guided", model)
    learning, _ = split_by_source(items, settings.eval_share)
    item = batch_at(learning, 0, 0, BATCH)[2 + rank].item  # the second that this process reads
    item.latents_path.write_bytes(item.latents_path.read_bytes()[:-8])
    arguments = command(labelled_project, tiny_model_folder, "--max-steps=1", "--no-self-check")
    code, said = torchrun(["-m", "densedpo", *arguments])
    assert code != 0
    assert f"error: pair {item.pair_id}: {item.latents_path}: cannot be read" in said, said[-1500:]


@pytest.fixture(scope="module")
def whole(labelled_project_template: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run nobody disturbed."""
    project = Path(shutil.copytree(labelled_project_template, tmp_path_factory.mktemp("whole") / "project"))
    code, said = torchrun(["-m", "densedpo", *command(project, tiny_model_folder, f"--max-steps={STEPS}")])
    assert code == 0, said[-1500:]
    return project


# The command line, of which one process kills itself when it is about to do a step.
DYING = f"""
import os, signal
from densedpo.cli import main
from densedpo.training.trainer import DenseDPOTrainer

def dying(trainer, step, do=DenseDPOTrainer.train_step):
    if step == {KILLED_STEP} and os.environ["RANK"] == "%d":
        os.kill(os.getpid(), signal.SIGKILL)
    return do(trainer, step)

DenseDPOTrainer.train_step = dying
main()
"""


def kill_one(killed: int, project: Path, arguments: Sequence[str]) -> str:
    """Kill a process in the middle of its run, with no torchrun to end the other; return what the other said."""
    with ranks([sys.executable, "-c", DYING % killed, *arguments]) as processes:
        other = processes[1 - killed]
        assert other.wait(timeout=300) != 0
        assert processes[killed].wait(timeout=60) == -signal.SIGKILL
        assert other.stderr is not None
        error = other.stderr.read().decode()
    metrics = project / "runs" / NAME / "metrics.jsonl"
    assert metrics.read_bytes().count(b"\n") == KILLED_STEP
    assert "Traceback" not in error
    return error


def test_a_killed_process_leaves_nobody_hanging_and_the_run_goes_on(
    whole: Path, labelled_project: Path, tiny_model_folder: Path
) -> None:
    arguments = command(labelled_project, tiny_model_folder, f"--max-steps={STEPS}")
    assert "another process stopped or does not answer" in kill_one(1, labelled_project, arguments)
    code, said = torchrun(["-m", "densedpo", *arguments])
    assert code == 0, said[-1500:]
    names = [path.relative_to(whole) for path in sorted((whole / "runs").rglob("*.safetensors"))]
    assert len(names) >= 2
    assert [name for name in names if (whole / name).read_bytes() != (labelled_project / name).read_bytes()] == []


def test_a_killed_main_process_leaves_nobody_hanging(labelled_project: Path, tiny_model_folder: Path) -> None:
    kill_one(0, labelled_project, command(labelled_project, tiny_model_folder, f"--max-steps={STEPS}"))


def test_a_sleeping_process_is_waited_for_only_so_long(tmp_path: Path) -> None:
    with ranks([sys.executable, __file__, "wait", "8", str(tmp_path)]) as processes:
        until = time.monotonic() + 200
        while len(list(tmp_path.iterdir())) < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        processes[1].send_signal(signal.SIGSTOP)
        assert processes[0].wait(timeout=60) == 1
        assert processes[0].stderr is not None
        assert "another process stopped or does not answer" in processes[0].stderr.read().decode()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        wait_for_each_other(float(sys.argv[2]), Path(sys.argv[3]))
