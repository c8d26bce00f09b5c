"""Checkpoints: whole or not at all, digests, the newest complete one wins."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from densedpo.errors import CheckpointError
from densedpo.store.files import sha256_file
from densedpo.training.checkpoint import (
    load_checkpoint,
    load_latest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


def save(folder: Path, step: int, value: float = 1.0) -> Path:
    return save_checkpoint(folder, step, {"w": torch.full((3,), value)}, {"note": "x"}, keep_last=3)


def test_the_newest_is_loaded_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save(tmp_path, step, float(step))
    latest = load_latest(tmp_path)
    assert latest is not None and latest.step == 10
    assert latest.tensors["w"].tolist() == [10, 10, 10]
    assert latest.state == {"note": "x"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-2", "step-3"]


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "none") is None


@pytest.mark.parametrize(
    "damage",
    [
        "no marker", "short file", "bit flip", "no tensors", "marker {", "marker {}", "marker []",
        'marker {"state.json": "0"}', "one more file",
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    tensors = newest / "tensors.safetensors"
    if damage == "no marker":
        (newest / "DONE").unlink()
    elif damage == "short file":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif damage == "bit flip":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(data)
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "one more file":
        (newest / "extra").write_text("x")
        digests = json.loads((newest / "DONE").read_text()) | {"extra": sha256_file(newest / "extra")}
        (newest / "DONE").write_text(json.dumps(digests))
    else:
        (newest / "DONE").write_text(damage.removeprefix("marker "))
    with pytest.raises(CheckpointError, match="step-2"):
        load_checkpoint(newest)
    latest = load_latest(tmp_path)
    assert latest is not None and latest.step == 1
    assert save(tmp_path, 2) == newest and load_checkpoint(newest).step == 2


def test_a_non_number_is_never_marked_done(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="w"):
        save(tmp_path, 1, float("inf"))
    assert load_latest(tmp_path) is None


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="step-2: cannot be written"):
            save_checkpoint(tmp_path, 2, {"w": torch.ones(10000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [item.name for item in tmp_path.iterdir()] == ["step-1"]


def test_leftovers_of_a_killed_save_are_cleared(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    leftover = tmp_path / f".tmp-{killed.pid}-step-5"
    leftover.mkdir()
    (leftover / "tensors.safetensors").write_bytes(b"half")
    assert load_latest(tmp_path) is None
    save(tmp_path, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-5"]


def test_optimizer_state_survives(tmp_path: Path) -> None:
    def fresh() -> tuple[torch.nn.Parameter, torch.optim.AdamW]:
        weight = torch.nn.Parameter(torch.ones(2))
        return weight, torch.optim.AdamW([weight], lr=0.1)

    def step(weight: torch.nn.Parameter, optimizer: torch.optim.AdamW) -> None:
        optimizer.zero_grad()
        (weight * torch.tensor([1.0, -2.0])).sum().square().backward()
        optimizer.step()

    weight, optimizer = fresh()
    step(weight, optimizer)
    save_checkpoint(tmp_path, 1, {"w": weight.detach()} | optimizer_tensors(optimizer), {})
    step(weight, optimizer)
    other, resumed = fresh()
    loaded = load_latest(tmp_path)
    assert loaded is not None
    other.data = loaded.tensors["w"]
    restore_optimizer(resumed, loaded.tensors)
    step(other, resumed)
    assert torch.equal(weight, other)
