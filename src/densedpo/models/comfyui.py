"""ComfyUI's names for the weights of a LoRA, both ways; ``lora.py`` writes and reads the files.

ComfyUI names a layer as the family's original code does, behind ``diffusion_model.``; a layer's update is B A, times
alpha / rank where the file has ``LAYER.alpha``. We write no alpha and let B hold the factor: diffusers, which reads
this layout too, takes an alpha inside the blocks only and refuses a file with one elsewhere. Reading honours an alpha.

A new family adds its table to ``LAYERS``. Layers that are one in ComfyUI and several here are in ``comfyui_fused.py``.
"""

from __future__ import annotations

import re

from densedpo.errors import ModelError

PREFIX = "diffusion_model."
ALPHA = ".alpha"
# By family: a layer's name in diffusers and in ComfyUI; {} stands for the number of the block.
LAYERS: dict[str, dict[str, str]] = {
    "wan": {
        **{
            f"blocks.{{}}.{attention}.{ours}": f"blocks.{{}}.{theirs}.{layer}"
            for attention, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
            for ours, layer in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
        },
        "blocks.{}.ffn.net.0.proj": "blocks.{}.ffn.0",
        "blocks.{}.ffn.net.2": "blocks.{}.ffn.2",
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.time_proj": "time_projection.1",
        "proj_out": "head.head",
    },
    "cogvideox": {
        **{f"transformer_blocks.{{}}.attn1.to_{part}": f"blocks.{{}}.{part}" for part in ("q", "k", "v")},
        "transformer_blocks.{}.attn1.to_out.0": "blocks.{}.attn_out",
        "transformer_blocks.{}.ff.net.0.proj": "blocks.{}.ff_proj",
        "transformer_blocks.{}.ff.net.2": "blocks.{}.ff_out",
        **{f"transformer_blocks.{{}}.{norm}.linear": f"blocks.{{}}.{norm}.linear" for norm in ("norm1", "norm2")},
        **{f"time_embedding.linear_{number}": f"time_embedding_linear_{number}" for number in (1, 2)},
        **{layer: layer for layer in ("patch_embed.proj", "patch_embed.text_proj", "norm_out.linear", "proj_out")},
    },
    "ltx": {
        **{
            f"transformer_blocks.{{}}.{layer}": f"transformer_blocks.{{}}.{layer}"
            for layer in (
                *(f"{attention}.{part}" for attention in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v")),
                *("attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"),
            )
        },
        **{f"caption_projection.linear_{number}": f"caption_projection.linear_{number}" for number in (1, 2)},
        **{
            f"time_embed.{layer}": f"adaln_single.{layer}"
            for layer in ("emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2", "linear")
        },
        "proj_in": "patchify_proj",
        "proj_out": "proj_out",
    },
    "hunyuan_video": {
        **{
            f"transformer_blocks.{{}}.{ours}": f"double_blocks.{{}}.{theirs}"
            for ours, theirs in (
                *(("attn.to_out.0", "img_attn_proj"), ("attn.to_add_out", "txt_attn_proj")),
                *(("ff.net.0.proj", "img_mlp.fc1"), ("ff.net.2", "img_mlp.fc2")),
                *(("ff_context.net.0.proj", "txt_mlp.fc1"), ("ff_context.net.2", "txt_mlp.fc2")),
                *(("norm1.linear", "img_mod.linear"), ("norm1_context.linear", "txt_mod.linear")),
            )
        },
        "single_transformer_blocks.{}.proj_out": "single_blocks.{}.linear2",
        "single_transformer_blocks.{}.norm.linear": "single_blocks.{}.modulation.linear",
        **{
            f"context_embedder.token_refiner.refiner_blocks.{{}}.{ours}": (
                f"txt_in.individual_token_refiner.blocks.{{}}.{theirs}"
            )
            for ours, theirs in (
                *(("attn.to_out.0", "self_attn_proj"), ("norm_out.linear", "adaLN_modulation.1")),
                *(("ff.net.0.proj", "mlp.fc1"), ("ff.net.2", "mlp.fc2")),
            )
        },
        "context_embedder.proj_in": "txt_in.input_embedder",
        "proj_out": "final_layer.linear",
    },
}
_HALVES = {"lora_down": "lora_A", "lora_up": "lora_B"}  # the older names of the two halves
_KEY = re.compile(r"(?P<layer>.+)\.(?P<part>(?:lora_A|lora_B|lora_down|lora_up)\.weight|alpha)")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def to_comfyui(family: str, name: str) -> str:
    """Return ComfyUI's name of one of our LoRA weights, ``LAYER.lora_A.weight`` or ``LAYER.lora_B.weight``.

    Raises:
        ModelError: if ComfyUI's name of the layer is not known.
    """
    layer, _, half = name.partition(".lora_")
    found = _renamed(layer, LAYERS.get(family, {}))
    if found is None:
        raise ModelError(
            f"{layer}: its name in ComfyUI is not known; leave it out of lora_targets, or set lora_format to diffusers"
        )
    return f"{PREFIX}{found}.lora_{half}"


def from_comfyui(family: str, key: str) -> str:
    """Return our name, ``LAYER.lora_A.weight``, ``LAYER.lora_B.weight`` or ``LAYER.alpha``; an unknown key stays."""
    found = split_key(key)
    layer = found and _renamed(found[0], {theirs: ours for ours, theirs in LAYERS.get(family, {}).items()})
    return key if not found or layer is None else f"{layer}.{found[1]}"


def split_key(key: str) -> tuple[str, str] | None:
    """Return ComfyUI's layer and our name of its part, ``lora_A.weight``, ``lora_B.weight`` or ``alpha``."""
    found = _KEY.fullmatch(key.removeprefix(PREFIX))
    if not found:
        return None
    half, dot, rest = found["part"].partition(".")
    return found["layer"], f"{_HALVES.get(half, half)}{dot}{rest}"


def _renamed(layer: str, names: dict[str, str]) -> str | None:
    number = NUMBER.search(layer)
    name = names.get(NUMBER.sub("{}", layer, count=1))
    return name and name.replace("{}", number[0] if number else "")
