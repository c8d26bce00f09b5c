"""Wan 2.2 against diffusers' own pipeline: two experts split by noise level, and a noise level for every token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.full_loop import run_loop
from tests.parity.tiny_wan22 import BOUNDARY, FRAMES, SIZE_PX, TEXT_LENGTH, write_tiny_wan22

from densedpo.diffusion.grid import grid_from
from densedpo.errors import ModelError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.load import load_geometry, load_model
from densedpo.models.lora import add_lora, lora_tensors, save_lora
from densedpo.models.sampling import denoise
from densedpo.models.wan import WanModel

PROMPTS = ["a red circle drifting", "a blue cross spinning and something unknown"]
KINDS = ("a14b", "ti2v")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("wan22")
    for kind in KINDS:
        write_tiny_wan22(root / kind, kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(folders: dict[str, Path], kind: str) -> WanModel:
    loaded = load_model(str(folders[kind]), device="cpu")
    assert isinstance(loaded, WanModel)
    return loaded


def load_pipeline(folder: Path) -> Any:
    from diffusers import WanPipeline

    loaded = WanPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def shape_of(model: VideoModel, kind: str) -> tuple[int, int, int, int]:
    return model.latent_shape(FRAMES, SIZE_PX[kind], SIZE_PX[kind])


@pytest.mark.parametrize(("steps", "cfg"), [(6, 2.0), (4, 1.0)])
def test_generation_at_eta_one_is_the_pipeline(
    folders: dict[str, Path], kind: str, model: VideoModel, steps: int, cfg: float, capsys: pytest.CaptureFixture[str]
) -> None:
    start = noise((2, *shape_of(model, kind)), 0, "parity")
    grid = grid_from(model.grid(steps, model.defaults.shift), 1.0)
    ours = denoise(model, start, grid, model.encode_text(PROMPTS), model.encode_text([""]), cfg)
    with torch.no_grad():
        theirs = load_pipeline(folders[kind])(
            prompt=PROMPTS,
            num_frames=FRAMES,
            height=SIZE_PX[kind],
            width=SIZE_PX[kind],
            num_inference_steps=steps,
            guidance_scale=cfg,
            latents=start.clone(),
            output_type="latent",
            max_sequence_length=TEXT_LENGTH,
        ).frames
    assert float((ours - theirs).abs().max()) <= 1e-4
    assert ("high-noise expert" in capsys.readouterr().err) == (kind == "a14b")


def test_encode_and_decode_are_the_pipelines(folders: dict[str, Path], kind: str, model: VideoModel) -> None:
    video = noise((1, 3, FRAMES, SIZE_PX[kind], SIZE_PX[kind]), 0, "video").clamp(-1, 1)
    latents = model.encode_video(video)
    assert tuple(latents.shape[1:]) == shape_of(model, kind)
    vae = load_pipeline(folders[kind]).vae
    mean, std = (torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    with torch.no_grad():
        raw = vae.encode(video).latent_dist.mode()
        assert float((latents - (raw - mean) / std).abs().max()) <= 1e-6
        assert float((latents - (raw - mean) * std).abs().max()) > 1e-2  # the wrong way round
        decoded = vae.decode(latents * std + mean, return_dict=False)[0].clamp(-1, 1)
    assert float((model.decode(latents) - decoded).abs().max()) <= 1e-6


def test_the_low_noise_expert_alone_is_loaded_and_trained(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(str(folders["a14b"]), device="cpu")
    assert "transformer_2 is loaded" in capsys.readouterr().err
    theirs = load_pipeline(folders["a14b"])
    ours = dict(model.denoiser.named_parameters())
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.transformer_2.named_parameters())
    levels = [model.level_law.level(share, model.defaults.shift) for share in (0.0, 0.3, 0.9, 0.999, 1.0)]
    assert levels == sorted(levels) and levels[-1] < BOUNDARY < torch.tensor(levels[-1]) * 1.001
    text, start = model.encode_text(PROMPTS[:1]), noise((1, *shape_of(model, "a14b")), 0, "start")
    denoise(model, start, [0.8, 0.4, 0.0], text, model.encode_text([""]), 2.0)
    assert "high-noise expert" not in capsys.readouterr().err


def test_levels_of_both_experts_in_one_batch_are_refused(folders: dict[str, Path]) -> None:
    model = load_model(str(folders["a14b"]), device="cpu")
    latents, text = noise((2, *shape_of(model, "a14b")), 0, "start"), model.encode_text(PROMPTS)
    with pytest.raises(ModelError, match=r"both sides of 0\.875"):
        model.predict(latents, torch.tensor([0.5, 0.9]), text)


def test_our_lora_loads_in_the_pipeline_and_gives_our_output(
    folders: dict[str, Path], kind: str, model: VideoModel, tmp_path: Path
) -> None:
    for number, parameter in enumerate(add_lora(model, rank=4, alpha=4, seed=0)):
        parameter.data = 0.05 * noise(tuple(parameter.shape), 0, "lora", number)
    assert lora_tensors(model)
    save_lora(model, tmp_path)
    latents, t = noise((1, *shape_of(model, kind)), 0, "latents"), torch.tensor([0.6])
    text = model.encode_text(PROMPTS[:1])
    with torch.no_grad():
        expected = model.predict(latents, t, text)
        theirs = load_pipeline(folders[kind])
        which = {"load_into_transformer_2": True} if kind == "a14b" else {}
        theirs.load_lora_weights(tmp_path, **which)
        denoiser = theirs.transformer_2 if kind == "a14b" else theirs.transformer
        tokens = latents[0, 0, :, ::2, ::2].numel()
        timestep = (t * 1000)[:, None].expand(-1, tokens) if kind == "ti2v" else t * 1000
        found = denoiser(latents, timestep, text.hidden, return_dict=False)[0]
    assert float((found - expected).abs().max()) <= 1e-5


def test_geometry_without_loading(folders: dict[str, Path], kind: str) -> None:
    geometry = load_geometry(str(folders[kind]))
    assert (geometry.num_frames, geometry.height, geometry.temporal_stride) == (FRAMES, SIZE_PX[kind], 4)


def test_the_whole_loop(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    assert (run_loop(folders[kind], tmp_path) / "lora").is_dir()
