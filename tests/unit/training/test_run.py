"""Training runs: equality at the start, resume, outputs, and refusal of non-numbers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from densedpo.config import Settings, parse_settings
from densedpo.errors import CheckpointError, LabelError, TrainingError
from densedpo.labels.snapshot import latest_snapshot, load_snapshot
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.lora import adapter_off
from densedpo.observe import read_jsonl
from densedpo.store.project import Project
from densedpo.training.data import PairItem, Visit, load_items
from densedpo.training.draws import DrawLaw
from densedpo.training.objective import Part, pair_errors
from densedpo.training.optimizer import learning_rate
from densedpo.training.options import DenseDPOConfig
from densedpo.training.run import TrainSummary, final_metrics, finished_runs, train
from densedpo.training.trainer import DenseDPOTrainer

SMALL = {"max_steps": 4, "batch_size": 2, "lora_rank": 4, "save_steps": 2, "eval_steps": 2, "eval_share": 0.34}


@pytest.fixture
def project(labelled_project: Path) -> Project:
    return Project(labelled_project)


@pytest.fixture
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


def guided(project: Project, model: VideoModel) -> list[PairItem]:
    settings = settings_with().train
    return load_items(project, load_snapshot(latest_snapshot(project)), settings, "guided", model)


def trainer_for(project: Project, model: VideoModel, count: int, **changes: object) -> DenseDPOTrainer:
    """A trainer whose weights and optimizer are there, before its first step."""
    values = {**SMALL, "output_dir": project.run("x"), "cache_dir": project.cache, **changes}
    trainer = DenseDPOTrainer(model, DenseDPOConfig.model_validate(values), guided(project, model)[:count])
    trainer.prepare()
    return trainer


def settings_with(**changes: object) -> Settings:
    return parse_settings({"train": SMALL | changes})


def run(project: Project, folder: Path, name: str = "run", **changes: object) -> TrainSummary:
    return train(project, load_model(str(folder), device="cpu"), settings_with(**changes), name, None)


@pytest.mark.parametrize("method", ["dense", "dense_sum", "structural", "vanilla", "sft"])
def test_every_method_trains_and_publishes(project: Project, tiny_model_folder: Path, method: str) -> None:
    summary = run(project, tiny_model_folder, method, method=method)
    folder = project.run(method)
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(torch.isfinite(torch.tensor([float(v) for v in row.values()])).all() for row in rows)
    assert (folder / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["method"] == method
    assert summary.snapshot in (folder / "README.md").read_text()
    assert finished_runs(project) == [method]
    if method != "sft":
        assert "eval/rewards/accuracies" in rows[1] and "eval/rewards/accuracies" not in rows[0]
        assert rows[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)  # policy equals reference before the first step
        assert rows[0]["rewards/margins"] == 0
        assert rows[-1]["rewards/margins"] != 0


def test_reference_is_the_base_whatever_the_adapter_says(project: Project, model: VideoModel) -> None:
    trainer = trainer_for(project, model, 2)
    part = trainer.load([Visit(item, 0) for item in trainer.items])

    def errors() -> Tensor:
        with torch.no_grad():
            found = pair_errors(model, part.latents, part.draw, part.text)
        return torch.cat([found.a, found.b])

    untouched = errors()
    for parameter in trainer.parameters:
        parameter.data.add_(0.05)
    changed = errors()
    reference = trainer.reference.errors(part.visits, part.latents, part.draw, part.text)
    assert torch.equal(torch.cat([reference.a, reference.b]), untouched)
    assert not torch.allclose(changed, untouched)
    assert torch.equal(errors(), changed)  # the adapter is back on


def test_the_adapter_comes_back_on_after_a_failure(project: Project, model: VideoModel) -> None:
    trainer = trainer_for(project, model, 1)
    trainer.parameters[1].data.add_(0.1)
    latents = torch.zeros(1, 8, 9, 8, 8)
    arguments = (latents, torch.tensor([0.5]), trainer.texts.stack([trainer.items[0].caption]))
    with torch.no_grad():
        before = model.predict(*arguments)
        with pytest.raises(RuntimeError, match="planned"), adapter_off(model):
            raise RuntimeError("planned")
        assert torch.equal(model.predict(*arguments), before)


def test_accumulation_equals_the_big_batch(project: Project, tiny_model_folder: Path) -> None:
    gradients = []
    for micro in (4, 1):
        model = load_model(str(tiny_model_folder), device="cpu")
        changes = {"batch_size": 4, "micro_batch_size": micro, "learning_rate": 1e-12, "warmup_steps": 0}
        trainer = trainer_for(project, model, 4, **changes)
        for parameter in trainer.parameters:
            parameter.data.add_(0.02)
        row = trainer.train_step(0)
        gradients.append((row["loss"], torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None])))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_equals_an_uninterrupted_one(project: Project, tiny_model_folder: Path) -> None:
    run(project, tiny_model_folder, "whole")
    run(project, tiny_model_folder, "part")
    # undo the second half as a kill between two saves would
    shutil.rmtree(project.run("part") / "checkpoints" / "step-4")
    shutil.rmtree(project.run("part") / "lora")
    resumed = run(project, tiny_model_folder, "part")
    assert resumed.resumed_from == 2
    for name in ("metrics.jsonl", "lora/pytorch_lora_weights.safetensors", "config.yaml"):
        assert (project.run("part") / name).read_bytes() == (project.run("whole") / name).read_bytes(), name


def test_a_finished_run_is_left_as_it_is(project: Project, tiny_model_folder: Path) -> None:
    run(project, tiny_model_folder)
    before = (project.run("run") / "lora" / "pytorch_lora_weights.safetensors").read_bytes()
    assert run(project, tiny_model_folder).resumed_from == 4
    assert (project.run("run") / "lora" / "pytorch_lora_weights.safetensors").read_bytes() == before


def test_another_runs_checkpoint_is_refused(project: Project, tiny_model_folder: Path) -> None:
    run(project, tiny_model_folder)
    with pytest.raises(CheckpointError, match="other settings"):
        run(project, tiny_model_folder, beta=100.0)


@pytest.mark.parametrize("where", ["latent", "text", "weight", "gradient"])
def test_a_non_number_stops_before_the_update(project: Project, model: VideoModel, where: str) -> None:
    trainer = trainer_for(project, model, 2, micro_batch_size=1)
    bad = trainer.items[1].pair_id
    load, weights = trainer.load, trainer.parameters

    def planted(visits: Sequence[Visit], law: DrawLaw | None = None) -> Part:
        part = load(visits, law)
        if part.items[0].pair_id == bad and where == "latent":
            part.latents[0].a[0, 0, 0, 0] = float("nan")
        if part.items[0].pair_id == bad and where == "text":
            part.text.hidden.mul_(float("nan"))
        if part.items[0].pair_id == bad and where == "gradient":
            weights[0].register_hook(lambda gradient: gradient * float("nan"))
        return part

    trainer.load = planted  # type: ignore[method-assign]
    if where == "weight":
        weights[0].data[0, 0] = float("inf")
    before = [parameter.detach().clone() for parameter in weights]
    with pytest.raises(TrainingError, match="not finite" if where == "weight" else bad):
        trainer.train_step(0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))


def test_a_label_that_is_no_number_is_refused(project: Project, model: VideoModel) -> None:
    items = guided(project, model)
    for value in (float("nan"), 1.5, float("-inf")):
        wrong = replace(items[1], frame_labels=(value, *items[1].frame_labels[1:]))
        config = DenseDPOConfig(output_dir=project.run("x"))
        with pytest.raises(TrainingError, match=wrong.pair_id):
            DenseDPOTrainer(model, config, [items[0], wrong])


def test_training_without_labels_says_what_to_do(pairs_project: Path, tiny_model_folder: Path) -> None:
    with pytest.raises((LabelError, FileNotFoundError), match="label freeze"):
        run(Project(pairs_project), tiny_model_folder)


def test_what_a_run_ended_with_is_its_last_steps_and_its_last_measurements() -> None:
    rows: list[dict[str, float]] = [{"step": step, "loss": 1.0 if step <= 10 else 0.5} for step in range(1, 31)]
    for step, moved in ((10, 1.0), (20, 0.9), (30, 0.7)):
        rows[step - 1] |= {"eval/loss": moved, "probe/motion": moved}
    assert final_metrics(rows) == {"loss": 0.5, "eval/loss": 0.7, "probe/motion": 0.7}


def test_learning_rate_warms_up_and_falls() -> None:
    settings = parse_settings({"train": {"max_steps": 100, "warmup_steps": 10, "learning_rate": 1.0}}).train
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[99] == pytest.approx(1 / 90)
    assert all(a <= b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[10:]))
