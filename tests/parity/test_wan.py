"""Our Wan against diffusers' own pipeline, on an untrained model of the family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from densedpo.diffusion.flow import guided_start
from densedpo.diffusion.grid import grid_from
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.full import save_denoiser, trainable
from densedpo.models.load import load_model, load_tuned
from densedpo.models.lora import COMFYUI_FILE_NAME, FILE_NAME, add_lora, load_lora, lora_tensors, save_lora
from densedpo.models.sampling import denoise

PROMPTS = ["a red circle drifting", "a blue cross spinning and something unknown"]


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="module")
def pipeline(tiny_model_folder: Path) -> Any:
    from diffusers import WanPipeline

    loaded = WanPipeline.from_pretrained(tiny_model_folder, local_files_only=True, use_safetensors=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def run_pipeline(pipeline: Any, start: torch.Tensor, steps: int, cfg: float, prompts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        frames: torch.Tensor = pipeline(
            prompt=prompts,
            num_frames=33,
            height=32,
            width=32,
            num_inference_steps=steps,
            guidance_scale=cfg,
            latents=start.clone(),
            output_type="latent",
            max_sequence_length=16,
        ).frames
    return frames


@pytest.mark.parametrize(("steps", "cfg"), [(6, 2.0), (6, 1.0), (3, 5.0)])
def test_guided_generation_at_eta_one_is_the_pipeline(model: VideoModel, pipeline: Any, steps: int, cfg: float) -> None:
    drawn = noise((2, *model.latent_shape(33, 32, 32)), 0, "parity")
    clip = noise(tuple(drawn.shape), 0, "a clip of which nothing may be left")
    start = guided_start(clip, drawn, 1.0)
    grid = grid_from(model.grid(steps, model.defaults.shift), 1.0)
    ours = denoise(model, start, grid, model.encode_text(PROMPTS), model.encode_text([""]), cfg)
    theirs = run_pipeline(pipeline, drawn, steps, cfg, PROMPTS)
    assert float((ours - theirs).abs().max()) <= 1e-4
    assert float((ours - drawn).abs().max()) > 0.01  # the comparison is not of two untouched noises


def test_text_encoding_is_the_pipelines(model: VideoModel, pipeline: Any) -> None:
    with torch.no_grad():
        theirs, empty = pipeline.encode_prompt(PROMPTS, max_sequence_length=16)
    assert float((model.encode_text(PROMPTS).hidden - theirs).abs().max()) <= 1e-5
    assert float((model.encode_text([""]).hidden - empty[:1]).abs().max()) <= 1e-5
    assert bool((theirs[0, -1] == 0).all())  # padding is really zero


def test_latents_are_normalised_the_right_way_round(model: VideoModel, pipeline: Any) -> None:
    video = noise((1, 3, 9, 32, 32), 0, "video").clamp(-1, 1)
    with torch.no_grad():
        raw = pipeline.vae.encode(video).latent_dist.mode()
    config = pipeline.vae.config
    mean, std = (torch.tensor(config[n]).view(1, -1, 1, 1, 1) for n in ("latents_mean", "latents_std"))
    torch.testing.assert_close(model.encode_video(video), (raw - mean) / std)
    assert not torch.allclose(model.encode_video(video), (raw - mean) * std, atol=1e-3)  # the twin peers ship


def test_decode_is_the_pipelines(model: VideoModel, pipeline: Any) -> None:
    latents = noise((1, *model.latent_shape(9, 32, 32)), 0, "decode")
    config = pipeline.vae.config
    mean, std = (torch.tensor(config[n]).view(1, -1, 1, 1, 1) for n in ("latents_mean", "latents_std"))
    with torch.no_grad():
        theirs = pipeline.vae.decode(latents * std + mean, return_dict=False)[0].clamp(-1, 1)
    torch.testing.assert_close(model.decode(latents), theirs)
    assert model.decode(latents).shape == (1, 3, 9, 32, 32)


def test_our_lora_loads_in_the_pipeline_and_gives_our_output(tiny_model_folder: Path, tmp_path: Path) -> None:
    from diffusers import WanPipeline

    ours = load_model(str(tiny_model_folder), device="cpu")
    latents = noise((1, *ours.latent_shape(9, 32, 32)), 0, "lora")
    t, text = torch.tensor([0.7]), ours.encode_text(PROMPTS[:1])
    with torch.no_grad():
        before = ours.predict(latents, t, text)
    for index, parameter in enumerate(add_lora(ours, rank=4, alpha=8, seed=0)):
        parameter.data = noise(tuple(parameter.shape), 0, "lora weights", index) * 0.2
    with torch.no_grad():
        expected = ours.predict(latents, t, text)
    save_lora(ours, tmp_path)

    theirs = WanPipeline.from_pretrained(tiny_model_folder, local_files_only=True, use_safetensors=True)
    theirs.load_lora_weights(tmp_path, local_files_only=True)
    with torch.no_grad():
        found = theirs.transformer(latents, t * 1000, text.hidden, return_dict=False)[0]
    assert float((expected - before).abs().max()) > 1e-3
    assert float((found - expected).abs().max()) <= 1e-5

    again = load_model(str(tiny_model_folder), device="cpu")
    load_lora(again, tmp_path)
    with torch.no_grad():
        assert float((again.predict(latents, t, text) - expected).abs().max()) <= 1e-6
    for name, tensor in lora_tensors(ours).items():
        assert torch.equal(tensor, lora_tensors(again)[name])


def test_a_lora_saved_by_the_pipeline_loads_here(tiny_model_folder: Path, tmp_path: Path) -> None:
    from diffusers import WanPipeline
    from peft import get_peft_model_state_dict

    source = load_model(str(tiny_model_folder), device="cpu")
    for index, parameter in enumerate(add_lora(source, rank=4, alpha=4, seed=0)):
        parameter.data = noise(tuple(parameter.shape), 1, "lora weights", index) * 0.2
    WanPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(source.denoiser))
    again = load_model(str(tiny_model_folder), device="cpu")
    load_lora(again, tmp_path)
    for name, tensor in lora_tensors(source).items():
        assert torch.equal(tensor, lora_tensors(again)[name])


@pytest.mark.parametrize("alpha", [4, 8, 3])
@pytest.mark.parametrize("everywhere", [False, True], ids=["family's layers", "every linear layer"])
def test_both_layouts_load_in_the_pipeline_and_here_with_our_output(
    tiny_model_folder: Path, tmp_path: Path, alpha: int, everywhere: bool
) -> None:
    from diffusers import WanPipeline

    ours = load_model(str(tiny_model_folder), device="cpu")
    latents = noise((1, *ours.latent_shape(9, 32, 32)), 0, "lora")
    t, text = torch.tensor([0.7]), ours.encode_text(PROMPTS[:1])
    linear = [name for name, module in ours.denoiser.named_modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        before = ours.predict(latents, t, text)
        parameters = add_lora(ours, rank=4, alpha=alpha, seed=0, targets=linear if everywhere else None)
        for index, parameter in enumerate(parameters):
            parameter.copy_(noise(tuple(parameter.shape), 0, "lora weights", index) * 0.1)
        expected = ours.predict(latents, t, text)
    save_lora(ours, tmp_path, "comfyui")
    assert float((expected - before).abs().max()) > 1e-2

    theirs = WanPipeline.from_pretrained(tiny_model_folder, local_files_only=True, use_safetensors=True)
    for chosen in ({}, {"weight_name": FILE_NAME}, {"weight_name": COMFYUI_FILE_NAME}):
        theirs.load_lora_weights(tmp_path, local_files_only=True, **chosen)
        with torch.no_grad():
            found = theirs.transformer(latents, t * 1000, text.hidden, return_dict=False)[0]
            theirs.unload_lora_weights()
            without = theirs.transformer(latents, t * 1000, text.hidden, return_dict=False)[0]
        assert float((found - expected).abs().max()) <= 1e-5
        assert float((without - before).abs().max()) <= 1e-5

    for name in (FILE_NAME, COMFYUI_FILE_NAME):
        again = load_tuned(str(tiny_model_folder), tmp_path / name, device="cpu")
        with torch.no_grad():
            assert float((again.predict(latents, t, text) - expected).abs().max()) <= 1e-5


def test_a_tuned_denoiser_loads_in_the_pipeline_and_gives_our_output(tiny_model_folder: Path, tmp_path: Path) -> None:
    from diffusers import AutoModel, WanPipeline

    ours = load_model(str(tiny_model_folder), device="cpu")
    latents = noise((1, *ours.latent_shape(9, 32, 32)), 0, "full")
    t, text = torch.tensor([0.7]), ours.encode_text(PROMPTS[:1])
    with torch.no_grad():
        before = ours.predict(latents, t, text)
        for index, parameter in enumerate(trainable(ours).values()):
            parameter.add_(noise(tuple(parameter.shape), 0, "full weights", index) * 0.01)
        expected = ours.predict(latents, t, text)
    save_denoiser(ours, tmp_path / "transformer", shard_bytes=10**6)
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1

    part = AutoModel.from_pretrained(
        str(tmp_path), subfolder="transformer", local_files_only=True, use_safetensors=True
    )
    theirs = WanPipeline.from_pretrained(tiny_model_folder, transformer=part, local_files_only=True)
    with torch.no_grad():
        found = theirs.transformer(latents, t * 1000, text.hidden, return_dict=False)[0]
        again = load_tuned(str(tiny_model_folder), tmp_path, device="cpu").predict(latents, t, text)
    assert float((expected - before).abs().max()) > 1e-3
    assert float((found - expected).abs().max()) <= 1e-5
    assert torch.equal(again, expected)


@pytest.mark.parametrize("place", [2, 4])
def test_a_guided_start_is_video_to_video_from_the_same_level(model: VideoModel, pipeline: Any, place: int) -> None:
    """``strength`` counts steps: of 6 steps, 4 / 6 starts at grid point 2, whose noise level is far above 4 / 6."""
    from diffusers import WanVideoToVideoPipeline

    steps, cfg = 6, 2.0
    video = noise((1, 3, 33, 32, 32), 0, "clip").clamp(-1, 1)
    levels = model.grid(steps, model.defaults.shift)
    eta = levels[place]
    drawn = noise((1, *model.latent_shape(33, 32, 32)), 0, "drawn")
    start = model.add_noise(model.encode_video(video), drawn, torch.tensor([eta]))
    text, null_text = model.encode_text(PROMPTS[:1]), model.encode_text([""])
    ours = denoise(model, start, grid_from(levels, eta), text, null_text, cfg)
    names = ("tokenizer", "text_encoder", "vae", "transformer", "scheduler")
    theirs = WanVideoToVideoPipeline(**{name: getattr(pipeline, name) for name in names})
    theirs.set_progress_bar_config(disable=True)
    strength = (steps - place) / steps
    assert eta > strength + 0.1  # who takes strength for a noise level gets another clip
    with torch.no_grad():
        found = theirs(
            latents=start.clone(),
            prompt=PROMPTS[:1],
            height=32,
            width=32,
            num_inference_steps=steps,
            strength=strength,
            guidance_scale=cfg,
            output_type="latent",
            max_sequence_length=16,
        ).frames
    assert float((ours - found).abs().max()) <= 1e-4
