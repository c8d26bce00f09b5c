"""From a batch of pairs to a loss: noise, reference, policy, then one of the pure losses.

The reference is the base model: the adapter is switched off, and it runs *before* the policy's graph is built, so that
activation checkpointing can never recompute the policy with the adapter off.

Shape letters: B pairs, F latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from densedpo.config import Method
from densedpo.diffusion.grid import shift_level
from densedpo.keys import noise, stream
from densedpo.models.base import VideoModel
from densedpo.models.lora import adapter_off
from densedpo.training.data import PairItem, PairLatents, Visit
from densedpo.training.loss import LossOutput, clip_dpo_loss, dense_dpo_loss, dense_sum_dpo_loss, sft_loss


@dataclass(frozen=True)
class Draw:
    """Noise levels [B] and noises [B, C, F, H, W] of one batch, for side a and side b."""

    t: Tensor
    noise_a: Tensor
    noise_b: Tensor


@dataclass(frozen=True)
class Errors:
    """Per-latent-frame errors [B, F] of both sides."""

    a: Tensor
    b: Tensor


def draw_level(rng: np.random.Generator, shift: float) -> float:
    """Draw one noise level: logit-normal(0, 1) (Stable Diffusion 3), moved towards noise by ``shift``."""
    return shift_level(1 / (1 + float(np.exp(-rng.normal()))), shift)


def draw_batch(visits: Sequence[Visit], shape: tuple[int, ...], seed: int, *, shift: float, share_noise: bool) -> Draw:
    """Draw t and noise for a batch; each visit's depend on (seed, epoch, pair) alone, not on its place in the batch."""
    levels, first, second = [], [], []
    for visit in visits:
        names = (visit.epoch, visit.item.pair_id)
        levels.append(draw_level(stream(seed, "training-t", *names), shift))
        first.append(noise(shape, seed, "training-noise", *names, "a"))
        second.append(first[-1] if share_noise else noise(shape, seed, "training-noise", *names, "b"))
    return Draw(torch.tensor(levels, dtype=torch.float32), torch.stack(first), torch.stack(second))


def frame_errors(model: VideoModel, clean: Tensor, drawn: Tensor, t: Tensor, text: Tensor) -> Float[Tensor, "b f"]:
    """Return mean over C, H, W of (target - prediction)^2, one number a latent frame."""
    prediction = model.predict(model.add_noise(clean, drawn, t), t, text)
    return (model.target(clean, drawn).float() - prediction.float()).square().mean(dim=(1, 3, 4))


def pair_errors(model: VideoModel, latents: Sequence[PairLatents], draw: Draw, text: Tensor) -> Errors:
    """Return both sides' errors from one batched pass."""
    device = text.device
    clean = torch.cat([torch.stack([p.a for p in latents]), torch.stack([p.b for p in latents])]).to(device)
    drawn = torch.cat([draw.noise_a, draw.noise_b]).to(device)
    t = torch.cat([draw.t, draw.t]).to(device)
    errors = frame_errors(model, clean, drawn, t, torch.cat([text, text]))
    return Errors(*errors.chunk(2))


def batch_weight(items: Sequence[PairItem], method: Method) -> float:
    """Return the weight of a batch's terms: what the losses divide by, summed over the *global* batch."""
    if method == "sft":
        return float(sum(len(item.frame_labels) for item in items))
    if method == "dense":
        return float(sum(abs(label) for item in items for label in item.frame_labels))
    if method == "dense_sum":
        return float(sum(any(item.frame_labels) for item in items))
    return float(sum(abs(item.clip_label) for item in items))


def preference_loss(
    items: Sequence[PairItem],
    policy: Errors,
    reference: Errors,
    method: Method,
    *,
    beta: float,
    total_weight: float | None = None,
) -> LossOutput:
    """Return the loss of a preference method from the four errors."""
    device = policy.a.device
    four = (policy.a, policy.b, reference.a, reference.b)
    if method in {"vanilla", "structural"}:
        labels = torch.tensor([item.clip_label for item in items], device=device)
        return clip_dpo_loss(*four, labels, beta=beta, total_weight=total_weight)
    labels = torch.tensor([item.frame_labels for item in items], dtype=torch.float32, device=device)
    if method == "dense_sum":
        segments = items[0].num_segments
        return dense_sum_dpo_loss(*four, labels, beta=beta, num_segments=segments, total_weight=total_weight)
    return dense_dpo_loss(*four, labels, beta=beta, total_weight=total_weight)


def micro_loss(
    model: VideoModel,
    items: Sequence[PairItem],
    latents: Sequence[PairLatents],
    draw: Draw,
    text: Tensor,
    method: Method,
    *,
    beta: float,
    total_weight: float,
) -> LossOutput:
    """Return the loss of one micro-batch, reference first."""
    if method == "sft":
        clean = torch.stack([p.clip for p in latents]).to(text.device)
        errors = frame_errors(model, clean, draw.noise_a.to(text.device), draw.t.to(text.device), text)
        return sft_loss(errors, total_weight=total_weight)
    with torch.no_grad(), adapter_off(model):
        reference = pair_errors(model, latents, draw, text)
    policy = pair_errors(model, latents, draw, text)
    return preference_loss(items, policy, reference, method, beta=beta, total_weight=total_weight)
