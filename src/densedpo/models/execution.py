"""How the denoiser is run: which attention kernel, and compiled or not.

Only kernels that come with torch or an installed package and that have a backward pass are offered: those that
diffusers would fetch from a hub are somebody's code, and those made for sampling alone (sage) would leave training with
silently wrong gradients. Compiling has gone wrong in that way elsewhere, so a compiled denoiser is used only after its
gradients of a real micro-batch have been compared with the uncompiled ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn

from densedpo.errors import ConfigError, TrainingError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.text import TextCondition

Dtype = Literal["float32", "bfloat16"]
ATTENTION_BACKENDS = (
    "native", "_native_flash", "_native_efficient", "_native_cudnn", "_native_math", "_native_npu", "_native_xla",
    "flex", "flash", "flash_varlen", "_flash_3", "_flash_varlen_3", "xformers",
)  # fmt: skip
# Largest difference of a tensor's gradient, relative to its norm, that rounding explains; a wrong one is off by about 1
TOLERANCE: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 1e-1}
_FLOOR = 1e-4  # of the whole gradient's norm: below it a tensor's own norm is rounding
_FILL = 1e-2  # stands in for weights that are all zero, as a LoRA's B is at first: zeros would hide wrong gradients


def set_attention(model: VideoModel, name: str) -> None:
    """Choose the attention kernel by diffusers' name for it.

    Raises:
        ConfigError: if the name is unknown, has no backward pass, would be fetched, or its package is missing.
    """
    known = {backend.value for backend in AttentionBackendName}
    offered = ", ".join(backend for backend in ATTENTION_BACKENDS if backend in known)
    if name not in ATTENTION_BACKENDS or name not in known:
        reason = "is not for training" if name in known else "is unknown"
        raise ConfigError(f"attention_backend: {name!r} {reason}; choose one of {offered}")
    if name != "native" and not any(_takes_backend(module) for module in model.denoiser.modules()):
        raise ConfigError(
            f"attention_backend: {name!r} cannot be used: diffusers gives this family ({model.family}) no choice of "
            "kernel; leave it out"
        )
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # it warns that the choice is experimental
    try:
        model.denoiser.set_attention_backend(name)
    except (RuntimeError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"attention_backend: {name!r} cannot be used here ({reason})") from None
    finally:
        diffusers_logging.set_verbosity(level)


@dataclass(frozen=True)
class GradientGap:
    """The tensor whose gradient differs most between two ways of computing it."""

    name: str
    cosine: float  # 1 is the same direction
    difference: float  # norm of the difference over the norm of the first


def compile_blocks(model: VideoModel, loss: Callable[[], Tensor], dtype: Dtype) -> GradientGap:
    """Compile the denoiser's repeated blocks if their gradients stay right, and return how far off they are.

    To be called with LoRA, checkpointing policy and attention kernel in place, and after ``choose_policy``: torch never
    compiles a block that it first met under a counter of operations or memory. Trained tensors that are all zero are
    filled with small noise during the comparison, as zeros would hide what flows through them.

    Args:
        model: the model; its blocks are put back uncompiled if the gradients differ.
        loss: computes one real micro-batch's loss, reference included; gradients it makes are dropped.
        dtype: number format of the computation, which decides the tolerance.

    Raises:
        ConfigError: if the denoiser cannot be compiled here.
        TrainingError: if a gradient differs by more than ``TOLERANCE``, naming tensor and figures.
    """
    trained = {name: p for name, p in model.denoiser.named_parameters() if p.requires_grad}
    with _no_zeros(list(trained.values())):
        eager = _gradients(trained, loss)
        try:
            model.denoiser.compile_repeated_blocks()
            compiled = _gradients(trained, loss)
        except (ValueError, RuntimeError) as error:
            _uncompile(model)
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"compile: the denoiser cannot be compiled here ({reason}); leave it off") from error
    gap = gradient_gap(eager, compiled)
    limit = TOLERANCE[dtype]
    if not gap.difference <= limit:
        _uncompile(model)
        raise TrainingError(
            f"compile: the compiled gradient of {gap.name} differs from the uncompiled one by {gap.difference:.2g} of "
            f"its norm (cosine {gap.cosine:.6f}; allowed {limit:g}): it would train something else; leave compile off"
        )
    return gap


@torch.no_grad()
def compile_for_sampling(model: VideoModel, latents: Tensor, text: TextCondition) -> float:
    """Compile the denoiser's repeated blocks if their predictions stay right; return how far off they are.

    Args:
        model: the model; its blocks are put back uncompiled if the predictions differ.
        latents: of a real batch, [B, C, F, H, W].
        text: its conditions.

    Raises:
        ConfigError: if the denoiser cannot be compiled here, or predicts something else once it is.
    """
    level = torch.full((len(latents),), model.defaults.eta_low, device=latents.device)
    drawn = noise(tuple(latents.shape), 0, "compile-check", "noise").to(latents.device)
    inputs = (model.add_noise(latents, drawn, level), level, text)
    eager = model.predict(*inputs).double()
    try:
        model.denoiser.compile_repeated_blocks()
        compiled = model.predict(*inputs).double()
    except (ValueError, RuntimeError) as error:
        _uncompile(model)
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"compile: the denoiser cannot be compiled here ({reason}); leave it off") from error
    gap = float((compiled - eager).norm() / eager.norm())
    limit = TOLERANCE["float32" if model.dtype == torch.float32 else "bfloat16"]
    if not gap <= limit:
        _uncompile(model)
        raise ConfigError(
            f"compile: compiled predictions differ by {gap:.2g} of their norm (allowed {limit:g}); leave compile off"
        )
    return gap


def gradient_gap(first: dict[str, Tensor], second: dict[str, Tensor]) -> GradientGap:
    """Return the worst tensor's gap; norms below ``_FLOOR`` of the whole gradient's are taken as that."""
    floor = _FLOOR * float(torch.stack([g.double().norm() for g in first.values()]).norm())
    gaps = []
    for name, gradient in first.items():
        a, b = gradient.double().flatten(), second[name].double().flatten()
        scale = max(float(a.norm()), floor)
        cosine = float(torch.nn.functional.cosine_similarity(a, b, dim=0)) if float(a.norm()) > floor else 1.0
        gaps.append(GradientGap(name, cosine, float((a - b).norm()) / scale if scale else float(b.norm())))
    # one that is not a number is the worst of all
    return max(gaps, key=lambda gap: gap.difference if gap.difference == gap.difference else float("inf"))


def _takes_backend(module: nn.Module) -> bool:
    return hasattr(getattr(module, "processor", None), "_attention_backend")


def _gradients(trained: dict[str, nn.Parameter], loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    loss().backward()
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()}
    for parameter in trained.values():
        parameter.grad = None
    return found


def _uncompile(model: VideoModel) -> None:
    for module in model.denoiser.modules():
        module._compiled_call_impl = None


@contextmanager
def _no_zeros(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Fill tensors that are all zero with small noise inside the block."""
    zeros = [parameter for parameter in parameters if not bool(parameter.any())]
    with torch.no_grad():
        for number, parameter in enumerate(zeros):
            parameter.copy_(_FILL * noise(tuple(parameter.shape), 0, "compile-check", number))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter in zeros:
                parameter.zero_()
