"""Small pairs of random latents, and a model ready to be trained on them, for the tests of references."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from densedpo.config import TrainSettings
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.full import trainable
from densedpo.models.lora import add_lora
from densedpo.models.text_book import TextBook
from densedpo.store.files import sha256_file
from densedpo.training.data import LatentReader, PairItem, Visit
from densedpo.training.draws import DrawLaw
from densedpo.training.objective import Part

SHAPE = (8, 5, 4, 4)
LABELS = (1.0, 1.0, -0.5, 0.0, -1.0)
CAPTIONS = ("a red square", "a blue circle")


def make_items(folder: Path, count: int, *, shape: tuple[int, int, int, int] = SHAPE) -> list[PairItem]:
    """Write pairs of random latents; every second one has its labels the other way round."""
    items = []
    for number in range(count):
        path = folder / f"p{number}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({side: noise(shape, 0, "test-pairs", number, side) for side in ("clip", "a", "b")}, path)
        sign = -1.0 if number % 2 else 1.0
        items.append(
            PairItem(
                pair_id=f"p{number}",
                clip_id=f"c{number}",
                source_sha256=f"s{number}",
                caption=CAPTIONS[number % 2],
                latents_path=path,
                sha256_latents=sha256_file(path),
                num_segments=shape[1],
                frame_labels=tuple(sign * label for label in LABELS[: shape[1]]),
                frame_ties=tuple(label == 0 for label in LABELS[: shape[1]]),
                clip_label=sign,
                clip_tie=False,
                eta=0.7,
                latent_shape=shape,
            )
        )
    return items


def make_model(base: VideoModel, settings: TrainSettings) -> VideoModel:
    """Copy a model and make trainable what ``settings`` says, as the trainer does."""
    model = copy.deepcopy(base)
    if settings.tuning == "full":
        trainable(model)
        model.compute_dtype = torch.bfloat16 if settings.dtype == "bfloat16" else None
    else:
        add_lora(model, rank=settings.lora_rank, alpha=settings.lora_rank, seed=0, targets=settings.lora_targets)
    model.denoiser.train()
    return model


def train_a_little(model: VideoModel) -> None:
    """Move every trainable weight."""
    with torch.no_grad():
        for name, weight in model.denoiser.named_parameters():
            if weight.requires_grad:
                weight.add_((0.05 * noise(tuple(weight.shape), 1, "test-train", name)).to(weight))


def make_part(items: Sequence[PairItem], law: DrawLaw, texts: TextBook, epoch: int = 0) -> Part:
    """Read and draw for one part, as the trainer does."""
    reader = LatentReader()
    visits = [Visit(item, epoch) for item in items]
    text = texts.stack([item.caption for item in items])
    return Part(visits, [reader.read(item) for item in items], law.draw(visits, items[0].latent_shape), text)
