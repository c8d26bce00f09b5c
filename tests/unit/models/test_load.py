"""Model folders from anywhere: each fault is one ModelError that names the file, and devices exist or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from densedpo.errors import ConfigError, ModelError
from densedpo.models.fingerprint import fingerprint_folder
from densedpo.models.load import load_geometry, load_model, resolve_device


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_name_is_the_users(folder: Path) -> None:
    assert load_model(str(folder), device="cpu").name == str(folder)
    assert load_model("miniature", device="cpu").name == "miniature"


@pytest.mark.parametrize("text", ["[]", "3", "{", '{"_class_name": ["WanPipeline"]}'])
def test_a_wrong_model_index(folder: Path, text: str) -> None:
    (folder / "model_index.json").write_text(text)
    with pytest.raises(ModelError, match=str(folder)):
        load_geometry(str(folder))
    with pytest.raises(ModelError, match=str(folder)):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    "inference",
    [[], 3, {"steps": "many"}, {"steps": 0}, {"fps": "NaN"}, {"shift": -1}, {"lora_targets": 3}, {"eta_low": 2}],
)
def test_wrong_inference_settings(folder: Path, inference: Any) -> None:
    change(folder / "densedpo.json", inference=inference)
    with pytest.raises(ModelError, match=r"densedpo\.json: inference"):
        load_geometry(str(folder))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("scheduler/scheduler_config.json", {"shift": None}),
        ("scheduler/scheduler_config.json", {"flow_shift": "3"}),
        ("vae/config.json", {"scale_factor_temporal": [4]}),
    ],
)
def test_wrong_numbers_in_a_configuration(folder: Path, file: str, values: dict[str, Any]) -> None:
    change(folder / file, **values)
    with pytest.raises(ModelError, match=f"{file}: .* must be a positive number"):
        load_geometry(str(folder))


def test_a_list_for_an_object(folder: Path) -> None:
    (folder / "densedpo.json").write_text("[]")
    with pytest.raises(ModelError, match=r"densedpo\.json: expected a JSON object"):
        load_geometry(str(folder))


@pytest.mark.parametrize(("part", "key"), [("transformer", "num_layers"), ("text_encoder", "num_layers")])
def test_more_layers_than_weights(folder: Path, part: str, key: str) -> None:
    path = folder / part / "config.json"
    change(path, **{key: json.loads(path.read_text())[key] + 1})
    with pytest.raises(ModelError, match="cannot load this Wan model"):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["meta", "mps", "cpu:1", "cuda:-1", "cuda:", "gpu", "", "cuda:x"])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(ConfigError, match="is unknown"):
        resolve_device(name)


def test_a_gpu_beyond_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:2", "cuda:999"):
        with pytest.raises(ConfigError, match="2 GPUs"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU"):
        resolve_device("cuda")
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tokenizer/spiece.model", "tokenizer/vocab.txt"])
def test_the_fingerprint_covers_tokenizer_files(folder: Path, name: str) -> None:
    seen = {fingerprint_folder(folder)}
    for text in ("one", "two"):
        (folder / name).write_text(text)
        seen.add(fingerprint_folder(folder))
    assert len(seen) == 3


def test_a_hub_models_parts_are_fetched_and_no_release_that_lies_whole_beside_them() -> None:
    from huggingface_hub.utils._paths import filter_repo_objects

    from densedpo.models import load

    wanted = ["model_index.json", "vae/diffusion_pytorch_model.safetensors", "tokenizer/spiece.model", "t/merges.txt"]
    others = ["ltx-video-2b-v0.9.safetensors", "vae/diffusion_pytorch_model.bin", "README.md", "run.py"]
    assert list(filter_repo_objects([*wanted, *others], allow_patterns=load._WANTED)) == wanted
