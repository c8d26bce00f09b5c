"""Our HunyuanVideo against diffusers' own pipeline, on an untrained model of the family."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.full_loop import run_loop
from tests.parity.tiny_hunyuan_video import (
    CHANNELS,
    FRAMES,
    GUIDANCE,
    HEIGHT,
    TEXT_LENGTH,
    WIDTH,
    write_tiny_hunyuan_video,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch import nn

from densedpo.diffusion.flow import guided_start
from densedpo.diffusion.grid import grid_from
from densedpo.errors import ConfigError, ModelError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.folder import load_tokenizer
from densedpo.models.full import save_denoiser, trainable
from densedpo.models.load import load_geometry, load_model, load_tuned
from densedpo.models.lora import COMFYUI_FILE_NAME, FILE_NAME, add_lora, lora_tensors, save_lora
from densedpo.models.sampling import denoise
from densedpo.store.files import read_json, write_json

PROMPTS = ["a red circle drifting", "a blue cross spinning and something unknown"]
SHAPE = (CHANNELS, 3, 6, 8)
HALVES = ("lora_A.weight", "lora_B.weight")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hunyuan") / "model"
    write_tiny_hunyuan_video(made)
    return made


@pytest.fixture
def model(folder: Path) -> VideoModel:
    return load_model(str(folder), device="cpu")


def load_pipeline(folder: Path) -> Any:
    from diffusers import HunyuanVideoPipeline

    loaded = HunyuanVideoPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def run_pipeline(pipeline: Any, start: torch.Tensor, steps: int, cfg: float, **more: Any) -> torch.Tensor:
    common = {
        **{"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "num_inference_steps": steps},
        **{"guidance_scale": GUIDANCE, "true_cfg_scale": cfg, "output_type": "latent"},
        **{"prompt": PROMPTS[: len(start)], "negative_prompt": [""] * len(start), "latents": start.clone()},
        "max_sequence_length": TEXT_LENGTH,
    }
    with torch.no_grad():
        frames: torch.Tensor = pipeline(**common | more).frames
    return frames


def run_ours(model: VideoModel, start: torch.Tensor, steps: int, cfg: float) -> torch.Tensor:
    grid = grid_from(model.grid(steps, model.defaults.shift), 1.0)
    return denoise(model, start, grid, model.encode_text(PROMPTS[: len(start)]), model.encode_text([""]), cfg)


def test_the_folder_gives_the_familys_settings(folder: Path, model: VideoModel) -> None:
    assert (model.family, model.defaults.cfg, model.defaults.shift) == ("hunyuan_video", 1.0, 7.0)
    assert model.latent_shape(FRAMES, HEIGHT, WIDTH) == SHAPE
    assert load_geometry(str(folder)) == model.geometry
    assert (model.geometry.temporal_stride, model.geometry.fps) == (4, 24.0)


@pytest.mark.parametrize(("steps", "cfg"), [(6, 1.0), (6, 2.0), (3, 5.0)])
def test_guided_generation_at_eta_one_is_the_pipeline(folder: Path, model: VideoModel, steps: int, cfg: float) -> None:
    drawn = noise((2, *SHAPE), 0, "parity")
    start = guided_start(noise(tuple(drawn.shape), 0, "a clip of which nothing may be left"), drawn, 1.0)
    ours = run_ours(model, start, steps, cfg)
    assert float((ours - run_pipeline(load_pipeline(folder), drawn, steps, cfg)).abs().max()) <= 1e-4
    assert float((ours - drawn).abs().max()) > 0.01  # the comparison is not of two untouched noises


def test_the_embedded_guidance_is_told_and_a_model_without_it_works(
    folder: Path, model: VideoModel, tmp_path: Path
) -> None:
    start = noise((1, *SHAPE), 0, "parity")
    before = run_ours(model, start, 3, 1.0)
    model.defaults = replace(model.defaults, embedded_guidance=1.0)
    after = run_ours(model, start, 3, 1.0)
    assert float((after - before).abs().max()) > 1e-3
    theirs = run_pipeline(load_pipeline(folder), start, 3, 1.0, guidance_scale=1.0)
    assert float((after - theirs).abs().max()) <= 1e-4

    write_tiny_hunyuan_video(tmp_path / "plain", distilled=False)
    plain = load_model(str(tmp_path / "plain"), device="cpu")
    theirs = run_pipeline(load_pipeline(tmp_path / "plain"), start, 3, 4.0)
    assert float((run_ours(plain, start, 3, 4.0) - theirs).abs().max()) <= 1e-4


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_the_grid_is_the_pipelines(folder: Path, model: VideoModel, steps: int) -> None:
    scheduler = load_pipeline(folder).scheduler
    scheduler.set_timesteps(sigmas=[1 - step / steps for step in range(steps)])
    torch.testing.assert_close(torch.tensor(model.grid(steps, 7.0)), scheduler.sigmas, atol=2e-7, rtol=0)


def test_text_encoding_is_the_pipelines(folder: Path, model: VideoModel) -> None:
    pipeline = load_pipeline(folder)
    for prompts in (PROMPTS, [""]):
        with torch.no_grad():
            hidden, pooled, mask = pipeline.encode_prompt(prompts, max_sequence_length=TEXT_LENGTH)
        ours = model.encode_text(prompts)
        assert ours.hidden.shape == (len(prompts), TEXT_LENGTH, 24)
        assert float((ours.hidden - hidden).abs().max()) <= 1e-5
        assert float((ours.tensors["pooled"] - pooled).abs().max()) <= 1e-5
        assert torch.equal(ours.tensors["mask"], mask.bool())
    first, second = (model.encode_text([prompt]) for prompt in PROMPTS)
    for name in ("hidden", "pooled"):
        assert not torch.allclose(first.tensors[name], second.tensors[name], atol=1e-3)  # the caption is not cut off


def test_a_llama_3_tokenizer_is_read_as_it_is_whatever_class_the_folder_names(folder: Path, tmp_path: Path) -> None:
    """The class that released folders name splits its bytes as Llama 2's pieces, in the library's newer versions."""
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    shutil.rmtree(copy / "tokenizer")
    (copy / "tokenizer").mkdir()
    bytewise = Tokenizer(models.BPE())
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bytewise.train_from_iterator(
        PROMPTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    bytewise.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    bytewise.save(str(copy / "tokenizer" / "tokenizer.json"))
    settings = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": special[0], "pad_token": special[-1]}
    write_json(copy / "tokenizer" / "tokenizer_config.json", settings | {"padding_side": "left"})
    tokenizer = load_tokenizer(copy)
    text = f"<|start_header_id|>user<|end_header_id|>\n\n{PROMPTS[1]}, walking  slowly.<|eot_id|>"
    assert tokenizer(text).input_ids == bytewise.encode(text).ids


def test_padding_of_the_text_does_not_matter(model: VideoModel) -> None:
    latents, t, text = noise((1, *SHAPE), 0, "latents"), torch.tensor([0.7]), model.encode_text(PROMPTS[:1])
    with torch.no_grad():
        before = model.predict(latents, t, text)
        text.hidden[~text.tensors["mask"]] = 100.0
        assert float((model.predict(latents, t, text) - before).abs().max()) <= 1e-5
        text.tensors["pooled"].add_(1.0)
        assert float((model.predict(latents, t, text) - before).abs().max()) > 1e-3


def test_latents_are_scaled_the_right_way_round(folder: Path, model: VideoModel) -> None:
    pipeline = load_pipeline(folder)
    video = noise((1, 3, FRAMES, HEIGHT, WIDTH), 0, "video").clamp(-1, 1)
    with torch.no_grad():
        raw = pipeline.vae.encode(video).latent_dist.mode()
    factor = pipeline.vae.config.scaling_factor
    torch.testing.assert_close(model.encode_video(video), raw * factor)
    assert not torch.allclose(raw * factor, raw / factor, atol=1e-2)
    assert model.decode(model.encode_video(video)).shape == video.shape


def test_decode_is_the_pipelines(folder: Path, model: VideoModel) -> None:
    pipeline = load_pipeline(folder)
    latents = noise((1, *SHAPE), 0, "decode")
    pipeline.scheduler.step = lambda _output, _t, sample, **_: (sample,)  # what it decodes is what it is given
    theirs = run_pipeline(pipeline, latents, 1, 1.0, output_type="pt")[0].transpose(0, 1)
    assert float((model.decode(latents)[0] / 2 + 0.5 - theirs).abs().max()) <= 1e-5


def test_large_videos_are_tiled_as_in_the_pipeline(folder: Path, model: VideoModel) -> None:
    vae = load_pipeline(folder).vae
    video = noise((1, 3, 5, 64, 288), 0, "video").clamp(-1, 1)
    latents = model.encode_video(video)
    with torch.no_grad():
        whole = vae.decode(latents / vae.config.scaling_factor).sample
        vae.enable_tiling()
        torch.testing.assert_close(latents, vae.encode(video).latent_dist.mode() * vae.config.scaling_factor)
        tiled = vae.decode(latents / vae.config.scaling_factor).sample
    torch.testing.assert_close(model.decode(latents), tiled.clamp(-1, 1))
    assert float((tiled - whole).abs().max()) > 1e-5  # it is large enough for tiles


def adapted(model: VideoModel, alpha: int, targets: list[str] | None = None) -> VideoModel:
    for index, parameter in enumerate(add_lora(model, rank=4, alpha=alpha, seed=0, targets=targets)):
        parameter.data = noise(tuple(parameter.shape), 0, "lora weights", index) * 0.1
    return model


def test_our_lora_leaves_the_refiner_alone_and_loads_in_the_pipeline_with_our_output(
    folder: Path, model: VideoModel, tmp_path: Path
) -> None:
    start = noise((2, *SHAPE), 0, "parity")
    before = run_ours(model, start, 2, 1.0)
    save_lora(adapted(model, 6), tmp_path)
    trained = {name.rsplit(".lora_", 1)[0] for name, p in model.denoiser.named_parameters() if p.requires_grad}
    assert len(trained) == 12 + 5
    assert not any("refiner" in name for name in trained)
    expected = run_ours(model, start, 2, 1.0)
    assert float((expected - before).abs().max()) > 1e-2

    pipeline = load_pipeline(folder)
    pipeline.load_lora_weights(tmp_path, local_files_only=True)
    assert float((run_pipeline(pipeline, start, 2, 1.0) - expected).abs().max()) <= 1e-4
    again = load_tuned(str(folder), tmp_path / FILE_NAME, device="cpu")
    assert float((run_ours(again, start, 2, 1.0) - expected).abs().max()) <= 1e-5


def test_the_whole_loop(folder: Path, tmp_path: Path) -> None:
    run = run_loop(folder, tmp_path)
    model = load_tuned(str(folder), run, device="cpu")
    pipeline = load_pipeline(folder)
    pipeline.load_lora_weights(run / "lora", local_files_only=True)
    start = noise((2, *SHAPE), 0, "parity")
    ours = run_ours(model, start, 3, 1.0)
    assert bool(torch.isfinite(ours).all())
    assert float((ours - run_pipeline(pipeline, start, 3, 1.0)).abs().max()) <= 1e-4


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("transformer/config.json", {"image_condition_type": "latent_concat"}, "from an image"),
        ("scheduler/scheduler_config.json", {"shift": 0}, "shift must be a positive number"),
        ("vae/config.json", {"temporal_compression_ratio": None}, "temporal_compression_ratio"),
        ("densedpo.json", {"inference": {"num_frames": 8}}, r"4k \+ 1"),
        ("densedpo.json", {"inference": {"height": 40}}, "multiples of 16"),
        ("densedpo.json", {"inference": {"embedded_guidance": 0}}, "embedded_guidance"),
    ],
)
def test_a_folder_that_makes_no_sense_is_refused_in_one_line(
    folder: Path, tmp_path: Path, file: str, changes: dict[str, Any], says: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    write_json(copy / file, read_json(copy / file) | changes)
    with pytest.raises((ModelError, ConfigError), match=says) as caught:
        _ = load_model(str(copy), device="cpu").geometry
    assert "\n" not in str(caught.value)


def original_layers(model: VideoModel) -> dict[str, list[str]]:
    """ComfyUI's layers of the first blocks, and what they are made of here: written out by hand."""
    return {
        "double_blocks.0.img_attn_qkv": [f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")],
        "double_blocks.0.txt_attn_qkv": [
            f"transformer_blocks.0.attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj")
        ],
        "double_blocks.0.img_attn_proj": ["transformer_blocks.0.attn.to_out.0"],
        "double_blocks.0.txt_attn_proj": ["transformer_blocks.0.attn.to_add_out"],
        "double_blocks.0.img_mlp.fc1": ["transformer_blocks.0.ff.net.0.proj"],
        "double_blocks.0.img_mlp.fc2": ["transformer_blocks.0.ff.net.2"],
        "double_blocks.0.txt_mlp.fc1": ["transformer_blocks.0.ff_context.net.0.proj"],
        "double_blocks.0.txt_mlp.fc2": ["transformer_blocks.0.ff_context.net.2"],
        "single_blocks.0.linear1": [
            *(f"single_transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")),
            "single_transformer_blocks.0.proj_mlp",
        ],
        "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
    }


@pytest.mark.parametrize("alpha", [4, 6])
def test_comfyui_gets_one_update_of_its_fused_layers_and_we_get_ours_back(
    folder: Path, model: VideoModel, tmp_path: Path, alpha: int
) -> None:
    save_lora(adapted(model, alpha), tmp_path, "comfyui")
    stored = load_file(tmp_path / COMFYUI_FILE_NAME)
    modules = dict(model.denoiser.named_modules())
    layers = original_layers(model)
    assert {key.removeprefix("diffusion_model.").partition(".lora_")[0] for key in stored} == set(layers)
    for theirs, ours in layers.items():
        found = stored[f"diffusion_model.{theirs}.lora_B.weight"] @ stored[f"diffusion_model.{theirs}.lora_A.weight"]
        expected = torch.cat([modules[name].get_delta_weight("default") for name in ours]).detach()
        torch.testing.assert_close(found, expected)

    again = load_tuned(str(folder), tmp_path / COMFYUI_FILE_NAME, device="cpu")
    assert {min(tensor.shape) for tensor in lora_tensors(again).values()} == {4}  # and not the sum of the parts' ranks
    for name, module in again.denoiser.named_modules():
        if hasattr(module, "get_delta_weight"):
            torch.testing.assert_close(module.get_delta_weight("default"), modules[name].get_delta_weight("default"))


def test_a_lora_that_was_trained_on_fused_layers_loads_here(folder: Path, model: VideoModel, tmp_path: Path) -> None:
    tensors, rank, alpha = {}, 3, 1.5
    sizes = {name: module for name, module in model.denoiser.named_modules() if isinstance(module, nn.Linear)}
    layers = {theirs: ours for theirs, ours in original_layers(model).items() if len(ours) > 1}
    for theirs, ours in layers.items():
        rows = sum(sizes[name].out_features for name in ours)
        key = f"diffusion_model.{theirs}"
        tensors[f"{key}.lora_down.weight"] = noise((rank, sizes[ours[0]].in_features), 0, theirs, "A")
        tensors[f"{key}.lora_up.weight"] = noise((rows, rank), 0, theirs, "B")
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "foreign.safetensors")
    loaded = dict(load_tuned(str(folder), tmp_path / "foreign.safetensors", device="cpu").denoiser.named_modules())
    for theirs, ours in layers.items():
        key = f"diffusion_model.{theirs}"
        expected = tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"] * alpha / rank
        found = torch.cat([loaded[name].get_delta_weight("default") for name in ours])
        torch.testing.assert_close(found, expected)


def test_the_pipeline_reads_comfyuis_layout_too(tmp_path: Path) -> None:
    """Of double blocks alone: diffusers splits the single ones at the real model's width, whatever the model's is."""
    write_tiny_hunyuan_video(tmp_path / "model", single_layers=0)
    model = load_model(str(tmp_path / "model"), device="cpu")
    layers = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")
    save_lora(adapted(model, 6, [f"transformer_blocks.0.{layer}" for layer in layers]), tmp_path, "comfyui")
    start = noise((2, *SHAPE), 0, "parity")
    pipeline = load_pipeline(tmp_path / "model")
    pipeline.load_lora_weights(tmp_path, local_files_only=True, weight_name=COMFYUI_FILE_NAME)
    expected = run_ours(model, start, 2, 1.0)
    assert float((run_pipeline(pipeline, start, 2, 1.0) - expected).abs().max()) <= 1e-4


def test_a_part_of_a_fused_layer_alone_and_files_that_do_not_fit_are_refused(
    folder: Path, model: VideoModel, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"img_attn_qkv: one layer in ComfyUI, of which .*to_k has no LoRA"):
        save_lora(adapted(model, 4, ["transformer_blocks.0.attn.to_q"]), tmp_path, "comfyui")
    key = "diffusion_model.double_blocks.0.img_attn_qkv"
    down, up = torch.ones(2, 32), torch.ones(96, 2)
    for tensors, says in (
        ({f"{key}.lora_A.weight": down}, "lacks a half"),
        ({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": torch.ones(96, 3)}, "do not fit each other"),
        ({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": torch.ones(95, 2)}, "95 rows, the model 96"),
        ({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up, f"{key}.alpha": torch.zeros(1)}, "alpha"),
        ({f"{key.replace('.0.', '.7.')}.{half}": t for half, t in zip(HALVES, (down, up), strict=True)}, "the model 0"),
    ):
        save_file(tensors, tmp_path / "bad.safetensors")
        with pytest.raises(ModelError, match=says):
            load_tuned(str(folder), tmp_path / "bad.safetensors", device="cpu")


def test_a_tuned_denoiser_loads_in_the_pipeline_and_gives_our_output(
    folder: Path, model: VideoModel, tmp_path: Path
) -> None:
    from diffusers import AutoModel

    start = noise((1, *SHAPE), 0, "parity")
    before = run_ours(model, start, 2, 1.0)
    with torch.no_grad():
        for index, parameter in enumerate(trainable(model).values()):
            parameter.add_(noise(tuple(parameter.shape), 0, "full weights", index) * 0.01)
    save_denoiser(model, tmp_path / "transformer")
    expected = run_ours(model, start, 2, 1.0)
    assert float((expected - before).abs().max()) > 1e-3
    pipeline = load_pipeline(folder)
    pipeline.transformer = AutoModel.from_pretrained(
        str(tmp_path), subfolder="transformer", local_files_only=True, use_safetensors=True
    )
    assert float((run_pipeline(pipeline, start, 2, 1.0) - expected).abs().max()) <= 1e-4
    assert torch.equal(run_ours(load_tuned(str(folder), tmp_path, device="cpu"), start, 2, 1.0), expected)
