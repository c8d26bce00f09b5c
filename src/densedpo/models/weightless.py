"""A model without weights: its families' own code on the device ``meta``, where tensors have shapes and no numbers.

Made from a folder's configuration and tokenizer files. What runs on it inside ``on_paper`` makes the same tensors in
the same order as a real run, so its memory and operations can be counted beforehand (``models.fits``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from densedpo.models.base import VideoModel
from densedpo.models.folder import without_weights

META = torch.device("meta")


def load_weightless(family: type[VideoModel], folder: Path, dtype: torch.dtype) -> VideoModel:
    """Return a model of ``folder`` whose weights have shapes alone; ``dtype`` is that of the denoiser.

    Raises:
        ModelError: if a configuration or tokenizer file is missing or wrong.
    """
    # nothing can be moved away from where there is nothing
    resident: type[VideoModel] = type(family.__name__, (family,), {"offload": False})
    with without_weights():
        model = resident(folder, device=META, dtype=dtype)
    model.name = str(folder)
    return model


@contextmanager
def on_paper() -> Iterator[None]:
    """Let code that meets tensors without numbers run through.

    Attention is the fused kind, as on every real device: torch would take it apart on ``meta``. A question about a
    number, such as whether all of a mask is set, is answered by yes, or one.
    """
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _fused_attention
    try:
        with _Answers():  # type: ignore[no-untyped-call]
            yield
    finally:
        F.scaled_dot_product_attention = original


class _Answers(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device == META:
            return True if args[0].dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        key, value = (part.repeat_interleave(query.size(-3) // part.size(-3), dim=-3) for part in (key, value))
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output: Tensor = fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return output
