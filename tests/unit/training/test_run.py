"""Training runs: equality at the start, resume, outputs, and refusal of non-numbers."""

from __future__ import annotations

import shutil
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
from densedpo.store.tables import read_table
from densedpo.training.data import Visit, load_items
from densedpo.training.loop import Trainer, learning_rate
from densedpo.training.objective import draw_batch, pair_errors
from densedpo.training.run import TrainSummary, finished_runs, train

SMALL = {"max_steps": 4, "batch_size": 2, "lora_rank": 4, "save_every": 2, "eval_every": 2, "eval_share": 0.34}


@pytest.fixture
def project(labelled_project: Path) -> Project:
    return Project(labelled_project)


@pytest.fixture
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


def base_of(project: Project) -> str:
    """Fingerprint of the model that made the project's pairs."""
    return str(read_table(project.pairs_table)[0]["model_fingerprint"])


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
    snapshot = load_snapshot(latest_snapshot(project))
    items = load_items(project, snapshot, "dense", "guided", base_of(project))[:2]
    trainer = Trainer(model, items, [], settings_with().train, 0, project.run("x"), "id")
    latents = [trainer.reader.read(item) for item in items]
    visits = [Visit(item, 0) for item in items]
    draw = draw_batch(visits, tuple(latents[0].a.shape), 0, shift=5.0, share_noise=True)
    text = torch.stack([trainer.texts[item.caption] for item in items])

    def errors() -> Tensor:
        with torch.no_grad():
            found = pair_errors(model, latents, draw, text)
        return torch.cat([found.a, found.b])

    untouched = errors()
    for parameter in trainer.parameters:
        parameter.data.add_(0.05)
    changed = errors()
    with adapter_off(model):
        reference = errors()
    assert torch.equal(reference, untouched)
    assert not torch.allclose(changed, untouched)
    assert torch.equal(errors(), changed)  # the adapter is back on


def test_the_adapter_comes_back_on_after_a_failure(project: Project, model: VideoModel) -> None:
    items = load_items(project, load_snapshot(latest_snapshot(project)), "dense", "guided", base_of(project))[:1]
    trainer = Trainer(model, items, [], settings_with().train, 0, project.run("x"), "id")
    trainer.parameters[1].data.add_(0.1)
    latents = torch.zeros(1, 8, 9, 8, 8)
    arguments = (latents, torch.tensor([0.5]), trainer.texts[items[0].caption][None])
    with torch.no_grad():
        before = model.predict(*arguments)
        with pytest.raises(RuntimeError, match="planned"), adapter_off(model):
            raise RuntimeError("planned")
        assert torch.equal(model.predict(*arguments), before)


def test_both_sides_see_the_same_t_and_noise(project: Project) -> None:
    items = load_items(project, load_snapshot(latest_snapshot(project)), "dense", "guided", base_of(project))
    visits = [Visit(item, 5) for item in items]
    shared = draw_batch(visits, (2, 3, 4, 4), 0, shift=1.0, share_noise=True)
    assert torch.equal(shared.noise_a, shared.noise_b)
    separate = draw_batch(visits, (2, 3, 4, 4), 0, shift=1.0, share_noise=False)
    assert torch.equal(separate.noise_a, shared.noise_a) and not torch.equal(separate.noise_a, separate.noise_b)
    assert torch.equal(separate.t, shared.t) and len(set(shared.t.tolist())) == len(items)
    # a pair's draw does not depend on its place in the batch
    turned = draw_batch(visits[::-1], (2, 3, 4, 4), 0, shift=1.0, share_noise=True)
    assert torch.equal(turned.noise_a.flip(0), shared.noise_a)
    other_epoch = draw_batch([Visit(item, 6) for item in items], (2, 3, 4, 4), 0, shift=1.0, share_noise=True)
    assert not torch.equal(other_epoch.noise_a, shared.noise_a)


def test_accumulation_equals_the_big_batch(project: Project, tiny_model_folder: Path) -> None:
    items = load_items(project, load_snapshot(latest_snapshot(project)), "dense", "guided", base_of(project))
    gradients = []
    for micro in (4, 1):
        model = load_model(str(tiny_model_folder), device="cpu")
        chosen = settings_with(batch_size=4, micro_batch_size=micro, learning_rate=1e-12, warmup_steps=0).train
        trainer = Trainer(model, items, [], chosen, 0, project.run(f"m{micro}"), "id")
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


def test_a_non_number_stops_before_the_update(project: Project, model: VideoModel) -> None:
    items = load_items(project, load_snapshot(latest_snapshot(project)), "dense", "guided", base_of(project))[:2]
    trainer = Trainer(model, items, [], settings_with().train, 0, project.run("x"), "id")
    trainer.texts = {caption: text * float("nan") for caption, text in trainer.texts.items()}
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    with pytest.raises(TrainingError, match=items[0].pair_id):
        trainer.train_step(0)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))


def test_training_without_labels_says_what_to_do(pairs_project: Path, tiny_model_folder: Path) -> None:
    with pytest.raises((LabelError, FileNotFoundError), match="label freeze"):
        run(Project(pairs_project), tiny_model_folder)


def test_learning_rate_warms_up_and_falls() -> None:
    settings = parse_settings({"train": {"max_steps": 100, "warmup_steps": 10, "learning_rate": 1.0}}).train
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[99] == pytest.approx(1 / 90)
    assert all(a <= b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[10:]))
