"""Our CogVideoX against diffusers' own pipelines, on untrained models as 2B, as 5B and as 1.5.

Where a checkpoint ships DPM-Solver the pipeline's scheduler is exchanged for DDIM, which is what ours always samples
with. Steps divide the trained timesteps, as they do by default; elsewhere diffusers steps beside its own timesteps.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXVideoToVideoPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from sentencepiece import SentencePieceTrainer
from tests.parity.full_loop import run_loop
from tests.parity.tiny_cogvideox import CHANNELS, FRAMES, HEIGHT, WIDTH, write_tiny_cogvideox
from torch import Tensor, nn

from densedpo.diffusion.grid import grid_from
from densedpo.errors import ConfigError, ModelError
from densedpo.keys import noise, torch_stream
from densedpo.models.activation import POLICIES, apply_policy
from densedpo.models.base import VideoModel
from densedpo.models.execution import set_attention
from densedpo.models.load import load_geometry, load_model, load_tuned
from densedpo.models.lora import COMFYUI_FILE_NAME, FILE_NAME, add_lora, save_lora
from densedpo.models.sampling import denoise, to_frames
from densedpo.pairs.denoise import denoise_pairs
from densedpo.pairs.plan import PlannedPair, Recipe
from densedpo.store.files import read_json, write_json
from densedpo.training.draws import DrawLaw
from densedpo.training.objective import frame_errors

PROMPTS = ["a red circle drifting", "a blue cross spinning and something unknown"]
KINDS = ("2b", "5b", "1.5")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {kind: tmp_path_factory.mktemp("cogvideox") / kind for kind in KINDS}
    for kind, folder in found.items():
        write_tiny_cogvideox(folder, kind)
    return found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(folders: dict[str, Path], kind: str) -> Path:
    return folders[kind]


@pytest.fixture
def model(folder: Path) -> VideoModel:
    return load_model(str(folder), device="cpu")


def load_pipeline(folder: Path, pipeline_class: Any = CogVideoXPipeline) -> Any:
    pipeline = pipeline_class.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    pipeline.scheduler = CogVideoXDDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_pipeline(pipeline: Any, kind: str, start: Tensor, steps: int, cfg: float, output: str = "latent") -> Tensor:
    with torch.no_grad():
        found: Tensor = pipeline(
            prompt=PROMPTS,
            num_frames=FRAMES[kind],
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=steps,
            guidance_scale=cfg,
            latents=start.transpose(1, 2).clone(),
            output_type=output,
            max_sequence_length=16,
        ).frames
    return found.transpose(1, 2)


def sample(model: VideoModel, start: Tensor, steps: int, cfg: float) -> Tensor:
    """Sample as pairs do at eta = 1."""
    clip = noise(tuple(start.shape), 0, "a clip of which nothing may be left")
    start = model.add_noise(clip, start, torch.ones(len(start)))
    grid = grid_from(model.grid(steps, model.defaults.shift), 1.0)
    return denoise(model, start, grid, model.encode_text(PROMPTS), model.encode_text([""]), cfg)


def train_pieces(stem: Path) -> None:
    """Write ``STEM.model``, as few pieces as the tiny text encoder knows."""
    SentencePieceTrainer.train(
        sentence_iterator=iter([*PROMPTS, *(f"{word} {word}" for word in PROMPTS[1].split())]),
        model_prefix=str(stem),
        vocab_size=32,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )


def noises(model: VideoModel, kind: str, count: int = 2) -> Tensor:
    return noise((count, *model.latent_shape(FRAMES[kind], HEIGHT, WIDTH)), 0, "parity")


def test_the_family_is_known_and_gives_its_clip_shape(folder: Path, kind: str, model: VideoModel) -> None:
    geometry = load_geometry(str(folder))
    assert geometry == model.geometry
    assert (geometry.fps, geometry.num_frames) == ((16.0, 17) if kind == "1.5" else (8.0, 9))
    step = 16 if kind == "1.5" else 8
    assert [geometry.valid_frames(n) for n in (step - 1, step, step + 1, 99)] == [1, 1, step + 1, FRAMES[kind]]


@pytest.mark.parametrize(("patch_frames", "wanted"), [(None, (8, 49, 480, 720, 8)), (2, (16, 81, 768, 1360, 16))])
def test_a_checkpoint_without_settings_of_ours_has_the_models_own(
    tmp_path: Path, patch_frames: int | None, wanted: tuple[int, ...]
) -> None:
    write_json(tmp_path / "model_index.json", {"_class_name": "CogVideoXPipeline"})
    write_json(tmp_path / "vae" / "config.json", {"temporal_compression_ratio": 4})
    # the trained size of 1.5 is that of its table of positions, not of its videos
    config = {"patch_size_t": patch_frames, "sample_height": 300, "sample_width": 300, "max_text_seq_length": 226}
    write_json(tmp_path / "transformer" / "config.json", config)
    found = load_geometry(str(tmp_path))
    assert (found.fps, found.num_frames, found.height, found.width, found.frame_step) == wanted


@pytest.mark.parametrize(("steps", "cfg"), [(5, 2.0), (5, 1.0), (4, 6.0)])
def test_generation_at_eta_one_is_the_pipeline(
    folder: Path, kind: str, model: VideoModel, steps: int, cfg: float
) -> None:
    drawn = noises(model, kind)
    ours = sample(model, drawn, steps, cfg)
    pipeline = load_pipeline(folder)
    theirs = run_pipeline(pipeline, kind, drawn, steps, cfg)
    assert float((ours - theirs).abs().max()) <= 1e-4
    assert float((ours - drawn).abs().max()) > 0.01  # the comparison is not of two untouched noises
    if cfg == 2.0:  # and what is cut off in front is the same
        video = run_pipeline(pipeline, kind, drawn, steps, cfg, "pt").transpose(1, 2)
        found = (model.decode(ours) / 2 + 0.5).transpose(1, 2)
        assert found.shape[1] == FRAMES[kind]
        assert float((found - video).abs().max()) <= 1e-4


def test_other_grids_of_the_scheduler(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["5b"], tmp_path / "model"))
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    for changes in ({"timestep_spacing": "leading"}, {"rescale_betas_zero_snr": False, "snr_shift_scale": 2.0}):
        write_json(path, config | changes)
        model = load_model(str(folder), device="cpu")
        assert model.grid(4, 1.0)[0] < 1  # where the pipeline takes pure noise for what it is not quite
        drawn = torch.stack([noise(tuple(noises(model, "5b").shape[1:]), 0, "pair-noise", "p", side) for side in "ab"])
        theirs = run_pipeline(load_pipeline(folder), "5b", drawn, 4, 2.0)
        assert float((sample(model, drawn, 4, 2.0) - theirs).abs().max()) <= 1e-4
        # and an independent pair's side a, which has the first caption
        pair, recipe = PlannedPair("p", "c", PROMPTS[0], 1.0, 9), Recipe("independent", 1.0, 1.0, 4, 2.0, 1.0, 0)
        text, null_text = model.encode_text(PROMPTS[:1]), model.encode_text([""])
        sides = denoise_pairs(model, [pair], drawn[:1], text, null_text, recipe, model.grid(4, 1.0))
        assert float((sides[0, 0] - theirs[0]).abs().max()) <= 1e-4


def test_where_steps_do_not_divide_the_timesteps_ours_steps_onto_the_next_one(folders: dict[str, Path]) -> None:
    model = load_model(str(folders["2b"]), device="cpu")
    drawn = noises(model, "2b")
    apart = (sample(model, drawn, 6, 1.0) - run_pipeline(load_pipeline(folders["2b"]), "2b", drawn, 6, 1.0)).abs().max()
    assert 1e-4 < float(apart) < 0.3  # diffusers ends at timestep 0, with noise left; ours at level 0
    assert model.grid(6, 1.0)[-1] == 0.0


def test_text_encoding_is_the_pipelines(folder: Path, model: VideoModel) -> None:
    with torch.no_grad():
        theirs, empty = load_pipeline(folder).encode_prompt(PROMPTS, max_sequence_length=16)
    assert float((model.encode_text(PROMPTS).hidden - theirs).abs().max()) <= 1e-5
    assert float((model.encode_text([""]).hidden - empty[:1]).abs().max()) <= 1e-5
    assert not bool((theirs[0, -1] == 0).all())  # padding is encoded and counts


def test_a_checkpoints_sentencepiece_tokenizer_is_read_as_by_the_pipeline(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["2b"], tmp_path / "model"))
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    train_pieces(folder / "tokenizer" / "spiece")
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "<pad>", "eos_token": "</s>"}
    write_json(folder / "tokenizer" / "tokenizer_config.json", settings)
    index = read_json(folder / "model_index.json")
    write_json(folder / "model_index.json", index | {"tokenizer": ["transformers", "T5Tokenizer"]})
    pipeline, model = load_pipeline(folder), load_model(str(folder), device="cpu")
    prompts = ["a red circle drifting", "A blue  cross,\nunknown </s>", ""]
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(prompts, max_sequence_length=16)
    assert len({tuple(row.flatten().tolist()) for row in theirs}) == 3
    assert float((model.encode_text(prompts).hidden - theirs).abs().max()) <= 1e-5


def test_latents_are_scaled_the_right_way_round(folder: Path, kind: str, model: VideoModel) -> None:
    video = noise((1, 3, FRAMES[kind], HEIGHT, WIDTH), 0, "video").clamp(-1, 1)
    pipeline = load_pipeline(folder)
    with torch.no_grad():
        raw = pipeline.vae.encode(video).latent_dist.mode()
        theirs = pipeline.decode_latents((raw * pipeline.vae_scaling_factor_image).transpose(1, 2))
    latents = model.encode_video(video)
    assert latents.shape[1:] == model.latent_shape(FRAMES[kind], HEIGHT, WIDTH)
    own = latents[:, :, model.lead_frames :]
    torch.testing.assert_close(own, raw * pipeline.vae.config.scaling_factor)
    assert not torch.allclose(own, raw / pipeline.vae.config.scaling_factor, atol=1e-3)
    torch.testing.assert_close(model.decode(latents), theirs.clamp(-1, 1))
    assert model.decode(latents).shape == video.shape


def test_only_the_frame_counts_that_the_vae_gives_back_are_clips(folders: dict[str, Path]) -> None:
    model = load_model(str(folders["2b"]), device="cpu")
    assert isinstance(model.vae, AutoencoderKLCogVideoX)
    for count, kept in ((9, True), (13, False), (17, True)):  # 13 = 3 x 4 + 1 is causal, yet comes back as 16
        found = model.decode(model.encode_video(torch.zeros(1, 3, count, 32, 32))).shape[2]
        assert (found == count) is kept
        assert ((count - 1) % (model.geometry.frame_step or 0) == 0) is kept


@pytest.mark.parametrize("kind", ["1.5"])
def test_the_lead_frame_is_denoised_and_nothing_else(kind: str, folders: dict[str, Path]) -> None:
    model = load_model(str(folders[kind]), device="cpu")
    assert model.lead_frames == 1
    clean = model.encode_video(noise((1, 3, 17, HEIGHT, WIDTH), 0, "video").clamp(-1, 1))
    assert clean.shape == (1, CHANNELS, 6, 4, 6)
    assert torch.equal(clean[:, :, 0], clean[:, :, 1])
    other = clean.clone()
    other[:, :, 0] += 1
    assert torch.equal(model.decode(other), model.decode(clean))
    drawn, t, text = noise(tuple(clean.shape), 0, "drawn"), torch.tensor([0.7]), model.encode_text(PROMPTS[:1])
    with torch.no_grad():
        errors = frame_errors(model, clean, drawn, t, text)
        whole = model.target(clean, drawn, t) - model.predict(model.add_noise(clean, drawn, t), t, text)
    assert errors.shape == (1, 5)  # one a labelled latent frame
    torch.testing.assert_close(errors, whole.square().mean(dim=(1, 3, 4))[:, 1:])


@pytest.mark.parametrize("kind", ["2b", "5b"])
@pytest.mark.parametrize("strength", [0.4, 0.8, 1.0])
def test_a_guided_start_is_video_to_video_from_the_same_timestep(
    kind: str, strength: float, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``strength`` counts steps, eta is a level; the pipeline samples the VAE's posterior, ours takes the mode."""
    model = load_model(str(folders[kind]), device="cpu")
    pipeline = load_pipeline(folders[kind], CogVideoXVideoToVideoPipeline)
    video = noise((1, 3, 9, HEIGHT, WIDTH), 0, "video").clamp(-1, 1) * 0.5
    frames = to_frames(video[0])
    steps = 5

    def run() -> Tensor:
        with torch.no_grad():
            found: Tensor = pipeline(
                video=[Image.fromarray(frame) for frame in frames],
                prompt=PROMPTS[0],
                height=HEIGHT,
                width=WIDTH,
                num_inference_steps=steps,
                strength=strength,
                guidance_scale=2.0,
                generator=torch_stream(0, "strength"),
                output_type="latent",
                max_sequence_length=16,
            ).frames
        return found.transpose(1, 2)

    sampled = run()
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    theirs = run()
    grid = model.grid(steps, 1.0)
    eta = grid[steps - int(steps * strength)]
    clean = model.encode_video(torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1)
    drawn = torch.randn(1, 3, CHANNELS, 4, 6, generator=torch_stream(0, "strength")).transpose(1, 2)
    start = model.add_noise(clean, drawn, torch.tensor([eta]))
    text, null_text = model.encode_text(PROMPTS[:1]), model.encode_text([""])
    ours = denoise(model, start, grid_from(grid, eta), text, null_text, 2.0)
    assert float((ours - theirs).abs().max()) <= 1e-4
    assert float((sampled - theirs).abs().max()) > 1e-3


def test_video_to_video_of_diffusers_has_no_rule_for_the_lead_frame(folders: dict[str, Path]) -> None:
    pipeline = load_pipeline(folders["1.5"], CogVideoXVideoToVideoPipeline)
    black = [Image.new("RGB", (WIDTH, HEIGHT)) for _ in range(17)]
    with pytest.raises(ValueError, match="latent frames must be divisible"):
        pipeline(video=black, prompt=PROMPTS[0], height=HEIGHT, width=WIDTH, max_sequence_length=16)


@pytest.mark.parametrize("everywhere", [False, True], ids=["family's layers", "every linear layer"])
def test_our_lora_loads_in_the_pipeline_and_gives_our_output(
    folder: Path, kind: str, tmp_path: Path, everywhere: bool
) -> None:
    ours = load_model(str(folder), device="cpu")
    start = noises(ours, kind)
    before = sample(ours, start, 2, 1.0)
    linear = [name for name, module in ours.denoiser.named_modules() if isinstance(module, nn.Linear)]
    for index, weight in enumerate(add_lora(ours, rank=4, alpha=8, seed=0, targets=linear if everywhere else None)):
        weight.data = noise(tuple(weight.shape), 0, "lora weights", index) * 0.1
    expected = sample(ours, start, 2, 1.0)
    save_lora(ours, tmp_path, "comfyui")
    assert float((expected - before).abs().max()) > 1e-2

    pipeline = load_pipeline(folder)
    for chosen in ({}, {"weight_name": FILE_NAME}):
        pipeline.load_lora_weights(tmp_path, local_files_only=True, **chosen)
        assert float((run_pipeline(pipeline, kind, start, 2, 1.0) - expected).abs().max()) <= 1e-4
        pipeline.unload_lora_weights()
    assert float((run_pipeline(pipeline, kind, start, 2, 1.0) - before).abs().max()) <= 1e-4

    for name in (FILE_NAME, COMFYUI_FILE_NAME):
        again = load_tuned(str(folder), tmp_path / name, device="cpu")
        assert float((sample(again, start, 2, 1.0) - expected).abs().max()) <= 1e-5


def test_comfyuis_names(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = load_model(str(folders["5b"]), device="cpu")
    add_lora(model, rank=2, alpha=2, seed=0)
    save_lora(model, tmp_path, "comfyui")
    layers = {name.split(".lora_")[0] for name in load_file(tmp_path / COMFYUI_FILE_NAME)}
    ends = ("q", "k", "v", "attn_out", "ff_proj", "ff_out")
    assert layers == {f"diffusion_model.blocks.{block}.{end}" for block in (0, 1) for end in ends}


def test_a_shift_is_refused(folders: dict[str, Path]) -> None:
    model = load_model(str(folders["2b"]), device="cpu")
    assert model.grid(5, 1.0)
    with pytest.raises(ConfigError, match="shift: 3 means nothing"):
        model.grid(5, 3.0)
    with pytest.raises(ConfigError, match="shift: 2 means nothing"):
        DrawLaw(seed=0, shift=2.0, levels=model.level_law).levels.level(0.5, 2.0)
    with pytest.raises(ConfigError, match=r"1001 asked for, but .* has 1000 timesteps"):
        model.grid(1001, 1.0)


def test_a_size_that_is_no_whole_number_of_patches_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["2b"], tmp_path / "model"))
    write_json(folder / "densedpo.json", {"inference": {"height": 40}})
    with pytest.raises(ModelError, match="multiples of 16, got"):
        load_geometry(str(folder))


@pytest.mark.parametrize("change", [{"prediction_type": "epsilon"}, {"set_alpha_to_one": False}])
def test_another_kind_of_schedule_is_refused(folders: dict[str, Path], tmp_path: Path, change: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(folders["2b"], tmp_path / "model"))
    path = folder / "scheduler" / "scheduler_config.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(ModelError, match=next(iter(change))):
        load_model(str(folder), device="cpu")


def test_an_attention_kernel_that_cannot_be_chosen_is_refused(folders: dict[str, Path]) -> None:
    model = load_model(str(folders["5b"]), device="cpu")
    set_attention(model, "native")  # it is what runs
    with pytest.raises(ConfigError, match="no choice of kernel"):
        set_attention(model, "_native_math")


def test_every_checkpointing_policy_gives_the_same_gradients(folder: Path, kind: str, model: VideoModel) -> None:
    clean, drawn, t = noises(model, kind, 1), noise((1,), 0, "t"), torch.tensor([0.7])
    drawn = noise(tuple(clean.shape), 1, "drawn")
    text = model.encode_text(PROMPTS[:1])
    weights = add_lora(model, rank=2, alpha=2, seed=0)
    model.denoiser.train()
    found = []
    for policy in POLICIES:
        apply_policy(model, policy)
        frame_errors(model, clean, drawn, t, text).sum().backward()
        found.append(torch.cat([w.grad.flatten() for w in weights if w.grad is not None]))
        for weight in weights:
            weight.grad = None
    assert len(found[0]) == sum(weight.numel() for weight in weights)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_the_repeated_blocks_are_named(model: VideoModel) -> None:
    names: Any = model.denoiser._repeated_blocks
    assert [type(module).__name__ for module in model.denoiser.modules()].count(names[0]) == 2


@pytest.mark.parametrize("kind", ["2b", "1.5"])
def test_the_whole_loop(folder: Path, kind: str, tmp_path: Path) -> None:
    run = run_loop(folder, tmp_path)
    pipeline = load_pipeline(folder)
    pipeline.load_lora_weights(run / "lora", local_files_only=True)
    tuned = load_tuned(str(folder), run, device="cpu")
    start = noises(tuned, kind)
    theirs = run_pipeline(pipeline, kind, start, 2, 2.0)
    assert bool(torch.isfinite(theirs).all())
    assert float((sample(tuned, start, 2, 2.0) - theirs).abs().max()) <= 1e-4
