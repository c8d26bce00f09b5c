"""Held-out pairs: the same measurements at the same noise every time, on files that training never sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from densedpo.config import TrainSettings
from densedpo.models.base import VideoModel
from densedpo.training.data import PairItem, Visit, labels_of, micro_batches
from densedpo.training.draws import DrawLaw
from densedpo.training.loss import Errors, preference_loss
from densedpo.training.objective import Part, Reference, loss_spec, pair_errors

EVAL_DRAWS = 2  # stored draws of (t, noise) a pair


class HeldOut:
    """Measures the preference metrics on held-out pairs; the reference's errors are computed once."""

    def __init__(
        self,
        model: VideoModel,
        reference: Reference,
        items: Sequence[PairItem],
        settings: TrainSettings,
        law: DrawLaw,
        load: Callable[[Sequence[Visit], DrawLaw], Part],
    ) -> None:
        """Keep what is needed; ``items`` may be empty. ``law`` has ``EVAL_DRAWS`` stored draws a pair."""
        self._model, self._reference, self._settings, self._load = model, reference, settings, load
        assert law.stored == EVAL_DRAWS
        self._law = law
        self._items = [] if settings.method == "sft" else list(items)
        self._before: list[Errors] = []

    def __bool__(self) -> bool:
        """Say whether there is anything to measure."""
        return bool(self._items)

    @torch.no_grad()
    def measure(self, beta: float) -> dict[str, float]:
        """Return the metrics under names that begin with ``eval/``; the model is left in training mode."""
        self._model.denoiser.eval()
        policy, items = [], []
        known = bool(self._before)
        for visits in self._parts():
            part = self._load(visits, self._law)
            if not known:
                self._before.append(self._reference.errors(part.visits, part.latents, part.draw, part.text))
            policy.append(pair_errors(self._model, part.latents, part.draw, part.text))
            items += part.items
        # plain DPO, whatever is trained: comparable between runs, and nothing here needs the terms' extra passes
        plain = self._settings.model_copy(update={"loss_type": ("sigmoid",), "loss_weights": None, "sdpo_mu": None})
        spec = loss_spec(plain, beta, items[0].num_segments)
        labels = labels_of(items, policy[0].a.device)
        output = preference_loss(_join(policy), _join(self._before), labels, spec)
        self._model.denoiser.train()
        return {f"eval/{name}": float(value) for name, value in {"loss": output.loss, **output.metrics}.items()}

    def _parts(self) -> list[list[Visit]]:
        """Return visits in parts of one shape; only the most frequent shape is measured, and ``eval_pairs`` at most."""
        shapes = [item.latent_shape for item in self._items]
        usual = max(sorted(set(shapes)), key=shapes.count)
        chosen = [item for item in self._items if item.latent_shape == usual][: self._settings.eval_pairs]
        visits = [[Visit(item, number) for item in chosen] for number in range(EVAL_DRAWS)]
        return [part for draw in visits for part in micro_batches(draw, self._settings.micro_batch_size)]


def _join(found: Sequence[Errors]) -> Errors:
    return Errors(torch.cat([errors.a for errors in found]), torch.cat([errors.b for errors in found]))
