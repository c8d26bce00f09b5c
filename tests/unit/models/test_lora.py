"""LoRA: what is adapted and in which type, and files from anywhere: whole and fitting, or refused with one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from densedpo.errors import ConfigError, ModelError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.load import find_tuned, load_model, load_tuned
from densedpo.models.lora import FILE_NAME, adapter_off, add_lora, load_lora, lora_tensors, save_lora


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


@pytest.mark.parametrize("name", ["use_rslora", "use_dora", "rank_pattern", "alpha_pattern"])
def test_what_would_change_the_meaning_is_refused(
    model: VideoModel, tensors: dict[str, torch.Tensor], tmp_path: Path, name: str
) -> None:
    with pytest.raises(ModelError, match=name):
        load_lora(model, write(tmp_path / "x.safetensors", tensors, {f"transformer.{name}": {"to_q": 8}}))


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
def test_a_type_that_no_weight_has(
    model: VideoModel, tensors: dict[str, torch.Tensor], tmp_path: Path, kind: torch.dtype
) -> None:
    odd = {**tensors, next(iter(tensors)): torch.zeros_like(next(iter(tensors.values())), dtype=kind)}
    with pytest.raises(ModelError, match="is of type"):
        load_lora(model, write(tmp_path / "x.safetensors", odd))


def layers(model: VideoModel) -> set[str]:
    return {name.partition(".lora_")[0] for name in lora_tensors(model)}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, 6 * 10),
        (["attn1.to_q"], 6),
        (["to_q", "ffn.net.2"], 6 * 3),
        (["blocks.0.attn1.to_q"], 1),
        (["proj_out"], 1),
    ],
)
def test_targets(tiny_model_folder: Path, tmp_path: Path, targets: list[str] | None, expected: int) -> None:
    source = load_model(str(tiny_model_folder), device="cpu")
    parameters = add_lora(source, rank=2, alpha=2, seed=0, targets=targets)
    assert len(layers(source)) == expected and len(parameters) == 2 * expected
    assert sum(p.requires_grad for p in source.denoiser.parameters()) == len(parameters)
    assert all(
        any(layer.endswith(target) for target in targets or source.defaults.lora_targets) for layer in layers(source)
    )
    save_lora(source, tmp_path)
    fresh = load_model(str(tiny_model_folder), device="cpu")
    load_lora(fresh, tmp_path)
    assert layers(fresh) == layers(source)


@pytest.mark.parametrize(
    "targets", [["nothing"], ["to_q", "to_x"], ["attn1"], ["norm2"], ["patch_embedding"], [""], []]
)
def test_a_target_that_is_no_linear_layer(model: VideoModel, targets: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"lora_targets: '.*' is no linear layer .* attn1\.to_q, .* proj_out"):
        add_lora(model, rank=2, alpha=2, seed=0, targets=targets)
    assert not any("lora" in name for name, _ in model.denoiser.named_parameters())


def test_float32_adapter_on_a_bfloat16_base(tiny_model_folder: Path, tmp_path: Path) -> None:
    source = load_model(str(tiny_model_folder), device="cpu", dtype="bfloat16")
    shape = (1, *source.latent_shape(9, 32, 32))
    latents, t, text = noise(shape, 0, "x"), torch.tensor([0.6]), source.encode_text(["a red circle"])
    with torch.no_grad():
        before = source.predict(latents, t, text)
    parameters = add_lora(source, rank=4, alpha=4, seed=0)
    assert {p.dtype for p in parameters} == {torch.float32}
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for _ in range(2):  # in the first step B is zero, so that A has no gradient yet
        optimizer.zero_grad()
        source.predict(latents, t, text).float().square().mean().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in parameters)
        optimizer.step()
    assert all(bool(p.grad.abs().sum() > 0) for p in parameters if p.grad is not None)
    with torch.no_grad():
        tuned = source.predict(latents, t, text)
        with adapter_off(source):
            assert torch.equal(source.predict(latents, t, text), before)
    assert tuned.dtype == before.dtype == torch.bfloat16 and not torch.equal(tuned, before)
    save_lora(source, tmp_path)
    fresh = load_model(str(tiny_model_folder), device="cpu", dtype="bfloat16")
    load_lora(fresh, tmp_path)
    for name, tensor in lora_tensors(source).items():
        assert torch.equal(tensor, lora_tensors(fresh)[name])  # no rounding to the base's type on the way
    assert not any(p.requires_grad for p in fresh.denoiser.parameters())


def test_scale_is_the_strength_of_the_update(tiny_model_folder: Path, tmp_path: Path) -> None:
    source = load_model(str(tiny_model_folder), device="cpu")
    latents, t = noise((1, *source.latent_shape(9, 32, 32)), 0, "x"), torch.tensor([0.6])
    text = source.encode_text(["a red circle"])
    predictions = {}
    with torch.no_grad():
        base = source.predict(latents, t, text)
        parameters = add_lora(source, rank=2, alpha=4, seed=0)
        for index, parameter in enumerate(parameters):
            parameter.copy_(noise(tuple(parameter.shape), 0, "lora weights", index) * 0.2)
        save_lora(source, tmp_path)
        for scale in (0.0, 0.5, 1.0):
            fresh = load_model(str(tiny_model_folder), device="cpu")
            load_lora(fresh, tmp_path, scale)
            predictions[scale] = fresh.predict(latents, t, text)
        torch.testing.assert_close(predictions[0.0], base)
        torch.testing.assert_close(predictions[1.0], source.predict(latents, t, text))
        for name, parameter in source.denoiser.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.5)
        torch.testing.assert_close(predictions[0.5], source.predict(latents, t, text))
    assert float((predictions[1.0] - base).abs().max()) > 1e-3


def test_equal_adapters_give_equal_bytes(tiny_model_folder: Path, tmp_path: Path) -> None:
    source = load_model(str(tiny_model_folder), device="cpu")
    add_lora(source, rank=2, alpha=4, seed=0)
    for folder in ("one", "two"):
        save_lora(source, tmp_path / folder, "comfyui")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["pytorch_lora_weights.safetensors", "pytorch_lora_weights_comfyui.safetensors"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_lora_is_found_from_its_run_its_folder_or_its_file(
    tiny_model_folder: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "lora").mkdir(parents=True)
    file = write(run / "lora" / FILE_NAME, tensors)
    assert {find_tuned(run), find_tuned(run / "lora"), find_tuned(file)} == {file}
    assert len(lora_tensors(load_tuned(str(tiny_model_folder), run, device="cpu"))) == len(tensors)
    (run / "transformer").mkdir()
    with pytest.raises(ModelError, match=r"both lora/ and transformer/"):
        find_tuned(run)
    with pytest.raises(ModelError, match="no LoRA and no tuned denoiser"):
        find_tuned(run / "transformer")
    with pytest.raises(ModelError, match="no LoRA and no tuned denoiser"):
        find_tuned(tmp_path / "none")
