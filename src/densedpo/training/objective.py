"""From a batch of pairs to a loss: reference, policy, then the pure losses.

The reference is measured *before* the policy's graph is built, so that activation checkpointing can never recompute the
policy with the adapter off. Both sides of all pairs go through the denoiser as one batch.

Shape letters: B pairs, F latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from densedpo.config import TrainSettings
from densedpo.models.base import VideoModel
from densedpo.models.text import TextCondition
from densedpo.training.data import PairItem, PairLatents, Visit, labels_of
from densedpo.training.draws import Draw
from densedpo.training.loss import Errors, LossOutput, LossSpec, preference_loss, sft_loss, term_totals


@dataclass(frozen=True)
class Part:
    """What goes through the model at once: visits of one latent shape, their latents, draws and text."""

    visits: Sequence[Visit]
    latents: Sequence[PairLatents]
    draw: Draw
    text: TextCondition

    @property
    def items(self) -> list[PairItem]:
        """The pairs."""
        return [visit.item for visit in self.visits]


@runtime_checkable
class Reference(Protocol):
    """What a preference loss asks for the base model's errors."""

    def errors(
        self, visits: Sequence[Visit], latents: Sequence[PairLatents], draw: Draw, text: TextCondition
    ) -> Errors:
        """Return the base's errors on both sides, without a graph; ask before the policy's graph is built."""
        ...


def loss_spec(settings: TrainSettings, beta: float, num_segments: int = 1) -> LossSpec:
    """Return what the losses depend on, from a run's settings."""
    assert settings.method != "sft"
    return LossSpec(
        method=settings.method,
        terms=settings.weighted_loss_types,
        beta=beta,
        label_smoothing=settings.label_smoothing,
        confidence_weights=settings.confidence_weights,
        tie_alpha=settings.tie_alpha,
        dpop_lambda=settings.dpop_lambda,
        sdpo_mu=settings.sdpo_mu,
        averaging=settings.averaging,
        num_segments=num_segments,
    )


def residuals(model: VideoModel, clean: Tensor, drawn: Tensor, t: Tensor, text: TextCondition) -> Tensor:
    """Return target - prediction on the clip's own latent frames, float32, [B, C, F, H, W]."""
    kind = model.compute_dtype
    with torch.autocast(clean.device.type, kind or torch.bfloat16, enabled=kind is not None):
        prediction = model.predict(model.add_noise(clean, drawn, t), t, text)
    left = model.target(clean, drawn, t).float() - prediction.float()
    return left[:, :, model.lead_frames :]


def frame_errors(model: VideoModel, clean: Tensor, drawn: Tensor, t: Tensor, text: TextCondition) -> Tensor:
    """Return mean over C, H, W of (target - prediction)^2, one number a latent frame, [B, F]."""
    return residuals(model, clean, drawn, t, text).square().mean(dim=(1, 3, 4))


def pair_errors(
    model: VideoModel, latents: Sequence[PairLatents], draw: Draw, text: TextCondition, *, cross: bool = False
) -> Errors:
    """Return both sides' errors from one batched pass; ``cross`` adds the product of their residuals."""
    device = text.device
    clean = torch.cat([torch.stack([p.a for p in latents]), torch.stack([p.b for p in latents])]).to(device)
    drawn = torch.cat([draw.noise_a, draw.noise_b]).to(device)
    t = torch.cat([draw.t, draw.t]).to(device)
    left = residuals(model, clean, drawn, t, TextCondition.cat([text, text]))
    of_a, of_b = left.square().mean(dim=(1, 3, 4)).chunk(2)
    if not cross:
        return Errors(of_a, of_b)
    left_a, left_b = left.detach().chunk(2)
    return Errors(of_a, of_b, (left_a * left_b).mean(dim=(1, 3, 4)))


def clip_errors(model: VideoModel, part: Part) -> Tensor:
    """Return the errors on the real clips at side a's draws, [B, F]."""
    device = part.text.device
    clean = torch.stack([p.clip for p in part.latents]).to(device)
    return frame_errors(model, clean, part.draw.noise_a.to(device), part.draw.t.to(device), part.text)


def batch_totals(items: Sequence[PairItem], settings: TrainSettings) -> tuple[float, ...]:
    """Return what each term of the loss divides by, summed over the *global* batch; items may differ in length."""
    if settings.method == "sft":
        return (float(sum(len(item.frame_labels) for item in items)),)
    spec = loss_spec(settings, beta=1.0)  # totals do not depend on beta
    each = [term_totals(labels_of([item], torch.device("cpu")), spec) for item in items]
    return tuple(float(sum(values)) for values in zip(*each, strict=True))


def part_loss(
    model: VideoModel,
    reference: Reference,
    part: Part,
    settings: TrainSettings,
    *,
    beta: float,
    totals: Sequence[float],
) -> LossOutput:
    """Return the loss of one part, reference first; with the global ``totals`` the parts' losses add up."""
    if settings.method == "sft":
        return sft_loss(clip_errors(model, part), total_weight=totals[0])
    before = reference.errors(part.visits, part.latents, part.draw, part.text)
    policy = pair_errors(model, part.latents, part.draw, part.text, cross=settings.sdpo_mu is not None)
    anchor = clip_errors(model, part) if "sft_clip" in settings.loss_type else None
    labels = labels_of(part.items, part.text.device)
    spec = loss_spec(settings, beta, part.items[0].num_segments)
    return preference_loss(policy, before, labels, spec, totals=totals, clip_errors=anchor)
