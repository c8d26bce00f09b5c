"""Our LTX-Video against diffusers' own pipelines, on untrained models: 0.9.0's and that of 0.9.5 and later."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.full_loop import run_loop
from tests.parity.tiny_ltx import CHANNELS, FRAMES, HEIGHT, TEXT_LENGTH, WIDTH, write_tiny_ltx

from densedpo.diffusion.flow import guided_start
from densedpo.diffusion.grid import even_grid, grid_from
from densedpo.errors import ConfigError, ModelError
from densedpo.keys import noise, seeded_library, torch_stream
from densedpo.models.base import VideoModel
from densedpo.models.full import save_denoiser, trainable
from densedpo.models.load import load_geometry, load_model, load_tuned
from densedpo.models.lora import COMFYUI_FILE_NAME, FILE_NAME, add_lora, save_lora
from densedpo.models.ltx import DECODE_LEVEL, DECODE_NOISE
from densedpo.models.sampling import denoise
from densedpo.store.files import read_json, write_json

PROMPTS = ["a red circle drifting", "a blue cross spinning and something unknown"]
KINDS = ("LTXPipeline", "LTXConditionPipeline")
SHAPE = (CHANNELS, 3, 2, 3)
# diffusers' later pipeline hands the scheduler a tensor that numpy would rather copy another way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {kind: tmp_path_factory.mktemp("ltx") / kind for kind in KINDS}
    for kind, folder in found.items():
        write_tiny_ltx(folder, condition=kind == "LTXConditionPipeline")
    return found


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture
def model(folder: Path) -> VideoModel:
    return load_model(str(folder), device="cpu")


def load_pipeline(folder: Path) -> Any:
    import diffusers

    kind = getattr(diffusers, read_json(folder / "model_index.json")["_class_name"])
    pipeline = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_pipeline(pipeline: Any, model: VideoModel, steps: int, cfg: float, **more: Any) -> torch.Tensor:
    common = {
        **{"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "num_inference_steps": steps},
        **{"guidance_scale": cfg, "output_type": "latent", "max_sequence_length": TEXT_LENGTH, "prompt": PROMPTS},
    }
    with torch.no_grad():
        frames: torch.Tensor = pipeline(**common | more).frames
    if frames.ndim == 3:  # the first pipeline returns tokens
        frames = frames.transpose(1, 2).unflatten(2, SHAPE[1:])
    return frames


def start_of(pipeline: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return a noise for both prompts, and how the pipeline is made to start from it."""
    drawn = noise((2, *SHAPE), 0, "parity")
    if type(pipeline).__name__ == "LTXPipeline":
        return drawn, {"latents": drawn.flatten(2).transpose(1, 2).clone()}
    return drawn, {"generator": torch_stream(0, "parity")}  # takes no noise, draws it


def test_folders_are_known_by_their_class_and_give_the_familys_clip_shape(folder: Path, model: VideoModel) -> None:
    assert model.family == "ltx"
    assert model.latent_shape(FRAMES, HEIGHT, WIDTH) == SHAPE
    geometry = load_geometry(str(folder))
    assert geometry == model.geometry
    assert (geometry.temporal_stride, geometry.fps, geometry.valid_frames(16)) == (8, 25.0, 9)


@pytest.mark.parametrize(("steps", "cfg"), [(6, 3.0), (6, 1.0), (3, 5.0)])
def test_guided_generation_at_eta_one_is_the_pipeline(folder: Path, model: VideoModel, steps: int, cfg: float) -> None:
    pipeline = load_pipeline(folder)
    drawn, how = start_of(pipeline)
    start = guided_start(noise(tuple(drawn.shape), 0, "a clip of which nothing may be left"), drawn, 1.0)
    grid = grid_from(model.grid(steps, model.defaults.shift), 1.0)
    ours = denoise(model, start, grid, model.encode_text(PROMPTS), model.encode_text([""]), cfg)
    theirs = run_pipeline(pipeline, model, steps, cfg, **how)
    assert float((ours - theirs).abs().max()) <= 1e-4
    assert float((ours - drawn).abs().max()) > 0.01  # the comparison is not of two untouched noises


def test_a_guided_start_is_the_later_pipelines_denoise_strength(folders: dict[str, Path]) -> None:
    folder = folders["LTXConditionPipeline"]
    model, pipeline = load_model(str(folder), device="cpu"), load_pipeline(folder)
    clip, steps, strength = noise((1, *SHAPE), 0, "clip"), 8, 0.5  # of more than one clip the pipeline makes an error
    level = model.grid(steps, 1.0)[steps - int(steps * strength)]  # the pipeline counts steps, we name the level
    drawn = noise((1, *SHAPE), 0, "parity")
    grid = grid_from(model.grid(steps, 1.0), level)
    assert len(grid) == int(steps * strength) + 1
    start = guided_start(clip, drawn, level)
    ours = denoise(model, start, grid, model.encode_text(PROMPTS[:1]), model.encode_text([""]), 3.0)
    how = {
        "latents": clip.clone(),
        "denoise_strength": strength,
        "generator": torch_stream(0, "parity"),
        "prompt": PROMPTS[:1],
    }
    assert float((ours - run_pipeline(pipeline, model, steps, 3.0, **how)).abs().max()) <= 1e-4


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_grid_and_shift_are_the_pipelines(folders: dict[str, Path], steps: int) -> None:
    folder = folders["LTXPipeline"]
    model, pipeline = load_model(str(folder), device="cpu"), load_pipeline(folder)
    tokens = math.prod(SHAPE[1:])
    mu = 0.95 + (2.05 - 0.95) * (tokens - 1024) / (4096 - 1024)
    assert model.defaults.shift == pytest.approx(math.exp(mu))
    pipeline.scheduler.config.shift_terminal = 0.1 if steps > 1 else None  # of a single step it makes 0 / 0
    pipeline.scheduler.register_to_config(shift_terminal=0.1 if steps > 1 else None)
    pipeline.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    np.testing.assert_allclose(model.grid(steps, model.defaults.shift), pipeline.scheduler.sigmas, atol=2e-7)
    assert model.grid(7, model.defaults.shift)[-2] == pytest.approx(0.1)
    assert even_grid(7, model.defaults.shift)[-2] != pytest.approx(0.1, abs=1e-3)


def test_training_levels_follow_the_familys_shift(folders: dict[str, Path]) -> None:
    first, later = (load_model(str(folders[kind]), device="cpu") for kind in KINDS)
    assert later.defaults.shift == 1.0
    for share in (0.1, 0.5, 0.9):
        level = first.level_law.level(share, first.defaults.shift)
        assert later.level_law.level(share, later.defaults.shift) == pytest.approx(level)
        assert later.level_law.share_below(level, later.defaults.shift) == pytest.approx(share)


def test_text_encoding_is_the_pipelines(folder: Path, model: VideoModel) -> None:
    with torch.no_grad():
        found = load_pipeline(folder).encode_prompt(PROMPTS, max_sequence_length=TEXT_LENGTH)
    for prompts, hidden, mask in ((PROMPTS, found[0], found[1]), ([""], found[2][:1], found[3][:1])):
        ours = model.encode_text(prompts)
        assert float((ours.hidden - hidden).abs().max()) <= 1e-5
        assert torch.equal(ours.tensors["mask"], mask)
    assert not bool(found[1].all())


def test_padding_of_the_text_does_not_matter_and_the_frame_rate_does(model: VideoModel) -> None:
    from dataclasses import replace

    latents, t, text = noise((1, *SHAPE), 0, "latents"), torch.tensor([0.7]), model.encode_text(PROMPTS[:1])
    with torch.no_grad():
        before = model.predict(latents, t, text)
        text.hidden[~text.tensors["mask"]] = 100.0
        assert torch.equal(model.predict(latents, t, text), before)
        model.defaults = replace(model.defaults, fps=12.0)
        assert float((model.predict(latents, t, text) - before).abs().max()) > 1e-3


def test_latents_are_normalised_the_right_way_round(folder: Path, model: VideoModel) -> None:
    pipeline = load_pipeline(folder)
    video = noise((1, 3, 9, 64, 64), 0, "video").clamp(-1, 1)
    with torch.no_grad():
        raw = pipeline.vae.encode(video).latent_dist.mode()
    mean, std, factor = pipeline.vae.latents_mean, pipeline.vae.latents_std, pipeline.vae.config.scaling_factor
    expected = pipeline._normalize_latents(raw, mean, std, factor)
    torch.testing.assert_close(model.encode_video(video), expected)
    assert not torch.allclose(expected, pipeline._denormalize_latents(raw, mean, std, factor), atol=1e-2)


def test_decode_is_the_pipelines(folder: Path, model: VideoModel) -> None:
    pipeline = load_pipeline(folder)
    latents = noise((1, *SHAPE), 0, "decode")
    how = {
        **{"prompt": PROMPTS[:1], "output_type": "pt", "decode_timestep": DECODE_LEVEL},
        "decode_noise_scale": DECODE_NOISE,
    }
    # no step is taken: what the pipeline decodes is what it is given
    pipeline.scheduler.step = lambda _output, _t, sample, **_: (sample,)
    with seeded_library(torch.device("cpu"), None, "ltx-decode-grain"):
        if type(pipeline).__name__ == "LTXPipeline":
            how |= {"latents": latents.flatten(2).transpose(1, 2), "generator": torch_stream(None, "ltx-decode")}
        else:
            pipeline.prepare_latents = fixed(pipeline.prepare_latents, latents)
            how["generator"] = torch_stream(None, "ltx-decode")
        theirs = run_pipeline(pipeline, model, 2, 1.0, **how)[0].transpose(0, 1)
    ours = model.decode(latents)
    assert ours.shape == (1, 3, FRAMES, HEIGHT, WIDTH)
    assert float((ours[0] / 2 + 0.5 - theirs).abs().max()) <= 1e-5
    torch.testing.assert_close(ours, model.decode(latents.repeat(2, 1, 1, 1, 1))[1:])  # whatever else is decoded


def fixed(prepare: Any, latents: torch.Tensor) -> Any:
    """Have the pipeline start from latents that it would otherwise draw."""

    def prepared(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        _, *rest = prepare(*args, **kwargs | {"generator": torch_stream(0, "unused")})
        return latents.flatten(2).transpose(1, 2), *rest

    return prepared


def test_what_is_encoded_can_be_decoded(model: VideoModel) -> None:
    video = noise((1, 3, FRAMES, HEIGHT, WIDTH), 0, "video").clamp(-1, 1)
    latents = model.encode_video(video)
    assert latents.shape == (1, *SHAPE)
    assert model.decode(latents).shape == video.shape


@pytest.mark.parametrize("alpha", [4, 6])
def test_both_lora_layouts_load_in_the_pipeline_and_here_with_our_output(
    folder: Path, model: VideoModel, tmp_path: Path, alpha: int
) -> None:
    start, text = noise((2, *SHAPE), 0, "parity"), model.encode_text(PROMPTS)

    def predicted(of: VideoModel) -> torch.Tensor:
        return denoise(of, start, of.grid(2, of.defaults.shift), text, text[:1], 1.0)

    before = predicted(model)
    for index, parameter in enumerate(add_lora(model, rank=4, alpha=alpha, seed=0)):
        parameter.data = noise(tuple(parameter.shape), 0, "lora weights", index) * 0.1
    expected = predicted(model)
    save_lora(model, tmp_path, "comfyui")
    assert float((expected - before).abs().max()) > 1e-2

    pipeline = load_pipeline(folder)
    for name in (FILE_NAME, COMFYUI_FILE_NAME):
        pipeline.load_lora_weights(tmp_path, local_files_only=True, weight_name=name)
        _, how = start_of(pipeline)
        theirs = run_pipeline(pipeline, model, 2, 1.0, **how)
        pipeline.unload_lora_weights()
        assert float((theirs - expected).abs().max()) <= 1e-4
        again = predicted(load_tuned(str(folder), tmp_path / name, device="cpu"))
        assert float((again - expected).abs().max()) <= 1e-5


def test_every_layer_has_a_name_in_comfyui(model: VideoModel, tmp_path: Path) -> None:
    linear = [name for name, module in model.denoiser.named_modules() if isinstance(module, torch.nn.Linear)]
    add_lora(model, rank=2, alpha=2, seed=0, targets=linear)
    save_lora(model, tmp_path, "comfyui")
    found = load_tuned(model.name, tmp_path / COMFYUI_FILE_NAME, device="cpu")
    assert sorted(n for n, _ in found.denoiser.named_parameters()) == sorted(
        n for n, _ in model.denoiser.named_parameters()
    )


def test_the_whole_loop(folder: Path, tmp_path: Path) -> None:
    run = run_loop(folder, tmp_path)
    model = load_tuned(str(folder), run, device="cpu")
    pipeline = load_pipeline(folder)
    pipeline.load_lora_weights(run / "lora", local_files_only=True)
    drawn, how = start_of(pipeline)
    text = model.encode_text(PROMPTS)
    ours = denoise(model, drawn, model.grid(3, model.defaults.shift), text, model.encode_text([""]), 3.0)
    assert bool(torch.isfinite(ours).all())
    assert float((ours - run_pipeline(pipeline, model, 3, 3.0, **how)).abs().max()) <= 1e-4


def test_a_tuned_denoiser_loads_in_the_pipeline_and_gives_our_output(
    folder: Path, model: VideoModel, tmp_path: Path
) -> None:
    from diffusers import AutoModel

    pipeline = load_pipeline(folder)
    drawn, how = start_of(pipeline)
    text = model.encode_text(PROMPTS)

    def sampled(of: VideoModel) -> torch.Tensor:
        return denoise(of, drawn, of.grid(2, of.defaults.shift), text, text[:1], 1.0)

    before = sampled(model)
    with torch.no_grad():
        for index, parameter in enumerate(trainable(model).values()):
            parameter.add_(noise(tuple(parameter.shape), 0, "full weights", index) * 0.01)
    save_denoiser(model, tmp_path / "transformer")
    expected = sampled(model)
    assert float((expected - before).abs().max()) > 1e-3
    pipeline.transformer = AutoModel.from_pretrained(
        str(tmp_path), subfolder="transformer", local_files_only=True, use_safetensors=True
    )
    assert float((run_pipeline(pipeline, model, 2, 1.0, **how) - expected).abs().max()) <= 1e-4
    assert torch.equal(sampled(load_tuned(str(folder), tmp_path, device="cpu")), expected)


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("scheduler/scheduler_config.json", {"shift_terminal": 1.5}, "shift_terminal"),
        ("scheduler/scheduler_config.json", {"max_image_seq_len": 1024}, "dynamic shift"),
        ("scheduler/scheduler_config.json", {"max_shift": "much"}, "dynamic shift"),
        ("model_index.json", {"_class_name": "LTXConditionPipeline"}, "use_dynamic_shifting"),
        ("vae/config.json", {"spatio_temporal_scaling": 3}, "spatio_temporal_scaling"),
        ("transformer/config.json", {"patch_size": 2}, "patches"),
        ("densedpo.json", {"inference": {"num_frames": 16}}, r"8k \+ 1"),
        ("densedpo.json", {"inference": {"height": 48}}, "multiples of 32"),
    ],
)
def test_a_folder_that_makes_no_sense_is_refused_in_one_line(
    folders: dict[str, Path], tmp_path: Path, file: str, changes: dict[str, Any], says: str
) -> None:
    import shutil

    folder = Path(shutil.copytree(folders["LTXPipeline"], tmp_path / "model"))
    write_json(folder / file, read_json(folder / file) | changes)
    with pytest.raises((ModelError, ConfigError), match=says) as caught:
        _ = load_model(str(folder), device="cpu").geometry
    assert "\n" not in str(caught.value)
