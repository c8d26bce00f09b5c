"""Models of an evaluation: the base, tuned weights at a LoRA scale, or a checkpoint; one at a time in memory.

What must be known of the base to name its samples is read without its weights: where all samples are there, no model is
loaded at all.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from densedpo.config import Settings, load_settings
from densedpo.errors import ConfigError, ModelError, ProjectError
from densedpo.evaluation.variants import Variant
from densedpo.models.base import InferenceDefaults, VideoModel
from densedpo.models.load import (
    find_tuned,
    load_shapes,
    load_tuned,
    resolve_device,
    resolve_dtype,
    resolve_folder,
    tuned_digest,
)
from densedpo.models.lora import add_lora, load_lora
from densedpo.store.files import read_object
from densedpo.training.checkpoint import load_checkpoint

_TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class BaseFacts:
    """What is known of a base without loading it: its settings, its fingerprint and its number format."""

    defaults: InferenceDefaults
    fingerprint: str
    dtype: str


def read_base(settings: Settings) -> BaseFacts:
    """Return the facts of the base that the settings name; its weights are fetched if need be, not loaded.

    Raises:
        ModelError: if there is no such model, or its configuration cannot be read.
        ConfigError: if there is no such device.
    """
    folder = resolve_folder(settings.model, settings.revision)  # with weights: the fingerprint is of them too
    dtype = str(resolve_dtype(settings.sample.dtype, resolve_device(settings.device))).removeprefix("torch.")
    shapes = load_shapes(str(folder), dtype=dtype)
    return BaseFacts(shapes.defaults, shapes.fingerprint, dtype)


def check_base(run: Path, fingerprint: str) -> None:
    """Refuse a finished run that was trained on another base than the one with this fingerprint.

    Raises:
        ModelError: naming both.
    """
    facts = run / "run.json"
    trained_on = read_object(facts).get("base_fingerprint") if facts.is_file() else None
    if trained_on not in {None, fingerprint}:
        raise ModelError(
            f"{run}: trained on base {trained_on}, but --model is {fingerprint}; give the base it was trained on"
        )


def list_checkpoints(run: Path) -> dict[int, Path]:
    """Return a run's whole checkpoints by step, without the last step's: the run itself is that.

    Raises:
        ProjectError: if the run is not finished or has no other checkpoint.
    """
    last = read_object(run / "run.json").get("steps")
    marked = {int(path.parent.name.removeprefix("step-")): path.parent for path in run.glob("checkpoints/step-*/DONE")}
    earlier = {step: path for step, path in sorted(marked.items()) if step != last}
    if not earlier:
        raise ProjectError(
            f"{run}/checkpoints: no checkpoint besides the last; train with --save-steps and --save-total-limit so "
            "that more are kept"
        )
    return earlier


def variant_digest(variant: Variant) -> str | None:
    """Return a digest of the tuned weights of a variant; None for the base.

    Raises:
        ModelError: if there are no tuned weights, or a whole denoiser is asked for at a scale.
        CheckpointError: if a checkpoint is damaged.
    """
    if variant.source is None:
        return None
    if variant.step is not None:
        return str(read_object(variant.source / "DONE").get(_TENSORS))
    if variant.lora_scale != 1 and find_tuned(variant.source).is_dir():
        raise ModelError(f"{variant.source}: is tuned as a whole; --scales is for LoRAs")
    return tuned_digest(variant.source)


def load_variant(variant: Variant, settings: Settings) -> VideoModel:
    """Return the variant's model; the one before must be given up first, so that two never lie in memory.

    Raises:
        ModelError: if it does not load, or was trained on another base.
        CheckpointError: if a checkpoint is damaged.
    """
    gc.collect()  # the parts of a model refer to each other
    # of tuned weights as they are, load_tuned reads any kind; the rest goes onto the base
    whole = variant.source if variant.step is None and variant.lora_scale == 1 else None
    dtype = settings.sample.dtype
    model = load_tuned(settings.model, whole, revision=settings.revision, device=settings.device, dtype=dtype)
    if variant.step is not None and variant.source:
        load_weights(model, variant.source)
    elif whole is None and variant.source:
        load_lora(model, find_tuned(variant.source), variant.lora_scale)
    return model


@torch.no_grad()
def load_weights(model: VideoModel, checkpoint: Path) -> None:
    """Put the weights of a checkpoint onto a base, frozen: the moving average where the run keeps one.

    Raises:
        ModelError: if the run was trained on another base, or the weights do not fit.
        CheckpointError: if the checkpoint is damaged.
        ConfigError: if the run's settings cannot be read.
    """
    run = checkpoint.parent.parent
    check_base(run, model.fingerprint)
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run}/config.yaml: missing; without it a checkpoint cannot be read")
    train = load_settings(run / "config.yaml", {}).train
    if train.tuning == "lora":
        alpha = train.lora_alpha or train.lora_rank
        add_lora(model, rank=train.lora_rank, alpha=alpha, seed=0, targets=train.lora_targets)
    tensors = load_checkpoint(checkpoint).tensors
    parameters = dict(model.denoiser.named_parameters())
    names = [name.removeprefix("weights.") for name in tensors if name.startswith("weights.")]
    if not names or not set(names) <= set(parameters):
        raise ModelError(f"{checkpoint}: its weights do not fit {model.folder}")
    moved = [name for name in parameters if name in set(names)]  # the order in which the average is numbered
    for index, name in enumerate(moved):
        tensor = tensors[f"ema.{index}" if "ema.updates" in tensors else f"weights.{name}"]
        if tensor.shape != parameters[name].shape:
            raise ModelError(f"{checkpoint}: {name} does not fit {model.folder}")
        parameters[name].copy_(tensor)
    model.denoiser.requires_grad_(False)
