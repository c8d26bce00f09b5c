"""Untrained CogVideoX models, tiny, in diffusers' layout: as 2B (sinusoidal, DDIM), as 5B (rotary, DPM) and as 1.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel

from densedpo.keys import seeded_initialisation
from densedpo.miniworld.base_flow import build_tokenizer
from densedpo.store.files import write_json

HEIGHT, WIDTH = 32, 48
FRAMES = {"2b": 9, "5b": 9, "1.5": 17}
TEXT_LENGTH = 16
CHANNELS = 4
SCHEDULE: dict[str, Any] = {
    **{"prediction_type": "v_prediction", "clip_sample": False, "rescale_betas_zero_snr": True},
    "timestep_spacing": "trailing",
}
# trained for another size than the tests', so that positions are stretched (5B) or cut out (1.5)
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "2b": {"sample_height": 4, "sample_width": 6, "sample_frames": 9},
    "5b": {"sample_height": 6, "sample_width": 10, "sample_frames": 9, "use_rotary_positional_embeddings": True},
    "1.5": {
        **{"sample_height": 30, "sample_width": 30, "sample_frames": 17, "use_rotary_positional_embeddings": True},
        **{"patch_size_t": 2, "patch_bias": False},
    },
}


def write_tiny_cogvideox(folder: Path, kind: str) -> None:
    """Write a model of one kind whose scaling factor is not trivial."""
    with seeded_initialisation(13):
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
        vae = AutoencoderKLCogVideoX(
            latent_channels=CHANNELS,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            sample_height=HEIGHT,
            sample_width=WIDTH,
            scaling_factor=1.6,
        )
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=32,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            time_embed_dim=32,
            text_embed_dim=24,
            num_layers=2,
            max_text_seq_length=TEXT_LENGTH,
            **_TRANSFORMERS[kind],
        )
    scheduler = (
        CogVideoXDDIMScheduler(**SCHEDULE, snr_shift_scale=3.0)
        if kind == "2b"
        else CogVideoXDPMScheduler(**SCHEDULE, snr_shift_scale=1.0)
    )
    pipeline = CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=scheduler,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    settings = {"num_frames": FRAMES[kind], "height": HEIGHT, "width": WIDTH, "steps": 4}
    write_json(folder / "densedpo.json", {"inference": settings})
