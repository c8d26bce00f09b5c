"""Layers that are one in ComfyUI and several in diffusers, such as the projections to query, key and value.

Several updates B_i A_i of one input make one: the A_i stand one below the other, the B_i along the diagonal, and the
rank is the sum. The other way, a B that is zero off its diagonal blocks is taken apart again; any other one was trained
on the whole layer, and then its parts share A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from densedpo.errors import ModelError
from densedpo.models.comfyui import ALPHA, NUMBER, PREFIX, split_key

_REFINER = "context_embedder.token_refiner.refiner_blocks.{}.attn"
# By family: a layer's name in ComfyUI, and its parts in diffusers in the order of its rows.
FUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "hunyuan_video": {
        "double_blocks.{}.img_attn_qkv": tuple(f"transformer_blocks.{{}}.attn.to_{part}" for part in "qkv"),
        "double_blocks.{}.txt_attn_qkv": tuple(f"transformer_blocks.{{}}.attn.add_{part}_proj" for part in "qkv"),
        "single_blocks.{}.linear1": (
            *(f"single_transformer_blocks.{{}}.attn.to_{part}" for part in "qkv"),
            "single_transformer_blocks.{}.proj_mlp",
        ),
        "txt_in.individual_token_refiner.blocks.{}.self_attn_qkv": tuple(f"{_REFINER}.to_{part}" for part in "qkv"),
    }
}
_A, _B = "lora_A.weight", "lora_B.weight"


def fuse(family: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the fused layers' weights by ComfyUI's names, and those of all other layers by ours.

    Args:
        family: of the model.
        tensors: ``LAYER.lora_A.weight`` and ``LAYER.lora_B.weight`` by our names.

    Raises:
        ModelError: if some parts of a layer have a LoRA and others have none.
    """
    whole: dict[str, tuple[str, ...]] = {}
    for name in tensors:
        layer = name.partition(".lora_")[0]
        number, general = _numbered(layer)
        for theirs, ours in FUSED.get(family, {}).items():
            if general in ours:
                whole[theirs.format(number)] = tuple(part.format(number) for part in ours)
    fused = {}
    for theirs, ours in whole.items():
        if lacking := [part for part in ours if f"{part}.{_A}" not in tensors]:
            raise ModelError(
                f"{theirs}: one layer in ComfyUI, of which {lacking[0]} has no LoRA; name all of {', '.join(ours)} in "
                "lora_targets, or set lora_format to diffusers"
            )
        fused[f"{PREFIX}{theirs}.{_A}"] = torch.cat([tensors[f"{part}.{_A}"] for part in ours])
        fused[f"{PREFIX}{theirs}.{_B}"] = torch.block_diag(*(tensors[f"{part}.{_B}"] for part in ours))
    parts = {part for ours in whole.values() for part in ours}
    return fused, {name: tensor for name, tensor in tensors.items() if name.partition(".lora_")[0] not in parts}


def fused_keys(family: str, keys: Iterable[str]) -> set[str]:
    """Return those of a file's keys that belong to a fused layer."""
    return {key for key in keys if _parts(family, key)}


def unfuse(family: str, tensors: Mapping[str, Tensor], out_features: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the parts' weights by our names; an alpha is worked into them.

    Args:
        family: of the model.
        tensors: weights of fused layers, all with keys of ``fused_keys``.
        out_features: of the denoiser's linear layers, by our names.

    Raises:
        ModelError: if a half is missing, or a layer is not of the model.
    """
    layers: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = split_key(key)
        assert found is not None
        layers.setdefault(_parts(family, key), {})[found[1]] = tensor
    unfused: dict[str, Tensor] = {}
    for parts, found_tensors in layers.items():
        first, second = found_tensors.get(_A), found_tensors.get(_B)
        alpha = found_tensors.get(ALPHA.removeprefix("."))
        sizes = [out_features.get(part, 0) for part in parts]
        if first is None or second is None or first.ndim != 2 or second.ndim != 2 or len(first) != second.shape[1]:
            raise ModelError(f"the LoRA of {parts[0]} lacks a half, or its halves do not fit each other")
        if 0 in sizes or sum(sizes) != len(second):
            raise ModelError(f"the LoRA of {parts[0]} has {len(second)} rows, the model {sum(sizes)}")
        if alpha is not None:
            if alpha.numel() != 1 or alpha.item() <= 0:
                raise ModelError(f"the alpha of {parts[0]} must be one positive number")
            second = second.float() * (alpha.item() / len(first))
        for part, (a, b) in zip(parts, _split(first, second, sizes), strict=True):
            unfused |= {f"{part}.{_A}": a.contiguous(), f"{part}.{_B}": b.contiguous()}
    return unfused


def _split(first: Tensor, second: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    rows, rank = second.split(list(sizes)), len(first) // len(sizes)
    if rank * len(sizes) == len(first):
        blocks = [part[:, i * rank : (i + 1) * rank] for i, part in enumerate(rows)]
        if second.count_nonzero() == sum(block.count_nonzero() for block in blocks):
            return list(zip(first.split(rank), blocks, strict=True))
    return [(first, part) for part in rows]


def _parts(family: str, key: str) -> tuple[str, ...]:
    """Return the parts of the fused layer that a file's key belongs to, by our names; nothing for any other key."""
    found = split_key(key)
    if found is None or not key.startswith(PREFIX):
        return ()
    number, general = _numbered(found[0])
    return tuple(part.format(number) for part in FUSED.get(family, {}).get(general, ()))


def _numbered(layer: str) -> tuple[str, str]:
    number = NUMBER.search(layer)
    return number[0] if number else "", NUMBER.sub("{}", layer, count=1)
