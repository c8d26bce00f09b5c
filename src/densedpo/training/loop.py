"""The training loop: batch, reference, policy, finite check, step, log, save.

All state is the adapter, the optimizer's moments and the step number; data order and noise are functions of
(seed, step). A run that was killed and repeated therefore equals one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from densedpo.config import TrainSettings
from densedpo.errors import CheckpointError, TrainingError
from densedpo.models.base import VideoModel
from densedpo.models.lora import add_lora, lora_tensors, restore_lora
from densedpo.observe import MetricsLog, track
from densedpo.training.checkpoint import load_latest, optimizer_tensors, restore_optimizer, save_checkpoint
from densedpo.training.data import LatentReader, PairItem, batch_at, micro_batches
from densedpo.training.heldout import HeldOut
from densedpo.training.objective import batch_weight, draw_batch, micro_loss


@dataclass
class Trainer:
    """One run: a model with an adapter, data, settings and a folder for checkpoints and ``metrics.jsonl``."""

    model: VideoModel
    items: Sequence[PairItem]
    held_out: Sequence[PairItem]
    settings: TrainSettings
    seed: int
    folder: Path
    identity: str  # digest of settings, labels and base: a checkpoint of another run is refused

    def __post_init__(self) -> None:
        """Add the adapter and build the optimizer."""
        settings = self.settings
        alpha = settings.lora_alpha or settings.lora_rank
        self.parameters = add_lora(self.model, rank=settings.lora_rank, alpha=alpha, seed=self.seed)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=(0.9, 0.999), weight_decay=settings.weight_decay
        )
        if settings.gradient_checkpointing:
            self.model.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        self.reader = LatentReader()
        self.texts = _encode_captions(self.model, [*self.items, *self.held_out])
        self.t_shift = settings.t_shift or self.model.defaults.shift

    def train(self) -> int:
        """Run from the newest checkpoint to ``max_steps``; return the step that was resumed from.

        Raises:
            TrainingError: at the first non-finite loss or gradient, before the weights move.
            CheckpointError: if the folder holds a checkpoint of another run.
        """
        start = self._restore()
        log = MetricsLog(self.folder / "metrics.jsonl", keep_up_to_step=start)
        held_out = HeldOut(self.model, self.held_out, self.reader, self.texts, self.settings, self.seed, self.t_shift)
        self.model.denoiser.train()
        steps = range(start, self.settings.max_steps)
        for step in track(steps, f"training ({self.settings.method})", total=self.settings.max_steps, done=start):
            row = self.train_step(step)
            if held_out and ((step + 1) % self.settings.eval_every == 0 or step + 1 == self.settings.max_steps):
                row |= held_out.measure()
            log.write({"step": step + 1, **row})
            if (step + 1) % self.settings.save_every == 0 or step + 1 == self.settings.max_steps:
                log.sync()
                self._save(step + 1)
        log.close()
        self.model.denoiser.eval()
        return start

    def train_step(self, step: int) -> dict[str, float]:
        """Do one optimizer step on the batch of ``step`` and return its metrics."""
        settings = self.settings
        batch = batch_at(self.items, self.seed, step, settings.batch_size)
        weight = batch_weight([visit.item for visit in batch], settings.method)
        self.optimizer.zero_grad(set_to_none=True)
        loss, metrics = 0.0, MetricsMean()
        for part in micro_batches(batch, settings.micro_batch_size):
            items = [visit.item for visit in part]
            latents = [self.reader.read(item) for item in items]
            draw = draw_batch(
                part, tuple(latents[0].a.shape), self.seed, shift=self.t_shift, share_noise=settings.share_noise
            )
            text = torch.stack([self.texts[item.caption] for item in items])
            output = micro_loss(
                self.model, items, latents, draw, text, settings.method, beta=settings.beta, total_weight=weight
            )
            if not bool(torch.isfinite(output.loss)):
                raise TrainingError(f"step {step + 1}: the loss is not finite; {_named(items)}; nothing was changed")
            output.loss.backward()
            loss += output.loss.item()
            metrics.add(output.metrics)
        norm = nn.utils.clip_grad_norm_(self.parameters, settings.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            items = [visit.item for visit in batch]
            raise TrainingError(f"step {step + 1}: the gradient is not finite; {_named(items)}; nothing was changed")
        rate = learning_rate(settings, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return {"loss": loss, "learning_rate": rate, "grad_norm": norm.item(), **metrics.mean()}

    def _save(self, step: int) -> None:
        tensors = {f"lora.{k}": v for k, v in lora_tensors(self.model).items()} | optimizer_tensors(self.optimizer)
        save_checkpoint(self.folder / "checkpoints", step, tensors, {"identity": self.identity})

    def _restore(self) -> int:
        checkpoint = load_latest(self.folder / "checkpoints")
        if checkpoint is None:
            return 0
        if checkpoint.state.get("identity") != self.identity:
            raise CheckpointError(
                f"{self.folder}: holds a run with other settings, labels or base model; choose another --name, or "
                f"remove this folder"
            )
        prefix = "lora."
        restore_lora(
            self.model, {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
        )
        restore_optimizer(self.optimizer, checkpoint.tensors)
        return checkpoint.step


class MetricsMean:
    """Mean of metrics over micro-batches, weighted by their non-tie frames."""

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[str, float] = {}
        self._weight = 0.0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add one micro-batch."""
        weight = float(metrics.get("non_tie_frames", torch.ones(())))
        self._weight += weight
        for name, value in metrics.items():
            share = 1.0 if name == "non_tie_frames" else weight
            self._sums[name] = self._sums.get(name, 0.0) + share * float(value)

    def mean(self) -> dict[str, float]:
        """Return the means; counts are summed."""
        return {n: v if n == "non_tie_frames" else v / self._weight for n, v in self._sums.items() if self._weight}


def _named(items: Sequence[PairItem]) -> str:
    """Name the pairs of a batch in one line."""
    names = sorted({item.pair_id for item in items})
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"pairs {', '.join(names[:3])}{rest}; lower learning_rate, or look at these pairs"


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Return the rate at ``step``: linear warm-up from 0, then constant or linear down to 0 at the end."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.lr_schedule == "constant":
        return settings.learning_rate * warm
    left = (settings.max_steps - step) / max(1, settings.max_steps - settings.warmup_steps)
    return settings.learning_rate * min(warm, left)


def _encode_captions(model: VideoModel, items: Sequence[PairItem]) -> dict[str, Tensor]:
    """Return one text embedding a caption, [L, D]."""
    captions = sorted({item.caption for item in items})
    return {caption: model.encode_text([caption])[0] for caption in captions}
