"""A project whose run ``tuned`` is a LoRA of one large step: visibly another model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from densedpo.config import parse_settings
from densedpo.models.load import load_model
from densedpo.store.project import Project
from densedpo.training.run import train


def train_once(project: Project, model_folder: Path, name: str, learning_rate: float) -> Path:
    """Train a LoRA for one step and return its file."""
    chosen = {"max_steps": 1, "batch_size": 1, "lora_rank": 2, "eval_share": 0, "warmup_steps": 0}
    settings = parse_settings({"train": chosen | {"learning_rate": learning_rate}})
    summary = train(project, load_model(str(model_folder), device="cpu"), settings, name, None)
    assert summary.lora is not None
    return Path(summary.lora)


@pytest.fixture(scope="session")
def tuned_template(
    labelled_project_template: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("tuned") / "project"
    shutil.copytree(labelled_project_template, root)
    train_once(Project(root), tiny_model_folder, "tuned", 0.3)
    train_once(Project(root), tiny_model_folder, "other", 0.2)
    return root


@pytest.fixture
def tuned(tuned_template: Path, tmp_path: Path) -> Project:
    """A fresh copy of the project with the runs ``tuned`` and ``other``."""
    return Project(Path(shutil.copytree(tuned_template, tmp_path / "tuned")))


@pytest.fixture(scope="session")
def other_base(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained model with one weight changed."""
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("other") / "model"))
    weights = next((folder / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    return folder
