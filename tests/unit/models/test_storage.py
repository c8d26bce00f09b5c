"""Weights kept in fewer bits: close outputs, LoRA training as before, and the graph holds the small ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from densedpo.config import TrainSettings, parse_settings
from densedpo.errors import ConfigError
from densedpo.keys import noise
from densedpo.models.activation import POLICIES, Policy, apply_policy
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.lora import adapter_off, add_lora, load_lora, lora_tensors
from densedpo.models.memory import peak_memory
from densedpo.models.storage import StorageDtype, keep_stored, store_weights
from densedpo.models.text import TextCondition
from densedpo.pairs.make import make_pairs
from densedpo.store.project import Project
from densedpo.store.tables import read_table
from densedpo.training.run import train

BOTH: list[StorageDtype] = ["bfloat16", "float8"]
# of the prediction's norm; what rounding to 8 and 4 significant bits leaves over a few blocks
CLOSE = {"bfloat16": 5e-3, "float8": 5e-2}


def predict(model: VideoModel) -> Tensor:
    shape = (2, *model.latent_shape(9, 24, 24))
    text = TextCondition({"hidden": noise((2, 16, 48), 0, "text")})
    return model.predict(noise(shape, 0, "latents"), torch.tensor([0.3, 0.8]), text)


def gap(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / first.norm())


def weight_bytes(model: VideoModel) -> int:
    return sum(weight.nbytes for weight in model.denoiser.parameters())


@pytest.fixture(scope="module")
def expected() -> Tensor:
    with torch.no_grad():
        return predict(load_model("miniature", device="cpu"))


@pytest.mark.parametrize("storage", BOTH)
def test_outputs_are_close_and_weights_smaller(storage: StorageDtype, expected: Tensor) -> None:
    model = load_model("miniature", device="cpu")
    before = weight_bytes(model)
    saved = store_weights(model.denoiser, storage)
    assert before - weight_bytes(model) == pytest.approx(saved, rel=0.05)
    assert saved > 0.4 * before
    with torch.no_grad():
        found = predict(model)
        again = predict(model)
    assert 0 < gap(expected, found) < CLOSE[storage]
    assert torch.equal(found, again)
    with torch.no_grad():
        loaded = load_model("miniature", device="cpu", storage_dtype=storage)
        assert torch.equal(predict(loaded), found), "the same whether stored while loading or later"


def test_rows_are_scaled_so_that_small_weights_survive() -> None:
    """Cast as they are, all these weights would be zero in 8 bits."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q = nn.Linear(16, 8, bias=False)

    block = Block().requires_grad_(False)
    weight = 1e-5 * noise((8, 16), 0, "small")
    block.to_q.weight.copy_(weight)
    inputs = noise((4, 16), 0, "inputs")
    assert not weight.to(torch.float8_e4m3fn).float().any()
    store_weights(block, "float8")
    assert gap(inputs @ weight.T, block.to_q(inputs)) < 0.05


def test_touchy_layers_and_trained_ones_stay(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder), device="cpu")
    add_lora(model, rank=4, alpha=4, seed=0)
    store_weights(model.denoiser, "float8")
    kinds = {name: weight.dtype for name, weight in model.denoiser.named_parameters()}
    small = {name for name, kind in kinds.items() if kind == torch.float8_e4m3fn}
    assert small and all(name.startswith("blocks.") for name in small)
    assert not any(part in name for name in small for part in ("norm", "lora_", "bias", "embed", "proj_out"))
    assert {kinds[name] for name in kinds if "lora_" in name} == {torch.float32}


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_are_those_of_the_rounded_weights(tiny_model_folder: Path, policy: Policy) -> None:
    gradients = []
    for rounded in (False, True):
        model = load_model(str(tiny_model_folder), device="cpu")
        for number, parameter in enumerate(add_lora(model, rank=4, alpha=4, seed=0)):
            parameter.data = 0.05 * noise(tuple(parameter.shape), 0, "lora", number)
        if rounded:
            for weight in model.denoiser.parameters():
                if not weight.requires_grad and weight.ndim == 2:
                    weight.data = weight.data.to(torch.bfloat16).float()
        else:
            store_weights(model.denoiser, "bfloat16")
        apply_policy(model, policy)
        with torch.no_grad(), adapter_off(model):
            reference = predict(model)
        (predict(model) - reference).square().mean().backward()
        found = [p.grad.flatten() for p in model.denoiser.parameters() if p.grad is not None]
        gradients.append(torch.cat(found))
    assert gap(*gradients) < 0.02
    assert gradients[0].norm() > 0


def test_the_graph_holds_the_small_weights(tiny_model_folder: Path) -> None:
    peaks = []
    for storage in (None, "float8"):
        model = load_model(str(tiny_model_folder), device="cpu")
        add_lora(model, rank=4, alpha=4, seed=0)
        keep_stored(model, storage)
        with peak_memory(torch.device("cpu")) as peak:
            predict(model).mean().backward()
        peaks.append(peak.held_bytes)
    largest = max(w.numel() for w in model.denoiser.parameters()) * 4
    assert peaks[1] < peaks[0] + 4 * largest, "one layer at a time is made large, not all that the graph holds"


def test_stored_twice_or_for_nothing(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder), device="cpu", dtype="bfloat16")
    with pytest.raises(ConfigError, match="nothing to gain from bfloat16"):
        keep_stored(model, "bfloat16")
    keep_stored(model, None)
    keep_stored(model, "float8")
    keep_stored(model, "float8")
    with pytest.raises(ConfigError, match="loaded in float8 already"):
        keep_stored(model, "bfloat16")


def test_the_lora_starts_as_without_it(tiny_model_folder: Path) -> None:
    adapters = []
    for storage in (None, "float8"):
        model = load_model(str(tiny_model_folder), device="cpu")
        add_lora(model, rank=4, alpha=4, seed=0)
        keep_stored(model, storage)
        adapters.append(lora_tensors(model))
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())


@pytest.mark.parametrize("other", [{"tuning": "full"}, {"parallel": "fsdp"}])
def test_whole_or_sharded_weights_cannot_be_stored_so(other: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="frozen base in one piece"):
        TrainSettings.model_validate({"storage_dtype": "float8", **other})


def test_pairs_and_lora_training_go_through(labelled_project: Path, tiny_model_folder: Path) -> None:
    """Pairs of stored weights are other pairs, of the same base; a LoRA learns on them and fits the plain base."""
    project = Project(labelled_project)
    settings = parse_settings(
        {
            "pairs": {"steps": 2, "batch_size": 3, "storage_dtype": "float8"},
            "train": {"max_steps": 2, "batch_size": 2, "eval_share": 0, "storage_dtype": "float8", "probe_steps": 0},
        }
    )
    before = {row["pair_id"] for row in read_table(project.pairs_table)}
    model = load_model(str(tiny_model_folder), device="cpu", storage_dtype="float8")
    assert make_pairs(project, model, settings, limit=1).made == 1
    new = [row for row in read_table(project.pairs_table) if row["pair_id"] not in before]
    assert [(row["storage_dtype"], row["model_fingerprint"]) for row in new] == [("float8", model.fingerprint)]
    base = load_model(str(tiny_model_folder), device="cpu")
    train(project, base, settings, "stored", None)
    assert base.storage_dtype == "float8"
    plain = load_model(str(tiny_model_folder), device="cpu")
    load_lora(plain, project.run("stored") / "lora")
    assert any(bool(tensor.any()) for name, tensor in lora_tensors(plain).items() if "lora_B" in name)
