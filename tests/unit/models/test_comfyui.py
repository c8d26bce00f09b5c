"""ComfyUI's layout of a LoRA, both ways: its names, and the same update whatever alpha is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from densedpo.errors import ModelError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.comfyui import LAYERS, from_comfyui, to_comfyui
from densedpo.models.load import find_tuned, load_model
from densedpo.models.lora import COMFYUI_FILE_NAME, FILE_NAME, add_lora, load_lora, lora_tensors, save_lora

RANK, ALPHA = 4, 6
# The layers of Wan's original code, which ComfyUI's model follows, beside diffusers' names: written out by hand.
ORIGINAL = {
    "blocks.5.attn1.to_q": "blocks.5.self_attn.q",
    "blocks.0.attn1.to_k": "blocks.0.self_attn.k",
    "blocks.0.attn1.to_v": "blocks.0.self_attn.v",
    "blocks.39.attn1.to_out.0": "blocks.39.self_attn.o",
    "blocks.0.attn2.to_q": "blocks.0.cross_attn.q",
    "blocks.0.attn2.to_k": "blocks.0.cross_attn.k",
    "blocks.10.attn2.to_v": "blocks.10.cross_attn.v",
    "blocks.0.attn2.to_out.0": "blocks.0.cross_attn.o",
    "blocks.2.ffn.net.0.proj": "blocks.2.ffn.0",
    "blocks.0.ffn.net.2": "blocks.0.ffn.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
}


@pytest.fixture(scope="module")
def saved(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoModel, Path]:
    """A model with a LoRA on every linear layer, alpha and rank apart, and the folder of both files."""
    model, folder = load_model(str(tiny_model_folder), device="cpu"), tmp_path_factory.mktemp("lora")
    targets = [name for name, module in model.denoiser.named_modules() if isinstance(module, nn.Linear)]
    for index, parameter in enumerate(add_lora(model, rank=RANK, alpha=ALPHA, seed=0, targets=targets)):
        parameter.data = noise(tuple(parameter.shape), 0, "lora weights", index)
    save_lora(model, folder, "comfyui")
    return model, folder


def updates(model: VideoModel) -> dict[str, torch.Tensor]:
    """Return the change of every adapted weight, as the library computes it."""
    return {
        name: module.get_delta_weight("default").detach()
        for name, module in model.denoiser.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def read(tiny_model_folder: Path, path: Path) -> dict[str, torch.Tensor]:
    model = load_model(str(tiny_model_folder), device="cpu")
    load_lora(model, path)
    return updates(model)


def test_names_are_the_original_codes() -> None:
    for ours, theirs in ORIGINAL.items():
        for half in ("lora_A.weight", "lora_B.weight"):
            assert to_comfyui("wan", f"{ours}.{half}") == f"diffusion_model.{theirs}.{half}"
            assert from_comfyui("wan", f"diffusion_model.{theirs}.{half}") == f"{ours}.{half}"
        assert from_comfyui("wan", f"diffusion_model.{theirs}.lora_down.weight") == f"{ours}.lora_A.weight"
        assert from_comfyui("wan", f"diffusion_model.{theirs}.lora_up.weight") == f"{ours}.lora_B.weight"
        assert from_comfyui("wan", f"diffusion_model.{theirs}.alpha") == f"{ours}.alpha"
    assert len(ORIGINAL) == len(LAYERS["wan"])


@pytest.mark.parametrize(
    "key",
    [
        "diffusion_model.blocks.0.self_attn.norm_q.diff",
        "diffusion_model.blocks.0.self_attn.q.diff_b",
        "diffusion_model.blocks.0.self_attn.q.dora_scale",
        "diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight",
        "diffusion_model.blocks.{}.self_attn.q.bias",
        "diffusion_model.",
    ],
)
def test_an_unknown_key_stays(key: str) -> None:
    assert from_comfyui("wan", key) == key


def test_every_linear_layer_has_a_name(saved: tuple[VideoModel, Path]) -> None:
    model, folder = saved
    assert len(load_file(folder / COMFYUI_FILE_NAME)) == len(lora_tensors(model)) == 2 * (6 * 10 + 6)


def test_a_layer_without_a_name_is_said() -> None:
    with pytest.raises(ModelError, match=r"blocks\.0\.attn3\.to_q: its name in ComfyUI is not known"):
        to_comfyui("wan", "blocks.0.attn3.to_q.lora_A.weight")
    with pytest.raises(ModelError, match="is not known"):
        to_comfyui("another family", "proj_out.lora_A.weight")


def test_comfyuis_rule_gives_our_update(saved: tuple[VideoModel, Path]) -> None:
    model, folder = saved
    tensors, expected = load_file(folder / COMFYUI_FILE_NAME), updates(model)
    assert not any(key.endswith(".alpha") for key in tensors)  # its rule without one: the update is B A
    for layer, update in expected.items():
        name = to_comfyui("wan", f"{layer}.lora_A.weight").removesuffix(".lora_A.weight")
        torch.testing.assert_close(tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"], update)


def test_only_the_file_for_diffusers_carries_its_metadata(saved: tuple[VideoModel, Path]) -> None:
    model, folder = saved
    with safe_open(folder / COMFYUI_FILE_NAME, "pt") as file:
        assert file.metadata() == {"densedpo": json.dumps({"densedpo.base_fingerprint": model.fingerprint})}


def test_we_read_what_we_wrote(saved: tuple[VideoModel, Path], tiny_model_folder: Path, tmp_path: Path) -> None:
    model, folder = saved
    (tmp_path / COMFYUI_FILE_NAME).write_bytes((folder / COMFYUI_FILE_NAME).read_bytes())
    assert find_tuned(folder) == folder / FILE_NAME
    assert find_tuned(tmp_path) == tmp_path / COMFYUI_FILE_NAME
    found, expected = read(tiny_model_folder, tmp_path), updates(model)
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        torch.testing.assert_close(found[name], update)


def kohya_style(model: VideoModel) -> dict[str, torch.Tensor]:
    """The same LoRA as other trainers write it: lora_down, lora_up and an alpha for each layer."""
    halves = {"lora_A": "lora_down", "lora_B": "lora_up"}
    tensors = {}
    for name, tensor in lora_tensors(model).items():
        layer, half, _ = to_comfyui("wan", name).rsplit(".", 2)
        tensors[f"{layer}.{halves[half]}.weight"] = tensor
        tensors[f"{layer}.alpha"] = torch.tensor(float(ALPHA))
    return tensors


def test_we_read_what_others_write(saved: tuple[VideoModel, Path], tiny_model_folder: Path, tmp_path: Path) -> None:
    model, _ = saved
    tensors = kohya_style(model)
    tensors["diffusion_model.head.head.alpha"] = torch.tensor(ALPHA / 2)  # one of its own
    save_file(tensors, tmp_path / "other.safetensors")
    found, expected = read(tiny_model_folder, tmp_path / "other.safetensors"), updates(model)
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        torch.testing.assert_close(found[name], update / 2 if name == "proj_out" else update)


def test_faults(saved: tuple[VideoModel, Path], tiny_model_folder: Path, tmp_path: Path) -> None:
    model, folder = saved
    fresh, good = load_model(str(tiny_model_folder), device="cpu"), kohya_style(model)
    q = "diffusion_model.blocks.0.self_attn.q"

    def refused(tensors: dict[str, torch.Tensor], words: str, metadata: dict[str, str] | None = None) -> None:
        save_file(tensors, tmp_path / "x.safetensors", metadata)
        with pytest.raises(ModelError, match=words):
            load_lora(fresh, tmp_path / "x.safetensors")

    refused({**good, f"{q}.lora_A.weight": good[f"{q}.lora_down.weight"].clone()}, "under two names")
    refused({key: tensor for key, tensor in good.items() if key != f"{q}.lora_up.weight"}, "only the other half")
    refused({f"{q}.alpha": torch.tensor(1.0)}, "the file is empty")
    lonely = {key: tensor for key, tensor in good.items() if not key.startswith(f"{q}.lora")}
    refused(lonely, "blocks.0.attn1.to_q.alpha must be one positive number")
    for value in (torch.tensor(0.0), torch.tensor(-1.0), torch.ones(2)):
        refused({**good, f"{q}.alpha": value}, "must be one positive number")
    refused({**good, f"{q}.alpha": torch.tensor(float("nan"))}, "non-finite")
    refused({**good, "diffusion_model.blocks.6.self_attn.q.lora_up.weight": torch.ones(128, 4)}, "does not fit")
    refused({**good, "diffusion_model.blocks.0.self_attn.norm_q.diff": torch.ones(2)}, "norm_q.diff")
    refused({**good, "transformer.blocks.0.attn1.to_q.alpha": torch.tensor(1.0)}, "under two names")
    refused(good, "trained on base abc", {"densedpo": '{"densedpo.base_fingerprint": "abc"}'})
    load_lora(fresh, folder / COMFYUI_FILE_NAME)  # all the refusals left the model as it was
