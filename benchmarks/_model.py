"""Wan models with random weights, made where they run, and one labelled pair of random clips for them.

Random weights are right for speed, memory and equality, and say nothing about quality. A LoRA's B is filled, because at
zero all gradients through A vanish and any code would pass the comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from densedpo.keys import noise, seeded_initialisation
from densedpo.models.base import VideoModel
from densedpo.models.full import trainable
from densedpo.models.lora import add_lora
from densedpo.models.wan import WAN_2_1, WanModel
from densedpo.store.files import sha256_file
from densedpo.training.data import PairItem, PairLatents

CAPTION = "a red circle moves to the right"
_STEP_AWAY = 0.2  # of a weight's own spread: how far the policy is from its base


@dataclass(frozen=True)
class Shape:
    """A clip's height, width and frames in pixels."""

    height: int
    width: int
    frames: int

    @staticmethod
    def parse(text: str) -> Shape:
        """Read ``240x416x33``."""
        height, width, frames = (int(part) for part in text.split("x"))
        return Shape(height, width, frames)

    def __str__(self) -> str:
        """Say it as it is read."""
        return f"{self.height}x{self.width}x{self.frames}"


TINY = Shape(80, 80, 33)
LARGE = (Shape(240, 416, 33), Shape(480, 832, 49), Shape(480, 832, 81))  # sizes of Wan 2.1, 1.3B
LORA_RANK = {"cpu": 8, "cuda": 128}  # the paper's 128 is 1/12 of 1536; the tiny one is 1/16 of 128


class RandomWan(WanModel):
    """The Wan family's own code around random weights: Wan2.1-1.3B's shape on a GPU, a tiny one on a CPU."""

    def __init__(self, device: torch.device) -> None:
        tiny = device.type == "cpu"
        self.device, self.dtype = device, torch.float32 if tiny else torch.bfloat16
        self.offload = False  # what is measured is the step, not the way to the device
        self.name, self.folder, self.fingerprint = "random", Path("random"), "random"
        self.defaults = replace(WAN_2_1, text_length=32 if tiny else 512)
        with seeded_initialisation(0), device:
            denoiser = WanTransformer3DModel(**(_TINY_DENOISER if tiny else _DENOISER))
            vae = AutoencoderKLWan(**(_TINY_VAE if tiny else {}))
            text_encoder = UMT5EncoderModel(UMT5Config(dropout_rate=0.0, **(_TINY_TEXT if tiny else _TEXT)))
        kept: list[str] = WanTransformer3DModel._keep_in_fp32_modules
        for name, weight in denoiser.named_parameters():
            if not any(part in name for part in kept):  # as from_pretrained does
                weight.data = weight.data.to(self.dtype)
        text_encoder.to(self.dtype)
        for part in (denoiser, vae, text_encoder):
            part.requires_grad_(False).eval()
        words = Tokenizer(models.WordLevel({w: n for n, w in enumerate(["<pad>", "</s>", *CAPTION.split()])}, "<pad>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
        self._assemble(vae, denoiser, text_encoder, tokenizer)


_NORMS = {"cross_attn_norm": True, "qk_norm": "rms_norm_across_heads"}
_DENOISER = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30, **_NORMS}
_TINY_DENOISER = {
    **{"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 768, "num_layers": 8},
    **{"text_dim": 64, "freq_dim": 64, "rope_max_seq_len": 128, **_NORMS},
}
_TINY_VAE = {
    **{"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4], "num_res_blocks": 1, "temperal_downsample": [True, True]},
    **{"scale_factor_temporal": 4, "scale_factor_spatial": 4, "latents_mean": [0.0] * 16, "latents_std": [0.25] * 16},
}
_TEXT = {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
_TINY_TEXT = {"vocab_size": 64, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}


def random_clips(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return two videos [1, 3, T, H, W] in [-1, 1], unlike enough for a margin: the second is smooth and fainter."""
    size = (shape.frames, shape.height, shape.width)
    first = noise((1, 3, *size), 0, "benchmark-clip", "a")
    second = interpolate(noise((1, 3, 5, 5, 5), 0, "benchmark-clip", "b"), size, mode="trilinear")
    return first.clamp(-1, 1).to(device), (second / 2).clamp(-1, 1).to(device)


def make_item(model: VideoModel, latents: PairLatents, folder: Path) -> PairItem:
    """Write a pair's latents as the stage ``pairs`` does, and return it labelled: a better, as a whole."""
    path = folder / "latents.safetensors"
    save_file({name: getattr(latents, name).cpu().clone() for name in ("clip", "a", "b")}, path)
    frames = latents.a.shape[1]
    return PairItem(
        pair_id="pair",
        clip_id="clip",
        source_sha256="0" * 64,
        caption=CAPTION,
        latents_path=path,
        sha256_latents=sha256_file(path),
        num_segments=frames,
        frame_labels=(1.0,) * frames,
        frame_ties=(False,) * frames,
        clip_label=1.0,
        clip_tie=False,
        eta=1.0,
        latent_shape=model.latent_shape(*_pixels(model, latents.a)),
    )


def _pixels(model: VideoModel, latents: Tensor) -> tuple[int, int, int]:
    _, frames, height, width = latents.shape
    return (frames - 1) * model.temporal_stride + 1, height * model.spatial_stride, width * model.spatial_stride


def make_trainable(model: RandomWan, tuning: str) -> None:
    """Add a LoRA, or make every weight trainable in float32 under bfloat16 autocast on a GPU, as the trainer does."""
    if tuning == "full":
        trainable(model)
        model.compute_dtype = None if model.device.type == "cpu" else torch.bfloat16
    else:
        rank = LORA_RANK[model.device.type]
        add_lora(model, rank=rank, alpha=rank, seed=0)


@torch.no_grad()
def step_away(model: VideoModel) -> None:
    """Move what is trained off the base, so that no gradient and no margin is zero."""
    trained = [weight for weight in model.denoiser.parameters() if weight.requires_grad]
    for number, weight in enumerate(trained):
        spread = float(weight.std()) if weight.numel() > 1 and bool(weight.any()) else 1 / math.sqrt(weight.shape[-1])
        weight.add_(_STEP_AWAY * spread * noise(tuple(weight.shape), 0, "step-away", number).to(weight))
