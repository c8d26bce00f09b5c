"""Fixtures shared by all rooms: an untrained model of the Wan family, and small projects made by the real stages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# machines that run tests are shared and noisy: time is measured in benchmarks/, never here
hypothesis.settings.register_profile(
    "densedpo", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)
hypothesis.settings.load_profile("densedpo")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the miniature's shape, with latent statistics that are not trivial."""
    from densedpo.keys import seeded_initialisation
    from densedpo.miniworld.base_flow import TextToLatents, build_tokenizer
    from densedpo.miniworld.base_vae import LATENT_CHANNELS, build_vae
    from densedpo.miniworld.train_base import INFERENCE, write_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    with seeded_initialisation(7):
        tokenizer = build_tokenizer()
        vae, model = build_vae(), TextToLatents(tokenizer)
    mean = [0.1 * channel - 0.3 for channel in range(LATENT_CHANNELS)]
    std = [0.5 + 0.2 * channel for channel in range(LATENT_CHANNELS)]
    vae.register_to_config(latents_mean=mean, latents_std=std)
    write_model(folder, vae.eval(), tokenizer, model.eval(), {"inference": INFERENCE | {"steps": 4}})
    return folder


@pytest.fixture(scope="session")
def pairs_project_template(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with six drawn clips, six guided and six independent pairs by the untrained model."""
    from densedpo.clips.add import add_clips
    from densedpo.config import parse_settings
    from densedpo.miniworld.world_clips import write_world_clips
    from densedpo.models.load import load_model
    from densedpo.pairs.make import make_pairs
    from densedpo.store.project import Project

    root = tmp_path_factory.mktemp("pairs") / "project"
    project, source = Project(root), root / "source"
    write_world_clips(source, 6, seed=0)
    model = load_model(str(tiny_model_folder), device="cpu")
    settings = parse_settings({"model": str(tiny_model_folder)})
    add_clips(project, [source], source / "captions.csv", model.geometry, settings.clips, 1.0)
    for mode in ("guided", "independent"):
        make_pairs(project, model, parse_settings({"pairs": {"mode": mode, "steps": 2, "batch_size": 3}}))
    return root


@pytest.fixture(scope="session")
def labelled_project_template(pairs_project_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project, labelled by simulated annotators and frozen."""
    from densedpo.labels.snapshot import freeze
    from densedpo.miniworld.annotators import SimulatedAnnotator
    from densedpo.miniworld.labelling import label_pairs
    from densedpo.store.project import Project

    root = tmp_path_factory.mktemp("labelled") / "project"
    shutil.copytree(pairs_project_template, root)
    label_pairs(Project(root), SimulatedAnnotator(name="simulated", seed=0, tie_band=0.0), 1.0)
    freeze(Project(root), "simulated", 1.0)
    return root


@pytest.fixture
def pairs_project(pairs_project_template: Path, tmp_path: Path) -> Path:
    """A fresh copy of the project with pairs."""
    return Path(shutil.copytree(pairs_project_template, tmp_path / "project"))


@pytest.fixture
def labelled_project(labelled_project_template: Path, tmp_path: Path) -> Path:
    """A fresh copy of the labelled project."""
    return Path(shutil.copytree(labelled_project_template, tmp_path / "project"))


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server of this test's own; use it with ``tests.postgres.needs_postgres``."""
    from tests.postgres import server

    # a socket's path must be short
    with tempfile.TemporaryDirectory(prefix="pg") as folder, server(Path(folder)) as url:
        yield url
