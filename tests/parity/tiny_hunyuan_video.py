"""An untrained HunyuanVideo, tiny, in diffusers' layout: with its Llama, its CLIP and their tokenizers."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

from densedpo.keys import seeded_initialisation
from densedpo.miniworld.base_flow import build_tokenizer
from densedpo.store.files import write_json

FRAMES, HEIGHT, WIDTH = 9, 48, 64
CHANNELS = 4
TEXT_LENGTH = 40  # holds what the tiny tokenizer makes of the instruction's end, and the caption
GUIDANCE = 4.0


def write_tiny_hunyuan_video(folder: Path, *, distilled: bool = True, single_layers: int = 1) -> None:
    """Write a model; ``distilled`` says whether it is told a guidance scale."""
    with seeded_initialisation(13):
        tokenizer = build_tokenizer()
        words = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
        llama = LlamaModel(
            LlamaConfig(
                hidden_size=24,
                intermediate_size=32,
                num_hidden_layers=4,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=256,
                **words,
            )
        )
        clip = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=77,
                **words,
            )
        )
        vae = AutoencoderKLHunyuanVideo(
            latent_channels=CHANNELS,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=2.5,
        )
        transformer = HunyuanVideoTransformer3DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=single_layers,
            num_refiner_layers=1,
            text_embed_dim=24,
            pooled_projection_dim=16,
            rope_axes_dim=(4, 6, 6),
            guidance_embeds=distilled,
        )
    pipeline = HunyuanVideoPipeline(
        text_encoder=llama.eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=clip.eval(),
        tokenizer_2=tokenizer,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    settings = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "text_length": TEXT_LENGTH, "steps": 4}
    write_json(folder / "densedpo.json", {"inference": settings | {"embedded_guidance": GUIDANCE}})
