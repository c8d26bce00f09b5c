"""Untrained models of the Qwen-VL families, tiny, in transformers' layout, with a tokenizer of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from densedpo.keys import seeded_initialisation

_NAMES = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
SPECIAL = [f"<|{name}|>" for name in _NAMES]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATCH_PX = 8
LONGEST = 16384


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes and Qwen's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def write_tiny_vision_language(folder: Path, kind: str) -> None:
    """Write a model of kind ``qwen2_5_vl`` or ``qwen3_vl``."""
    tokenizer = build_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "im_end")}
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": LONGEST, "head_dim": 16,
        "bos_token_id": None, "eos_token_id": ids["im_end"], "pad_token_id": None,
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    tokens = {
        "image_token_id": ids["image_pad"], "video_token_id": ids["video_pad"],
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }  # fmt: skip
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": PATCH_PX,
                              "intermediate_size": 24, "out_hidden_size": 32}  # fmt: skip
    with seeded_initialisation(23):
        if kind == "qwen3_vl":
            shape = {**vision, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
            network = Qwen3VLForConditionalGeneration(
                Qwen3VLConfig(text_config={**text, "rope_parameters": rope}, vision_config=shape, **tokens)
            )
        else:
            shape = {**vision, "window_size": 32, "fullatt_block_indexes": [1]}
            network = Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(text_config={**text, "rope_parameters": rope}, vision_config=shape, **tokens)
            )
    network.generation_config.eos_token_id = ids["im_end"]
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH_PX, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 128 * 128}
    )
    images.save_pretrained(folder)
