"""The output of full fine-tuning: whole or not at all, and loaded only onto the base that it came from."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from densedpo.errors import ModelError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.full import load_denoiser, save_denoiser, trainable
from densedpo.models.load import find_tuned, load_model, load_tuned

WEIGHTS = "diffusion_pytorch_model.safetensors"
NAME = "proj_out.weight"


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="module")
def template(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoModel, Path]:
    """A model with every weight changed, and the run folder that it was saved in."""
    tuned, run = load_model(str(tiny_model_folder), device="cpu"), tmp_path_factory.mktemp("run")
    for index, parameter in enumerate(trainable(tuned).values()):
        parameter.data += noise(tuple(parameter.shape), 0, "full", index) * 0.01
    save_denoiser(tuned, run / "transformer")
    return tuned, run


@pytest.fixture
def folder(template: tuple[VideoModel, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(template[1] / "transformer", tmp_path / "run" / "transformer"))


def same(one: VideoModel, other: VideoModel) -> bool:
    ours, theirs = one.denoiser.state_dict(), other.denoiser.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def edit(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace weights by name; None removes one. Dots in names are written as ``__``."""
    tensors = load_file(folder / WEIGHTS)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / WEIGHTS)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # a slower norm, under autocast
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_weight_is_trainable_in_float32(tiny_model_folder: Path, dtype: str) -> None:
    loaded = load_model(str(tiny_model_folder), device="cpu", dtype=dtype)
    parameters = trainable(loaded)
    assert parameters.keys() == dict(loaded.denoiser.named_parameters()).keys()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in parameters.values())
    latents, t = noise((1, *loaded.latent_shape(9, 32, 32)), 0, "x"), torch.tensor([0.6])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        loss = loaded.predict(latents, t, loaded.encode_text(["a red circle"])).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in parameters.values())
    assert not any(p.requires_grad for p in (*loaded.vae.parameters(), *loaded.text_encoder.parameters()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("shard_bytes", [10**10, 10**6])
def test_what_is_saved_is_loaded(
    template: tuple[VideoModel, Path], tiny_model_folder: Path, tmp_path: Path, shard_bytes: int
) -> None:
    tuned, _ = template
    folder = save_denoiser(tuned, tmp_path / "transformer", shard_bytes=shard_bytes)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "densedpo.json"} < names
    assert (WEIGHTS in names) == (shard_bytes == 10**10)
    for place in (tmp_path, folder):
        again = load_tuned(str(tiny_model_folder), place, device="cpu")
        assert same(again, tuned)
        assert not any(p.requires_grad for p in again.denoiser.parameters())


def test_the_fingerprint_becomes_the_tuned_models_own(
    template: tuple[VideoModel, Path], model: VideoModel, folder: Path, tiny_model_folder: Path
) -> None:
    tuned, run = template
    assert tuned.fingerprint == model.fingerprint  # until it is loaded from the run, it is the base in training
    first = load_tuned(str(tiny_model_folder), run, device="cpu").fingerprint
    assert load_tuned(str(tiny_model_folder), folder, device="cpu").fingerprint == first != model.fingerprint
    edit(folder, proj_out__bias=torch.ones(32))
    assert load_tuned(str(tiny_model_folder), folder, device="cpu").fingerprint != first


def test_equal_weights_give_equal_bytes_and_no_path_of_this_machine(
    template: tuple[VideoModel, Path], tmp_path: Path, tiny_model_folder: Path
) -> None:
    tuned, run = template
    folder = save_denoiser(tuned, tmp_path / "again")
    for path in (run / "transformer").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
        assert str(tiny_model_folder).encode() not in path.read_bytes()


def test_other_weights_can_be_given(template: tuple[VideoModel, Path], tiny_model_folder: Path, tmp_path: Path) -> None:
    tuned, _ = template
    average = {name: tensor / 2 for name, tensor in tuned.denoiser.state_dict().items()}
    save_denoiser(tuned, tmp_path / "transformer", average)
    again = load_tuned(str(tiny_model_folder), tmp_path, device="cpu").denoiser.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in average.items())
    with pytest.raises(AssertionError):
        save_denoiser(tuned, tmp_path / "transformer", {NAME: average[NAME]})


def test_a_number_that_is_not_finite_is_never_saved(template: tuple[VideoModel, Path], folder: Path) -> None:
    tuned, _ = template
    before = (folder / WEIGHTS).read_bytes()
    broken = dict(tuned.denoiser.state_dict())
    broken[NAME] = broken[NAME].clone().fill_(float("inf"))
    with pytest.raises(ModelError, match=rf"{NAME} holds non-finite numbers; not saved"):
        save_denoiser(tuned, folder, broken)
    assert (folder / WEIGHTS).read_bytes() == before


def test_a_full_disk_leaves_the_old_folder(template: tuple[VideoModel, Path], folder: Path) -> None:
    tuned, _ = template
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(ModelError, match="cannot be written"):
            save_denoiser(tuned, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["transformer"]


def test_another_base(model: VideoModel, folder: Path) -> None:
    change(folder / "densedpo.json", base_fingerprint="abc")
    with pytest.raises(ModelError, match=f"tuned from base abc, but the model loaded is {model.fingerprint}"):
        load_denoiser(model, folder)


def test_another_architecture_of_the_same_shapes(model: VideoModel, folder: Path) -> None:
    change(folder / "config.json", num_attention_heads=8, attention_head_dim=16)
    with pytest.raises(ModelError, match=r"another architecture .*num_attention_heads 8 for 4"):
        load_denoiser(model, folder)


def test_weights_that_do_not_fit_are_listed(model: VideoModel, folder: Path) -> None:
    edit(folder, proj_out__weight=None, proj_in__weight=torch.ones(2), proj_out__bias=torch.ones(3))
    expected = r"3 weights: proj_out.weight is missing; proj_in.weight is unknown; proj_out.bias is \[3\], not \[32\]"
    with pytest.raises(ModelError, match=expected):
        load_denoiser(model, folder)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.full((32, 128), float("nan")), "proj_out.weight holds non-finite numbers"),
        (torch.ones(32, 128, dtype=torch.int32), "proj_out.weight is of type I32"),
    ],
)
def test_weights_that_are_no_numbers(tiny_model_folder: Path, folder: Path, tensor: torch.Tensor, words: str) -> None:
    edit(folder, proj_out__weight=tensor)
    with pytest.raises(ModelError, match=words):
        load_denoiser(load_model(str(tiny_model_folder), device="cpu"), folder)


def index_of(folder: Path, names: dict[str, str] | Any) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({NAME: "x.bin"}, "names 'x.bin', no safetensors file"),
        ({NAME: "../x.safetensors"}, r"names '\.\./x\.safetensors'"),
        ({NAME: "/x.safetensors"}, "names '/x.safetensors'"),
        ({NAME: 3}, "names '3'"),
        ({NAME: "gone.safetensors"}, "gone.safetensors: cannot be read"),
        ({}, "no weight_map"),
        ([NAME], "no weight_map"),
    ],
)
def test_an_index_that_leads_elsewhere(model: VideoModel, folder: Path, names: Any, words: str) -> None:
    index_of(folder, names)
    with pytest.raises(ModelError, match=words):
        load_denoiser(model, folder)


def test_a_weight_in_two_files(model: VideoModel, folder: Path) -> None:
    save_file({NAME: torch.ones(32, 128)}, folder / "more.safetensors")
    index_of(folder, {NAME: "more.safetensors", "proj_out.bias": WEIGHTS})
    with pytest.raises(ModelError, match=f"{NAME} is in two files"):
        load_denoiser(model, folder)


@pytest.mark.parametrize("missing", ["config.json", WEIGHTS])
def test_a_folder_that_is_not_whole(model: VideoModel, folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        load_denoiser(model, folder)


def test_anyones_weights_of_the_same_shape_load(
    template: tuple[VideoModel, Path], folder: Path, tiny_model_folder: Path
) -> None:
    (folder / "densedpo.json").unlink()
    fresh = load_model(str(tiny_model_folder), device="cpu")
    load_denoiser(fresh, find_tuned(folder.parent))
    assert same(fresh, template[0])
