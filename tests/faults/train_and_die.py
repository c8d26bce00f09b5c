"""A small training run in a process of its own that kills itself at a planned place; see ``test_training_kill.py``.

Usage: train_and_die.py PLAN, a JSON object with ``model``, ``latents`` and ``run`` (folders), ``settings``, ``die``
(null, or [place, step or number of a pair]) and ``stateful_noise``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from tests.unit.training.reference_maker import make_items
from torch import Tensor

from densedpo.keys import torch_stream
from densedpo.observe import MetricsLog
from densedpo.store import files
from densedpo.store.files import fsync_folder
from densedpo.training import checkpoint, reference
from densedpo.training.data import Visit
from densedpo.training.draws import Draw, DrawLaw
from densedpo.training.options import DenseDPOConfig
from densedpo.training.trainer import DenseDPOTrainer


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def plan_death(place: str, number: int) -> None:
    """Arrange for this process to die: in the pre-pass at a pair, after a step was logged, or in its save."""

    def is_this_step(folder: Path) -> bool:
        return folder.name == f".tmp-{os.getpid()}-step-{number}"

    def is_doomed(path: Path) -> bool:
        return path.stem.endswith(f"-p{number}") if place == "pre-pass" else is_this_step(path.parent)

    def write_half(tensors: dict[str, Tensor], path: Path, *metadata: Any) -> None:
        save_file(tensors, path, *metadata)
        if is_doomed(path):
            os.truncate(path, path.stat().st_size // 2)
            die()

    def write_no_marker(path: Path, value: Any) -> None:
        if is_this_step(path.parent) and path.name == "DONE":
            die()
        files.write_json(path, value)

    def rename_never(folder: Path) -> None:
        fsync_folder(folder)
        if is_this_step(folder) and (folder / "DONE").exists():
            die()

    def log_and_die(log: MetricsLog, row: dict[str, Any]) -> None:
        write(log, row)
        if row["step"] == number:
            die()

    write = MetricsLog.write
    planted: dict[str, tuple[ModuleType | type, str, Callable[..., None]]] = {
        "row": (MetricsLog, "write", log_and_die),
        "pre-pass": (reference, "save_file", write_half),
        "tensors": (checkpoint, "save_file", write_half),
        "marker": (checkpoint, "write_json", write_no_marker),
        "rename": (files, "fsync_folder", rename_never),
    }
    setattr(*planted[place])


def keep_a_generator(seed: int) -> None:
    """The twin: t and noise come from one generator that goes on from step to step and is not part of the state."""
    generator = torch_stream(seed, "test-stateful")
    own = DrawLaw.draw

    def draw(self: DrawLaw, visits: Sequence[Visit], shape: tuple[int, ...]) -> Draw:
        if self.stored is not None:
            return own(self, visits, shape)
        drawn = torch.randn((len(visits), *shape), generator=generator)
        return Draw(torch.rand(len(visits), generator=generator), drawn, drawn)

    DrawLaw.draw = draw  # type: ignore[method-assign]


def main() -> None:
    plan = json.loads(sys.argv[1])
    config = DenseDPOConfig.model_validate({**plan["settings"], "output_dir": plan["run"]})
    if plan["stateful_noise"]:
        keep_a_generator(config.seed)
    if plan["die"]:
        plan_death(*plan["die"])
    items = make_items(Path(plan["latents"]), 8)
    DenseDPOTrainer(plan["model"], config, items[:6], items[6:]).train()


if __name__ == "__main__":
    main()
