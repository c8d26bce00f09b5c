"""The trainer: batch, reference, policy, finite check, step, log, watch, save.

All state is the trained weights, the optimizer's moments, their moving average and the step; data order and noise are
functions of (seed, step), and alarms of the logged rows. A run that was killed and repeated therefore equals one that
was not, bit for bit on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from densedpo.errors import CheckpointError, TrainingError
from densedpo.models.activation import apply_policy, choose_policy
from densedpo.models.base import VideoModel
from densedpo.models.execution import compile_blocks, set_attention
from densedpo.models.full import save_denoiser, trainable
from densedpo.models.load import load_model
from densedpo.models.lora import add_lora, save_lora
from densedpo.models.storage import keep_stored
from densedpo.models.text_book import TextBook
from densedpo.observe import MetricsLog, read_jsonl, say, track, warn
from densedpo.training.beta import AutoBeta, describe
from densedpo.training.callbacks import Callback
from densedpo.training.checkpoint import load_latest, save_checkpoint
from densedpo.training.data import (
    LatentReader,
    PairItem,
    Visit,
    batch_at,
    micro_batches,
    tie_similar_frames,
    usable_items,
)
from densedpo.training.draws import DrawLaw
from densedpo.training.guards import Alarm, EarlyStopping, Guards
from densedpo.training.heldout import EVAL_DRAWS, HeldOut
from densedpo.training.loss import LossOutput
from densedpo.training.metrics import StepMetrics
from densedpo.training.objective import Part, Reference, batch_totals, part_loss
from densedpo.training.optimizer import Ema, learning_rate, make_optimizer, set_learning_rate
from densedpo.training.options import DenseDPOConfig, TrainOutput, run_digest
from densedpo.training.parallel import Parallel
from densedpo.training.probe import Probe
from densedpo.training.reference import AdapterOff, CachedReference, FrozenCopy, precompute, verify
from densedpo.training.selfcheck import self_check
from densedpo.training.state import TrainedState
from densedpo.training.trackers import make_trackers


class DenseDPOTrainer:
    """Trains one model on labelled pairs; see ``docs/guides/python-training.md``.

    Args:
        model: a loaded base model without adapter, or a name for ``load_model``.
        config: the settings.
        train_dataset: pairs to learn from (``load_items`` for a project, ``dataset_from_rows`` for TRL-style rows).
        eval_dataset: held-out pairs; may be empty.
        callbacks: told about every step, measurement, alarm and save.
        identity: digest of what the run depends on; a checkpoint of another run is refused. By default made from
            the settings, the base model and the pairs.

    Raises:
        TrainingError: if a pair's labels are unusable, or there is nothing to learn from.
    """

    def __init__(
        self,
        model: VideoModel | str,
        config: DenseDPOConfig,
        train_dataset: Sequence[PairItem],
        eval_dataset: Sequence[PairItem] = (),
        callbacks: Sequence[Callback] = (),
        *,
        identity: str | None = None,
    ) -> None:
        device = "auto" if isinstance(model, str) else str(next(model.denoiser.parameters()).device)
        self.parallel = Parallel(config, device)
        self.model = load_model(model, device=str(self.parallel.device)) if isinstance(model, str) else model
        self.config, self.callbacks = config, list(callbacks)
        self.folder = config.output_dir
        self.cache = config.cache_dir or self.folder / "cache"
        self.reader = LatentReader()
        self.items = self._usable(train_dataset)
        self.held_out_items = list(eval_dataset)
        self.identity = identity or run_digest(config, self.model.fingerprint, self.items)
        self.law = DrawLaw(
            seed=config.seed,
            shift=config.t_shift or self.model.defaults.shift,
            share_noise=config.share_noise,
            limit_to_eta=config.t_limit == "eta",
            stored=config.ref_draws if config.precompute_ref_errors else None,
            levels=self.model.level_law,
        )
        self.beta = AutoBeta(config)
        patience = config.early_stopping_patience
        self.guards = Guards(config.max_steps, config.warmup_steps)
        self.early = EarlyStopping(patience) if patience else None
        self._bad = False  # a guard stopped the run

    def train(self) -> TrainOutput:
        """Run from the newest checkpoint to ``max_steps``.

        Raises:
            TrainingError: at the first non-finite number, before the weights move; if the self-check fails; if a
                guard stops a run that has no good checkpoint yet.
            CheckpointError: if the folder holds a checkpoint of another run.
        """
        config = self.config
        self.prepare()
        start = self._restore()
        if self.parallel.is_main and config.report_to:
            shown = config.model_dump(mode="json")
            self.callbacks.append(make_trackers(config.report_to, self.folder, shown, resumed_from=start))
        say(f"{describe(self.beta.value, self.items[0].latent_shape)}; identity {self.identity}")
        if start == 0:
            self._check()
        log = MetricsLog(self.folder / "metrics.jsonl", keep_up_to_step=start) if self.parallel.is_main else None
        try:
            step, stopped = self._run(start, log)
            saved = self._finish(stopped)
        finally:
            if log:
                log.close()
            for callback in self._listeners:
                callback.on_end()
        return TrainOutput(step, start, stopped, saved)

    def _run(self, start: int, log: MetricsLog | None) -> tuple[int, str | None]:
        """Do the steps from ``start`` on; return the last one's number, and why a watcher ended the run, if one did."""
        config, step, stopped = self.config, start, None
        self.model.denoiser.train()
        steps = range(start, config.max_steps)
        for index in track(steps, f"training ({config.method})", total=config.max_steps, done=start):
            step = index + 1
            last = step == config.max_steps
            row = {"step": step, **self.train_step(index)}
            if self.held_out and (last or step % config.eval_steps == 0):
                row |= self.held_out.measure(self.beta.value)
            if self.probe and (last or step % config.probe_steps == 0):
                row |= self.probe.measure()
            if log:
                log.write(row)
            stopped = self._watch(row)
            if (last and not self._bad) or (step % config.save_steps == 0 and not stopped):
                self._save(step, log)
            if stopped:
                break
        return step, stopped

    def train_step(self, step: int) -> dict[str, float]:
        """Do one optimizer step on the batch of ``step`` and return its metrics, the same on every process."""
        config = self.config
        batch = batch_at(self.items, config.seed, step, config.batch_size)
        totals = batch_totals([visit.item for visit in batch], config)
        self.optimizer.zero_grad(set_to_none=True)
        metrics, trouble = StepMetrics(), None
        parts = micro_batches(self.parallel.share(batch), config.micro_batch_size)
        for visits, weight in self.parallel.in_step(parts, spare=batch[:1]):
            output = self.part_loss(self.load(visits), totals)
            (output.loss * weight).backward()
            if weight:
                metrics.add(output)
                trouble = trouble or self._not_finite(step, visits, output)
        if found := self.parallel.first_message(trouble):
            raise TrainingError(found)
        self.parallel.reduce_gradients(self.parameters)
        norm = self.parallel.clip_(self.parameters, config.max_grad_norm)
        if not math.isfinite(norm):
            raise TrainingError(f"step {step + 1}: the gradient is not finite; {_named(batch)}")
        rate = learning_rate(config, step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        if self.ema:
            self.ema.update()
        return {**metrics.mean(self.parallel), "learning_rate": rate, "grad_norm": norm, "beta": self.beta.value}

    def load(self, visits: Sequence[Visit], law: DrawLaw | None = None) -> Part:
        """Read and draw what the visits need; all must share one latent shape."""
        items = [visit.item for visit in visits]
        latents = [self.reader.read(item) for item in items]
        draw = (law or self.law).draw(visits, items[0].latent_shape)
        return Part(visits, latents, draw, self.texts.stack([item.caption for item in items]))

    def part_loss(self, part: Part, totals: Sequence[float]) -> LossOutput:
        """Return one part's loss at the current beta."""
        return part_loss(self.model, self.reference, part, self.config, beta=self.beta.value, totals=totals)

    def prepare(self) -> None:
        """Build all that reads or changes the base, before anything is restored; the order matters."""
        config, model = self.config, self.model
        if config.attention_backend:
            set_attention(model, config.attention_backend)
        captions = sorted({item.caption for item in [*self.items, *self.held_out_items]})
        TextBook(model, self.parallel.share(captions), self.cache / "text")
        self.parallel.wait()
        self.texts = TextBook(model, captions, self.cache / "text")
        if config.latent_tie_rms:
            self.items = self._usable(tie_similar_frames(self.items, self.reader, config.latent_tie_rms))
        self._add_weights()
        live = AdapterOff(model) if config.tuning == "lora" else FrozenCopy(model)
        self.reference: Reference = live
        self._fit(live.denoiser)
        named = {name: weight for name, weight in model.denoiser.named_parameters() if weight.requires_grad}
        self.parameters = list(named.values())
        held_out_law = replace(self.law, stored=EVAL_DRAWS)
        self.held_out = HeldOut(model, self.reference, self.held_out_items, config, held_out_law, self.load)
        self.probe = Probe(model, captions, config.seed, prompts=config.probe_prompts) if config.probe_steps else None
        if config.precompute_ref_errors:
            common = (self.reader, self.texts, self.law, config, self.cache, self.parallel)
            self.reference = precompute(model, self.items, *common)
        self.optimizer = make_optimizer(self.parameters, config)
        self.ema = Ema(self.parameters, config.ema_decay) if config.ema_decay else None
        self.state = TrainedState(named, self.optimizer, self.ema)

    def _check(self) -> None:
        """Before the first step: is the maths right on this model and these pairs?"""
        config = self.config
        batch = batch_at(self.items, config.seed, 0, config.batch_size)
        part = self.load(micro_batches(self.parallel.share(batch) or batch[:1], config.micro_batch_size)[0])
        if isinstance(self.reference, CachedReference):
            verify(self.reference, self.model, part, self.beta.value)
        if config.self_check:
            checks = self_check(self.model, self.reference, part, config, self.beta.value)
            if self.parallel.is_main:
                say(f"self-check passed: {', '.join(check.name for check in checks)}")

    def _add_weights(self) -> None:
        """Make trainable what the settings say; everything else stays frozen."""
        config = self.config
        if config.tuning == "full":
            trainable(self.model)
            self.model.compute_dtype = torch.bfloat16 if config.dtype == "bfloat16" else None
            return
        alpha = config.lora_alpha or config.lora_rank
        add_lora(self.model, rank=config.lora_rank, alpha=alpha, seed=config.seed, targets=config.lora_targets)
        keep_stored(self.model, config.storage_dtype)

    def _fit(self, reference: nn.Module) -> None:
        """Choose what is kept in memory, compile, and cut the weights up over the processes."""
        config, model = self.config, self.model
        if config.activation_checkpointing == "auto":
            choice = choose_policy(model, self._largest_part_loss, agree=self.parallel.every_rank)
            say(str(choice))
        else:
            apply_policy(model, config.activation_checkpointing)
        if config.compile:
            gap = compile_blocks(model, self._largest_part_loss, config.dtype)
            say(f"compile: largest gradient difference {gap.difference:.2g} of its norm, in {gap.name}")
        for denoiser in {id(d): d for d in (model.denoiser, reference)}.values():
            self.parallel.shard(denoiser)

    def _largest_part_loss(self) -> Tensor:
        """Return the loss of a micro-batch of the largest latents."""
        largest = max(self.items, key=lambda item: math.prod(item.latent_shape))
        visits = [Visit(largest, 0)] * min(self.config.micro_batch_size, self.config.batch_size)
        return self.part_loss(self.load(visits), batch_totals([visit.item for visit in visits], self.config)).loss

    @property
    def _listeners(self) -> list[Callback]:
        return self.callbacks if self.parallel.is_main else []

    def _watch(self, row: Mapping[str, float]) -> str | None:
        """Tell everyone about a row; return why to stop, if so."""
        for callback in self._listeners:
            callback.on_step(row)
        note, alarms, enough = self._replay(row)
        if note and self.parallel.is_main:
            say(note)
        for alarm in alarms if self.parallel.is_main else []:
            warn(f"step {alarm.step}: {alarm.name}: {alarm.message}")
            for callback in self._listeners:
                callback.on_alarm(alarm)
        serious = [alarm for alarm in alarms if alarm.name != "spike"]  # one clipped spike does little harm
        if serious and self.config.guards == "stop":
            self._bad = True
            return f"{serious[0].name} at step {serious[0].step}: {serious[0].message}"
        return enough

    def _replay(self, row: Mapping[str, float]) -> tuple[str | None, list[Alarm], str | None]:
        """Feed a row to all that follow the run; on resume, the rows logged before bring them where they were."""
        alarms = self.guards.watch(row) if self.config.guards != "off" else []
        return self.beta.watch(row), alarms, self.early.watch(row) if self.early else None

    def _save(self, step: int, log: MetricsLog | None) -> None:
        whole = self.parallel.full_tensors(self.state.tensors())
        if log:
            log.sync()
            folder, keep = self.folder / "checkpoints", self.config.save_total_limit
            path = save_checkpoint(folder, step, whole, {"identity": self.identity}, keep_last=keep)
            for callback in self._listeners:
                callback.on_save(path)
        self.parallel.wait()

    def _restore(self) -> int:
        """Put back the newest checkpoint and what the watchers saw until then; return its step, or 0."""
        checkpoint = load_latest(self.folder / "checkpoints")
        self.parallel.agree("the newest checkpoint", str(checkpoint.step if checkpoint else None))
        if checkpoint is None:
            return 0
        if checkpoint.state.get("identity") != self.identity:
            raise CheckpointError(
                f"{self.folder}: holds a run with other settings, labels or base model; choose another --name, or "
                f"remove this folder"
            )
        self.state.restore(checkpoint.tensors, self.parallel)
        for row in read_jsonl(self.folder / "metrics.jsonl"):
            if row["step"] <= checkpoint.step:
                self._replay(row)
        return checkpoint.step

    def _finish(self, stopped: str | None) -> Path:
        """Write what was trained; after a guard's stop, as it was at the newest checkpoint before."""
        if self._bad:
            step = self._restore()
            if not step:
                raise TrainingError(f"stopped: {stopped} There is no checkpoint from before; nothing was written")
            if self.parallel.is_main:
                warn(f"stopped; what is written is the state of step {step}, before the alarm")
        saved = self.folder / ("lora" if self.config.tuning == "lora" else "transformer")
        with self.ema.averaged() if self.ema else nullcontext():
            if self.config.tuning == "full":
                weights = self.parallel.full_tensors(self.model.denoiser.state_dict())
                if self.parallel.is_main:
                    save_denoiser(self.model, saved, weights)
            elif self.parallel.is_main:
                save_lora(self.model, saved, self.config.lora_format)
        self.parallel.wait()
        self.model.denoiser.eval()
        return saved

    def _usable(self, items: Sequence[PairItem]) -> list[PairItem]:
        for item in items:
            labels = (*item.frame_labels, item.clip_label)
            if not all(-1 - 1e-6 <= label <= 1 + 1e-6 for label in labels):  # a NaN is not within either
                raise TrainingError(f"pair {item.pair_id}: labels must be numbers in [-1, 1], got {labels}")
        usable = usable_items(items, self.config)
        if not usable:
            raise TrainingError(f"none of {len(items)} pairs has a preference that --method {self.config.method} uses")
        return usable

    def _not_finite(self, step: int, visits: Sequence[Visit], output: LossOutput) -> str | None:
        """Name what is not a number after a part's backward pass, and the pairs that it came from."""
        if not bool(torch.isfinite(output.loss)):
            return f"step {step + 1}: the loss is not finite; {_named(visits)}"
        if not self.parallel.finite_here(self.parameters):
            return f"step {step + 1}: the gradient is not finite; {_named(visits)}"
        return None


def _named(visits: Sequence[Visit]) -> str:
    """Name the pairs of a batch in one line."""
    names = sorted({visit.item.pair_id for visit in visits})
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"pairs {', '.join(names[:3])}{rest}; nothing was changed: lower learning_rate, or look at these pairs"
