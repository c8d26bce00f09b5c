"""Denoising with a model: the loop shared by pairs, samples and evaluation.

All branches go through the denoiser as one batch: items times the two guidance branches. Items may start at different
noise levels as long as they share the rest of the grid.

Shape letters: B items.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densedpo.diffusion.flow import classifier_free
from densedpo.errors import ModelError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.step_cache import cached_part, forget_steps
from densedpo.models.text import TextCondition
from densedpo.observe import warn

_DECODE_PIXELS = (
    2**24
)  # frames times height times width decoded together: a full-size clip alone, many tiny ones at once


@torch.no_grad()
def denoise(
    model: VideoModel,
    start: Tensor,
    levels: Sequence[float | Tensor],
    text: TextCondition,
    null_text: TextCondition,
    cfg: float,
) -> Tensor:
    """Denoise ``start`` [B, C, F, H, W] through ``levels``, from the first to the last, and return the latents.

    Args:
        model: the model.
        start: samples at noise level ``levels[0]``.
        levels: falling noise levels, the last one usually 0; each a number or a [B] tensor.
        text: conditions of the B items.
        null_text: condition of the empty prompt, as one item.
        cfg: guidance scale; 1 runs the conditional branch alone.
    """
    sample = start.to(torch.float32)
    count = len(sample)
    guided = cfg != 1.0
    both = TextCondition.cat([text, null_text.expand(count)]) if guided else text
    forget_steps(model)
    for level, following in pairwise(levels):
        t = torch.as_tensor(level, dtype=torch.float32, device=sample.device).expand(count)
        next_t = torch.as_tensor(following, dtype=torch.float32, device=sample.device).expand(count)
        if guided:
            prediction = predict_in_parts(model, torch.cat([sample, sample]), torch.cat([t, t]), both)
            prediction = classifier_free(prediction[:count], prediction[count:], cfg)
        else:
            prediction = predict_in_parts(model, sample, t, both)
        sample = model.step(sample, prediction, t, next_t)
    return sample


def predict_in_parts(model: VideoModel, sample: Tensor, t: Tensor, text: TextCondition) -> Tensor:
    """Return the prediction for a batch, float32, from one pass or from several where the device has no room for one.

    The size that fits is found by halving and kept with the model.

    Raises:
        ModelError: if not even one item fits.
    """
    while True:
        size = min(len(sample), model.most_at_once or len(sample))
        try:
            parts = []
            for number, first in enumerate(range(0, len(sample), size)):
                part = slice(first, first + size)
                with cached_part(model, number):
                    parts.append(model.predict(sample[part], t[part], text[part]).float())
            return torch.cat(parts)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise ModelError(
                    f"{model.folder}: the device has no room for one video of {tuple(sample.shape[1:])} latents; make "
                    "clips smaller or shorter, or keep weights in fewer bits (see `densedpo doctor --size`)"
                ) from error
            model.most_at_once = (size + 1) // 2
            forget_steps(model)
            warn(f"no room for {size} videos at once; going on with {model.most_at_once}")


def decode_frames(model: VideoModel, latents: Tensor) -> list[NDArray[np.uint8]]:
    """Decode latents [B, C, F, H, W] to 8-bit frames [T, H, W, 3] each, as many at once as a fixed budget of pixels."""
    stride = model.spatial_stride
    pixels = model.temporal_stride * latents.shape[2] * latents.shape[3] * latents.shape[4] * stride * stride
    parts = latents.split(max(1, _DECODE_PIXELS // pixels))
    with model.in_use(model.vae):
        return [to_frames(video) for part in parts for video in model.decode(part)]


def to_frames(video: Tensor) -> NDArray[np.uint8]:
    """Map one video [3, T, H, W] in [-1, 1] to frames [T, H, W, 3] of 8 bits."""
    scaled = ((video.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(1, 2, 3, 0).cpu().numpy()


def to_video(frames: NDArray[np.uint8]) -> Tensor:
    """Map frames [T, H, W, 3] of 8 bits to one video [3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def sample_latents(
    model: VideoModel, prompts: list[str], noise_ids: list[tuple[str, int]], *, steps: int, cfg: float, shift: float
) -> Tensor:
    """Sample latents [B, C, F, H, W] for prompts from noise named by (prompt id, seed): the same for every model."""
    d = model.defaults
    shape = model.latent_shape(d.num_frames, d.height, d.width)
    start = torch.stack([noise(shape, "sample", "noise", *ids) for ids in noise_ids])
    text, null_text = model.encode_text(prompts), model.encode_text([""])
    return denoise(model, start.to(text.device), model.grid(steps, shift), text, null_text, cfg)
