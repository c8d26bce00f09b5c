"""Frozen weights kept in fewer bits than they are computed with: 8-bit floats with a scale a row, or bfloat16.

The linear layers of a denoiser's blocks keep their weights small and make them large for one product at a time, forward
and again backward; a graph holds the small ones. What diffusers names as touchy for its layerwise casting stays as it
is: patch embedding, time and text embedding, norms, the last projection. Unlike that casting, rows are scaled to the
8-bit range first (most weights are smaller than its smallest normal number), biases stay, and nothing is put back by a
hook, which activation checkpointing would skip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from densedpo.errors import ConfigError
from densedpo.models.base import VideoModel

StorageDtype = Literal["bfloat16", "float8"]
_FORMATS: dict[StorageDtype, torch.dtype] = {"bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}
_TOUCHY = ("pos_embed", "patch_embed", "norm", "^proj_in$", "^proj_out$")
_SCALE = "storage_scale"


def keep_stored(model: VideoModel, storage: StorageDtype | None) -> None:
    """Have a loaded model's weights in ``storage``, unless they are already; None leaves them as they are.

    Raises:
        ConfigError: as ``store_weights``, or if they are stored in another format.
    """
    if storage is None or model.storage_dtype == storage:
        return
    if model.storage_dtype is not None:
        raise ConfigError(f"storage_dtype: {model.folder} is loaded in {model.storage_dtype} already, not in {storage}")
    store_weights(model.denoiser, storage)
    model.storage_dtype = storage


def store_weights(denoiser: nn.Module, storage: StorageDtype) -> int:
    """Keep the frozen weights of a denoiser's linear layers in ``storage``; return how many bytes that saved.

    A LoRA must be there already: its library would give it the base's format. What is trained stays as it is.

    Raises:
        ConfigError: if no layer can be stored so, or weights are in no more bits already.
    """
    kind, saved = _FORMATS[storage], 0
    for layer in _storable(denoiser):
        if layer.weight.dtype.itemsize <= kind.itemsize:
            continue
        before = layer.weight.nbytes
        scale = _scale(layer.weight, kind)
        small = layer.weight if scale is None else layer.weight / scale[:, None].to(layer.weight.dtype)
        layer.weight.data = small.to(kind)
        layer.register_buffer(_SCALE, scale, persistent=False)
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
        saved += before - layer.weight.nbytes - (0 if scale is None else scale.nbytes)
    if not saved:
        raise ConfigError(f"storage_dtype: nothing to gain from {storage} for this model; leave it out")
    return saved


def _storable(denoiser: nn.Module) -> Iterator[nn.Linear]:
    named = getattr(denoiser, "_skip_layerwise_casting_patterns", None) or ()
    touchy = (*_TOUCHY, *named, *(getattr(denoiser, "_keep_in_fp32_modules", None) or ()))
    for name, module in denoiser.named_modules():
        # PEFT hides a layer behind its adapter, and adds a step to its name
        plain = name.replace(".base_layer", "")
        frozen = isinstance(module, nn.Linear) and not module.weight.requires_grad and ".lora_" not in name
        if frozen and not any(re.search(pattern, plain) for pattern in touchy):
            assert isinstance(module, nn.Linear)
            yield module


def _scale(weight: Tensor, kind: torch.dtype) -> Tensor | None:
    """Return what each row is divided by to end at the format's largest number, [out] float32; None for bfloat16."""
    if kind.itemsize > 1:
        return None
    largest = weight.detach().float().abs().amax(dim=1)
    return torch.where(largest > 0, largest / torch.finfo(kind).max, 1.0)


def _forward(layer: nn.Linear, inputs: Tensor) -> Tensor:
    output: Tensor = _StoredLinear.apply(inputs, layer.weight, getattr(layer, _SCALE))  # type: ignore[no-untyped-call]
    bias: Tensor | None = layer.bias
    return output if bias is None else output + bias.to(output.dtype)


def _large(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype) if scale is None else weight.to(dtype) * scale[:, None].to(dtype)


class _StoredLinear(torch.autograd.Function):
    """x W^T with a frozen W; only the small W is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return linear(inputs, _large(weight, scale, inputs.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return gradient @ _large(weight, scale, gradient.dtype), None, None
