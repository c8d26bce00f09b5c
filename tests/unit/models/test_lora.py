"""LoRA files from anywhere: whole and fitting, or refused with one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from densedpo.errors import ModelError
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.lora import FILE_NAME, add_lora, load_lora, lora_tensors, save_lora


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="module")
def tensors(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    source, folder = load_model(str(tiny_model_folder), device="cpu"), tmp_path_factory.mktemp("lora")
    add_lora(source, rank=2, alpha=2, seed=0)
    save_lora(source, folder)
    loaded: dict[str, torch.Tensor] = load_file(folder / FILE_NAME)
    return loaded


def write(path: Path, tensors: dict[str, torch.Tensor], facts: Any = None) -> Path:
    save_file(tensors, path, None if facts is None else {"lora_adapter_metadata": json.dumps(facts)})
    return path


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_only_one_half(model: VideoModel, tensors: dict[str, torch.Tensor], tmp_path: Path, half: str) -> None:
    file = write(tmp_path / "half.safetensors", {n: t for n, t in tensors.items() if half in n})
    with pytest.raises(ModelError, match="only the other half"):
        load_lora(model, file)


@pytest.mark.parametrize("facts", [[], 3, "text"])
def test_metadata_that_is_no_object(
    model: VideoModel, tensors: dict[str, torch.Tensor], tmp_path: Path, facts: Any
) -> None:
    with pytest.raises(ModelError, match="not a JSON object"):
        load_lora(model, write(tmp_path / "odd.safetensors", tensors, facts))


@pytest.mark.parametrize("alpha", [None, "x", 0, [1], True])
def test_a_wrong_alpha(model: VideoModel, tensors: dict[str, torch.Tensor], tmp_path: Path, alpha: Any) -> None:
    with pytest.raises(ModelError, match="lora_alpha"):
        load_lora(model, write(tmp_path / "odd.safetensors", tensors, {"transformer.lora_alpha": alpha}))


def test_ranks_that_differ(model: VideoModel, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    name = next(n for n in tensors if "lora_A" in n)
    wider = {**tensors, name: torch.cat([tensors[name]] * 2)}
    with pytest.raises(ModelError, match=r"ranks \[2, 4\]"):
        load_lora(model, write(tmp_path / "wide.safetensors", wider))


def test_a_part_we_do_not_know(model: VideoModel, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    name = next(n for n in tensors if "lora_B" in n)
    odd = {**tensors, name.replace("lora_B.weight", "lora_magnitude_vector"): tensors[name].clone()}
    with pytest.raises(ModelError, match="magnitude_vector"):
        load_lora(model, write(tmp_path / "dora.safetensors", odd))


def test_a_wrong_rank_in_the_metadata_does_not_matter(
    tiny_model_folder: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    fresh = load_model(str(tiny_model_folder), device="cpu")
    load_lora(fresh, write(tmp_path / "x.safetensors", tensors, {"transformer.r": "many"}))
    assert len(lora_tensors(fresh)) == len(tensors)
