"""CLIP and SigLIP as an adapter, on untrained tiny models in a process of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from densedpo.clips.encode import write_video
from densedpo.keys import seeded_initialisation, stream
from densedpo.outside.environments import ADAPTERS
from densedpo.outside.pipe import Adapter
from densedpo.outside.wire import Item, Scored

LENGTH = 8


def write_tiny(folder: Path, kind: str) -> None:
    letters = {letter: place for place, letter in enumerate("_^$abcdefghijklmnopqrstuvwxyz ")}
    inner = Tokenizer(models.WordLevel(letters, unk_token="_"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="_", eos_token="$", bos_token="^").save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(letters), "max_position_embeddings": LENGTH, "projection_size": 16}
    text |= {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    vision = {**small, "image_size": 16, "patch_size": 8}
    with seeded_initialisation(5):
        if kind == "clip":
            network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        else:
            network = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    network.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    if kind == "clip":
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    else:
        SiglipImageProcessorPil(size=size).save_pretrained(folder)


def scored(tmp_path: Path, folder: Path, items: list[Item]) -> list[Scored]:
    command = [sys.executable, str(ADAPTERS / "clip.py"), "--weights", str(folder), "--device", "cpu", "--frames", "4"]
    with Adapter(command, tmp_path / "log", start_timeout_s=120, timeout_s=60) as adapter:
        found = dict(adapter.score(items))
    return [found[place] for place in range(len(items))]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_alignment_follows_prompt_and_picture(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "weights"
    write_tiny(folder, kind)
    noise = stream(0, "clip-test").integers(0, 256, (8, 24, 32, 3), dtype=np.uint8)
    videos = {"moving": noise, "still": np.repeat(noise[:1], 8, axis=0)}
    for name, frames in videos.items():
        write_video(tmp_path / f"{name}.mp4", frames, 8.0)
    moving, still = (tmp_path / f"{name}.mp4" for name in videos)
    prompts = ["a dog", "zebra", "a dog and much more than the model reads of a prompt"]
    said = scored(tmp_path, folder, [*(Item(moving, prompt) for prompt in prompts), Item(still, "a dog"), Item(moving)])
    assert [one.error for one in said] == [""] * 5
    alignments = [one.scores["text_alignment"] for one in said]
    assert all(-1 <= value <= 1 for value in alignments)
    assert len({round(value, 6) for value in alignments[:2] + alignments[3:4]}) == 3
    assert said[3].scores["frame_likeness"] == pytest.approx(1, abs=1e-3)
    assert said[0].scores["frame_likeness"] < 0.9999


def test_a_pickle_is_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    write_tiny(folder, "clip")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Exception, match="did not start"):
        scored(tmp_path, folder, [Item(tmp_path / "x.mp4")])
