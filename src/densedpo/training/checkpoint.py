"""Checkpoints: safetensors + JSON, a DONE marker written last, digests, newest complete one wins.

``step-N/`` holds ``tensors.safetensors`` (weights and optimizer moments under flat names), ``state.json`` (what the
caller adds) and ``DONE`` (digests of both). A folder without a valid DONE is not a checkpoint: it is skipped with a
warning and written anew. No pickle is read or written anywhere.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from densedpo.errors import CheckpointError, ProjectError
from densedpo.observe import warn
from densedpo.store.files import read_object, remove_leftovers, replacing_folder, sha256_file, write_json
from densedpo.training.optimizer import join_moment, moment_parts

_FILES = ("tensors.safetensors", "state.json")
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder held: the step it was written after, tensors by name, and the caller's state."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any], *, keep_last: int = 2
) -> Path:
    """Write ``folder/step-N`` whole or not at all, then drop all but the newest ``keep_last`` checkpoints.

    Raises:
        CheckpointError: if a tensor is not finite, as such a checkpoint must never be marked DONE, or if it cannot be
            written.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{folder}/step-{step}: {name} holds non-finite numbers; not saved")
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    target = folder / f"step-{step}"
    with replacing_folder(target) as temporary:
        try:
            save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, temporary / _FILES[0])
        except SafetensorError as error:
            raise CheckpointError(f"{target}: cannot be written ({error}); make room and repeat the command") from None
        write_json(temporary / "state.json", {"step": step, **state})
        digests = {name: sha256_file(temporary / name) for name in _FILES}
        write_json(temporary / "DONE", digests)
    for old in _steps(folder)[keep_last:]:
        shutil.rmtree(folder / f"step-{old}", ignore_errors=True)
    return target


def load_latest(folder: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint below ``folder``, or None; damaged ones are skipped with a warning."""
    for step in _steps(folder):
        path = folder / f"step-{step}"
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            warn(f"{error}; trying the one before")
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Load one checkpoint folder after checking its DONE marker and digests.

    Raises:
        CheckpointError: if the marker is missing or damaged, or a digest differs.
    """
    if not (path / "DONE").is_file():
        raise CheckpointError(f"{path}: no DONE marker, the save was interrupted")
    try:
        digests = read_object(path / "DONE")
    except ProjectError as error:
        raise CheckpointError(str(error)) from None
    if set(digests) != set(_FILES):
        raise CheckpointError(f"{path}/DONE: must name exactly {' and '.join(_FILES)}")
    for name, digest in digests.items():
        if not (path / name).is_file() or sha256_file(path / name) != digest:
            raise CheckpointError(f"{path}/{name}: missing or damaged, its digest differs from the one in DONE")
    try:
        state = read_object(path / "state.json")
        return Checkpoint(state.pop("step"), load_file(path / "tensors.safetensors"), state)
    except (ProjectError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path}: its digests agree, but it is no checkpoint ({error})") from None


def _steps(folder: Path) -> list[int]:
    """Return the step numbers of the folders present, newest first, complete or not."""
    names = [_STEP.fullmatch(item.name) for item in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]) for match in names if match), reverse=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str = "optimizer") -> dict[str, torch.Tensor]:
    """Flatten an optimizer's per-parameter state to named tensors; a moment in 8 bits becomes its parts."""
    flat: dict[str, torch.Tensor] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            for part, tensor in moment_parts(torch.as_tensor(value)).items():
                flat[f"{prefix}.{index}.{key}" + (f".{part}" if part else "")] = tensor
    return flat


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], prefix: str = "optimizer"
) -> None:
    """Put back what ``optimizer_tensors`` flattened; parameter groups keep their current settings."""
    parts: dict[int, dict[str, dict[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}."):
            index, entry = name.removeprefix(f"{prefix}.").split(".", 1)
            key, _, part = entry.partition(".")
            parts.setdefault(int(index), {}).setdefault(key, {})[part] = tensor
    state = {index: {key: join_moment(of) for key, of in entries.items()} for index, entries in parts.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
