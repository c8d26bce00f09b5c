"""Untrained Wan 2.2 models, tiny, in diffusers' layout: A14B with its two denoisers, TI2V-5B with its other VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from densedpo.keys import seeded_initialisation
from densedpo.miniworld.base_flow import build_tokenizer
from densedpo.store.files import write_json

FRAMES, TEXT_LENGTH, BOUNDARY = 9, 16, 0.875
SIZE_PX = {"a14b": 32, "ti2v": 64}
_VAE: dict[str, Any] = {"base_dim": 8, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [True, True]}


def write_tiny_wan22(folder: Path, kind: str) -> None:
    """Write a model of kind ``a14b`` or ``ti2v`` whose latent statistics are not trivial."""
    with seeded_initialisation(17):
        tokenizer = build_tokenizer()
        text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
            )
        )
        vae, channels = (_plain_vae(), 4) if kind == "a14b" else (_residual_vae(), 6)
        experts = [_denoiser(channels) for _ in range(2 if kind == "a14b" else 1)]
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        transformer=experts[0].eval(),
        transformer_2=experts[1].eval() if kind == "a14b" else None,
        boundary_ratio=BOUNDARY if kind == "a14b" else None,
        expand_timesteps=kind == "ti2v",
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    size = {"num_frames": FRAMES, "height": SIZE_PX[kind], "width": SIZE_PX[kind], "fps": 8.0}
    write_json(folder / "densedpo.json", {"inference": {**size, "steps": 6, "text_length": TEXT_LENGTH}})


def _denoiser(channels: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=24,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    )


def _plain_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        z_dim=4,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 0.8, 1.5, 2.0],
        scale_factor_temporal=4,
        scale_factor_spatial=4,
        **_VAE,
    )


def _residual_vae() -> AutoencoderKLWan:
    """As in TI2V-5B: patches of two pixels before the first layer, shortcuts around every change of size."""
    return AutoencoderKLWan(
        z_dim=6,
        latents_mean=[0.1, -0.2, 0.3, 0.0, 0.2, -0.1],
        latents_std=[0.5, 0.8, 1.5, 2.0, 0.7, 1.1],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        decoder_base_dim=8,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
        **_VAE,
    )
