"""Held-out pairs: the same measurements at the same noise every time, on files that training never sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from densedpo.config import TrainSettings
from densedpo.models.base import VideoModel
from densedpo.models.lora import adapter_off
from densedpo.training.data import LatentReader, PairItem, Visit, micro_batches
from densedpo.training.objective import Errors, draw_batch, pair_errors, preference_loss

_DRAWS = 2  # (t, noise) draws a pair


class HeldOut:
    """Measures the preference metrics on held-out pairs; the reference's errors are computed once."""

    def __init__(
        self,
        model: VideoModel,
        items: Sequence[PairItem],
        reader: LatentReader,
        texts: Mapping[str, Tensor],
        settings: TrainSettings,
        seed: int,
        t_shift: float,
    ) -> None:
        """Draw the fixed noises; ``items`` may be empty."""
        self._model, self._reader, self._texts, self._settings = model, reader, texts, settings
        self._seed, self._shift = seed, t_shift
        self._items = [] if settings.method == "sft" else list(items)
        self._reference: Errors | None = None

    def __bool__(self) -> bool:
        """Say whether there is anything to measure."""
        return bool(self._items)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the metrics under names that begin with ``eval/``; the model is left in training mode."""
        self._model.denoiser.eval()
        if self._reference is None:
            with adapter_off(self._model):
                self._reference = self._errors()
        policy = self._errors()
        order = [visit.item for part in self._parts() for _ in range(_DRAWS) for visit in part]
        output = preference_loss(order, policy, self._reference, self._settings.method, beta=self._settings.beta)
        self._model.denoiser.train()
        return {f"eval/{name}": float(value) for name, value in {"loss": output.loss, **output.metrics}.items()}

    def _parts(self) -> list[list[Visit]]:
        """Return the items in parts of one length; only the most frequent length is measured."""
        lengths = [len(item.frame_labels) for item in self._items]
        usual = max(sorted(set(lengths)), key=lengths.count)
        visits = [Visit(item, 0) for item in self._items if len(item.frame_labels) == usual]
        return micro_batches(visits, self._settings.micro_batch_size)

    def _errors(self) -> Errors:
        found = []
        for part in self._parts():
            latents = [self._reader.read(visit.item) for visit in part]
            text = torch.stack([self._texts[visit.item.caption] for visit in part])
            for number in range(_DRAWS):
                draw = draw_batch(
                    [Visit(visit.item, -1 - number) for visit in part],  # epochs of training are never negative
                    tuple(latents[0].a.shape),
                    self._seed,
                    shift=self._shift,
                    share_noise=self._settings.share_noise,
                )
                found.append(pair_errors(self._model, latents, draw, text))
        return Errors(torch.cat([e.a for e in found]), torch.cat([e.b for e in found]))
