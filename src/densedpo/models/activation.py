"""Which activations a training pass keeps and which it computes again: none, full or save-attention.

Cheapest in operations first: ``none`` keeps everything; ``save-attention`` keeps the output of every attention
operation and computes the rest of a block again, as attention is most of a long video's work but little of its memory;
``full`` keeps the inputs of the blocks alone. Checkpointing is never reentrant, so that LoRA parameters inside a block
get their gradients although the block's inputs need none. What is computed again runs in the backward pass, with the
adapter as it is *then*: the reference must have run before the policy's graph is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from densedpo.errors import ConfigError, TrainingError
from densedpo.models.base import VideoModel
from densedpo.models.memory import available_memory, peak_memory

Policy = Literal["none", "save-attention", "full"]
POLICIES: tuple[Policy, ...] = ("none", "save-attention", "full")  # cheapest in operations first
MARGIN = 1.25  # a policy fits if this many times its measured peak is free: fragmentation, scratch, longer captions
MOMENT_BYTES = 8  # an optimizer's two moments of a trained number in float32; in a dry run they are not there yet


def apply_policy(model: VideoModel, policy: Policy) -> None:
    """Make the denoiser keep or compute again its blocks' activations; it takes effect in passes with gradients only.

    With ``save-attention`` a block in which no attention operation can be seen (one of another library, or one that
    torch takes apart into matrix products) raises a ConfigError in its first forward pass, rather than save nothing.
    """
    if policy == "none":
        model.denoiser.disable_gradient_checkpointing()
        return
    run = _compute_again if policy == "full" else _keep_attention
    model.denoiser.enable_gradient_checkpointing(run)


def is_attention(operation: Any) -> bool:
    """Say whether a torch operation is the forward of a fused attention: torch's own or one that a package registers.

    By name, as the list differs by device and version: flash, efficient, cuDNN, overrideable, CPU flash, flex, …
    """
    name = str(operation).lower()
    return ("attention" in name or "attn" in name) and "backward" not in name and "bwd" not in name


def _compute_again(block: nn.Module, *inputs: Any) -> Any:
    return checkpoint(block.__call__, *inputs, use_reentrant=False)


def _keep_attention(block: nn.Module, *inputs: Any) -> Any:
    kept = set()

    def choose(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        if not is_attention(operation):
            return CheckpointPolicy.PREFER_RECOMPUTE
        kept.add(str(operation))
        return CheckpointPolicy.MUST_SAVE

    contexts = partial(create_selective_checkpoint_contexts, choose)
    output = checkpoint(block.__call__, *inputs, use_reentrant=False, context_fn=contexts)
    if not kept:
        raise ConfigError(
            f"activation_checkpointing: save-attention sees no attention operation inside {type(block).__name__}, so "
            "it would save nothing; use full, or another attention_backend"
        )
    return output


@dataclass(frozen=True)
class Trial:
    """What a dry run of one micro-batch under one policy took."""

    policy: Policy
    needed_bytes: int | None  # peak of the pass and the optimizer's moments; None: memory ran out
    available_bytes: int
    fits: bool

    def __str__(self) -> str:
        """Say it in a few words."""
        needed = "out of memory" if self.needed_bytes is None else f"{self.needed_bytes / 2**30:.2f} GiB"
        return f"{self.policy} {needed}{'' if self.fits else ' (too much)'}"


@dataclass(frozen=True)
class Choice:
    """The policy chosen and the dry runs that led to it."""

    policy: Policy
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        """Say what was measured, in one line."""
        measured = ", ".join(str(trial) for trial in self.trials)
        free = self.trials[-1].available_bytes / 2**30
        return (
            f"activation_checkpointing auto: {self.policy}; one micro-batch takes {measured}, {free:.2f} GiB are there "
            f"and {MARGIN} times the need must be"
        )


def choose_policy(
    model: VideoModel, loss: Callable[[], Tensor], *, agree: Callable[[bool], bool] = lambda fits: fits
) -> Choice:
    """Apply the cheapest policy under which a real micro-batch fits, found by a dry run of each until one does.

    On a GPU the need is the allocator's peak, elsewhere the peak of live tensors' bytes (``models.memory``), either
    with the optimizer's moments added. A policy fits if ``MARGIN`` times that is available. The last policy is taken
    if it ran at all.

    Args:
        model: with all that is trained in place, before it is compiled or sharded.
        loss: computes the largest micro-batch's loss, reference included; gradients it makes are dropped.
        agree: turns this process's verdict into everyone's (all must fit), called once a trial on every process.

    Raises:
        TrainingError: if memory runs out under the last policy as well.
    """
    device = next(model.denoiser.parameters()).device
    trials = []
    for policy in POLICIES:
        apply_policy(model, policy)
        trial = _try(model, policy, loss, device)
        fits = agree(trial.fits)
        trials.append(trial)
        if fits or (policy == POLICIES[-1] and agree(trial.needed_bytes is not None)):
            return Choice(policy, tuple(trials))
    raise TrainingError(
        "activation_checkpointing auto: memory runs out even under `full`; lower --micro-batch-size, --lora-rank or "
        "the clip's size"
    )


def _try(model: VideoModel, policy: Policy, loss: Callable[[], Tensor], device: torch.device) -> Trial:
    trained = [parameter for parameter in model.denoiser.parameters() if parameter.requires_grad]
    if device.type == "cuda":
        torch.cuda.empty_cache()
    available = available_memory(device)
    try:
        with peak_memory(device) as peak:
            loss().backward()
    except torch.OutOfMemoryError:
        return Trial(policy, None, available, fits=False)
    finally:
        for parameter in trained:
            parameter.grad = None
    needed = peak.held_bytes + MOMENT_BYTES * sum(parameter.numel() for parameter in trained)
    return Trial(policy, needed, available, fits=needed * MARGIN <= available)
