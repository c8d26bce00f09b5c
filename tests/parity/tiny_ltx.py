"""Untrained LTX-Video models, tiny, in diffusers' layout: as 0.9.0 (plain VAE) or as 0.9.5 (a VAE that denoises)."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel

from densedpo.keys import noise, seeded_initialisation
from densedpo.miniworld.base_flow import build_tokenizer
from densedpo.store.files import write_json

FRAMES, HEIGHT, WIDTH = 17, 64, 96
TEXT_LENGTH = 16
CHANNELS = 8
_SHIFTED = {
    **{"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1},
    **{"base_image_seq_len": 1024, "max_image_seq_len": 4096},
}
_DENOISING_VAE = {
    **{"decoder_inject_noise": (False, True, True, True), "timestep_conditioning": True},
    **{"upsample_residual": (True, True, True), "upsample_factor": (2, 2, 2)},
    **{"decoder_block_out_channels": (8, 16, 32), "decoder_layers_per_block": (1, 1, 1, 1)},
    "decoder_spatio_temporal_scaling": (True, True, True),
}
_PLAIN_VAE = {"decoder_block_out_channels": (8, 8, 8, 8), "decoder_layers_per_block": (1, 1, 1, 1, 1)}


def write_tiny_ltx(folder: Path, *, condition: bool) -> None:
    """Write a model whose latent statistics and scaling are not trivial."""
    with seeded_initialisation(11):
        tokenizer = build_tokenizer()
        text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=24,
                d_kv=8,
                d_ff=32,
                num_layers=1,
                num_heads=2,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
            )
        )
        vae = AutoencoderKLLTXVideo(
            latent_channels=CHANNELS,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            scaling_factor=0.8,
            **(_DENOISING_VAE if condition else _PLAIN_VAE),
        )
        transformer = LTXVideoTransformer3DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=2,
            attention_head_dim=24,
            cross_attention_dim=48,
            num_layers=2,
            caption_channels=24,
        )
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            if "per_channel_scale" in name:  # zero at first: no grain
                weight.copy_(0.1 * noise(tuple(weight.shape), 0, name))
    vae.latents_mean = torch.linspace(-0.4, 0.5, CHANNELS)
    vae.latents_std = torch.linspace(0.2, 0.6, CHANNELS)
    pipeline = (LTXConditionPipeline if condition else LTXPipeline)(
        scheduler=FlowMatchEulerDiscreteScheduler(**({} if condition else _SHIFTED)),
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    settings = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "text_length": TEXT_LENGTH, "steps": 4}
    write_json(folder / "densedpo.json", {"inference": settings})
