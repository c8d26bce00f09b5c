"""A vision-language model in this process: words and images go in, text comes out. Families of Qwen-VL.

folder or hub name -> config, tokenizer, image processor, weights (safetensors only, no code from the folder) -> text

transformers' own processor for these models insists on a video processor, and that on torchvision, which must stay out.
So the few steps that images need are taken here: each image becomes patches, and its one placeholder in the chat
template's text as many as the patches merge into. tests/unit/models/test_vision_language.py holds this against the
original. Never run on a GPU or with real weights by this project; for many GPUs serve the model with vLLM instead.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    Qwen2VLImageProcessorPil,
)

from densedpo.errors import ModelError
from densedpo.keys import seeded_library
from densedpo.models.folder import from_hub

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
PLACEHOLDER = "<|image_pad|>"
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
Part = str | bytes


@dataclass(frozen=True)
class Completion:
    """What the model said; ``whole`` is False where it was cut at the longest length; tokens read and written."""

    text: str
    whole: bool
    tokens_read: int
    tokens_written: int


class VisionLanguageModel:
    """A loaded model. One question at a time; equal questions get equal answers, also sampled ones."""

    def __init__(self, network: Any, tokenizer: Any, images: Any, device: torch.device) -> None:
        """Keep the parts; ``load_vision_language`` makes them."""
        self._network, self._tokenizer, self._images, self._device = network, tokenizer, images, device
        self._image_token = network.config.image_token_id
        self._longest = int(network.config.get_text_config().max_position_embeddings)
        self._ends = _ends(network, tokenizer)

    def complete(
        self, system: str, parts: Sequence[Part], *, max_tokens: int, temperature: float | None = None, seed: str = ""
    ) -> Completion:
        """Return what the model says to words and encoded images (``bytes``) in order.

        Greedy without a temperature; otherwise sampled from the whole distribution, seeded by ``seed``.

        Raises:
            ModelError: if an image cannot be read, or the question is too long for the model or the memory.
        """
        inputs = self.prepare(system, parts)
        read = int(inputs["input_ids"].shape[1])
        if read + max_tokens > self._longest:
            raise ModelError(
                f"{read} tokens of the question and up to {max_tokens} of the answer are more than the model's "
                f"{self._longest}; show fewer or smaller frames"
            )
        sampled = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        how = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=bool(temperature),
            eos_token_id=self._ends,
            pad_token_id=self._ends[0],
            **sampled,
        )
        try:
            with torch.inference_mode(), seeded_library(self._device, "vision-language", "sample", seed):
                made = self._network.generate(**inputs, generation_config=how)
        except torch.OutOfMemoryError:
            raise ModelError(
                "the question does not fit into the device's memory; show fewer or smaller frames"
            ) from None
        written = made[0, read:].tolist()
        text: str = self._tokenizer.decode(written, skip_special_tokens=True)
        return Completion(text, bool(written) and written[-1] in self._ends, read, len(written))

    def prepare(self, system: str, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
        """Return the network's inputs: the chat template's tokens, with as many image tokens as the images take.

        Raises:
            ModelError: if an image cannot be read.
        """
        pictures = [_picture(part) for part in parts if isinstance(part, bytes)]
        content = [{"type": "image"} if isinstance(p, bytes) else {"type": "text", "text": _inert(p)} for p in parts]
        messages = [
            {"role": "system", "content": [{"type": "text", "text": _inert(system)}]},
            {"role": "user", "content": content},
        ]
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if text.count(PLACEHOLDER) != len(pictures):
            raise ModelError(f"the chat template made {text.count(PLACEHOLDER)} places for {len(pictures)} images")
        patches = self._images(images=pictures, return_tensors="pt") if pictures else {}
        merged = self._images.merge_size**2
        counts = [int(grid.prod()) // merged for grid in patches.get("image_grid_thw", [])]
        pieces = text.split(PLACEHOLDER)
        text = pieces[0] + "".join(PLACEHOLDER * n + piece for n, piece in zip(counts, pieces[1:], strict=True))
        tokens = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], **patches}
        inputs["mm_token_type_ids"] = (tokens["input_ids"] == self._image_token).long()
        return {name: value.to(self._device) for name, value in inputs.items()}


def load_vision_language(name: str, *, device: torch.device, dtype: torch.dtype) -> VisionLanguageModel:
    """Load a model of a Qwen-VL family from a folder, or from the hub by its name.

    Raises:
        ModelError: if there is none, it is of another family, lacks a part, or its weights are no safetensors.
    """
    folder = Path(name) if Path(name).is_dir() else from_hub(name, _WANTED)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if config.model_type not in KINDS:
            raise ModelError(
                f"{name}: {config.model_type!r} cannot be run here, only {', '.join(KINDS)}; "
                "serve it (vllm serve) and use --judge vlm"
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        images = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        network = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{name}: cannot be loaded ({' '.join(str(error).split())[:300]})") from None
    if tokenizer.chat_template is None:
        raise ModelError(f"{name}: its tokenizer has no chat template; take the instruction-tuned model")
    if tokenizer.convert_tokens_to_ids(PLACEHOLDER) != config.image_token_id:
        raise ModelError(f"{name}: tokenizer and weights do not agree on the image token")
    return VisionLanguageModel(network.eval().to(device), tokenizer, images, device)


def _ends(network: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the folder's, and the tokenizer's."""
    stated = network.generation_config.eos_token_id
    found = [stated] if isinstance(stated, int) else list(stated or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in found:
        found.append(tokenizer.eos_token_id)
    assert found, "a model that cannot end"
    return found


def _picture(data: bytes) -> Any:
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ModelError(f"an image cannot be read ({error})") from None


def _inert(text: str) -> str:
    """Return ``text`` without the beginnings of special tokens: captions must not pass for images or turns."""
    return text.replace("<|", "< |")
