"""LoRA on a denoiser: add, switch off for the reference, save and load in diffusers' own layout."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from densedpo.errors import ModelError
from densedpo.keys import seeded_initialisation
from densedpo.models.base import VideoModel
from densedpo.store.files import replacing

ADAPTER = "default"
FILE_NAME = "pytorch_lora_weights.safetensors"  # the name diffusers' load_lora_weights looks for
_PREFIX = "transformer."
_CONFIG_KEY = "lora_adapter_metadata"  # where diffusers keeps rank and alpha, under names that begin with the prefix
_HALVES = ("A.weight", "B.weight")  # the update of a weight is B A
_BASE_KEY = "densedpo.base_fingerprint"


def add_lora(model: VideoModel, *, rank: int, alpha: int, seed: int) -> list[nn.Parameter]:
    """Add a LoRA adapter to the denoiser and return its parameters, the only trainable ones.

    B starts at zero, so policy and reference agree exactly before the first step. Adapter weights are float32 whatever
    the base's type.
    """
    config = LoraConfig(
        r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(model.defaults.lora_targets)
    )
    with seeded_initialisation(seed):
        model.denoiser.add_adapter(config, adapter_name=ADAPTER)  # type: ignore[operator]
    parameters = [p for p in model.denoiser.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    return parameters


@contextmanager
def adapter_off(model: VideoModel) -> Iterator[None]:
    """Run the block with the adapter switched off: the reference model. It comes back on even if the block fails."""
    model.denoiser.disable_adapters()  # type: ignore[operator]
    try:
        yield
    finally:
        model.denoiser.enable_adapters()  # type: ignore[operator]


def lora_tensors(model: VideoModel) -> dict[str, Tensor]:
    """Return the adapter's weights by diffusers' names, without the ``transformer.`` prefix."""
    state: dict[str, Tensor] = get_peft_model_state_dict(model.denoiser, adapter_name=ADAPTER)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}


def restore_lora(model: VideoModel, tensors: dict[str, Tensor]) -> None:
    """Put back weights that ``lora_tensors`` returned."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model.denoiser, tensors, adapter_name=ADAPTER)


def save_lora(model: VideoModel, folder: Path) -> Path:
    """Write the adapter so that ``pipeline.load_lora_weights(folder)`` loads it; the base's fingerprint goes along.

    Raises:
        ModelError: if it cannot be written.
    """
    config: dict[str, Any] = model.denoiser.peft_config[ADAPTER].to_dict()  # type: ignore[union-attr,index]
    kept = {key: config[key] for key in ("r", "lora_alpha", "target_modules", "lora_dropout", "use_rslora")}
    kept["target_modules"] = sorted(kept["target_modules"])
    facts = {f"{_PREFIX}{key}": value for key, value in kept.items()} | {_BASE_KEY: model.fingerprint}
    # one metadata key only: safetensors writes several in random order, and equal runs must give equal bytes
    metadata = {_CONFIG_KEY: json.dumps(facts, sort_keys=True)}
    path = folder / FILE_NAME
    tensors = {f"{_PREFIX}{name}": tensor for name, tensor in lora_tensors(model).items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise ModelError(f"{path}: cannot be written ({error}); make room and repeat the command") from None
    return path


def load_lora(model: VideoModel, folder: Path) -> None:
    """Load an adapter saved by us, or by anyone in the same layout, onto the denoiser, frozen.

    Raises:
        ModelError: if the file is missing or no safetensors file, was trained on another base, lacks a half of a
            matrix, or does not fit; the first keys that do not match are listed.
    """
    path = folder / FILE_NAME if folder.is_dir() else folder
    if not path.is_file():
        raise ModelError(f"{path}: no such LoRA file; give a run's lora/ folder or a .safetensors file")
    try:
        with safe_open(path, "pt") as file:
            facts: Any = json.loads((file.metadata() or {}).get(_CONFIG_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error}); nothing else is ever read") from None
    if not isinstance(facts, dict):
        raise ModelError(f"{path}: its metadata {_CONFIG_KEY} is not a JSON object; save the LoRA again")
    base = facts.get(_BASE_KEY)
    if base is not None and base != model.fingerprint:
        raise ModelError(
            f"{path}: trained on base {base}, but the model loaded is {model.fingerprint} ({model.folder}); "
            f"load the base it was trained on"
        )
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    _check_fit(model, tensors, path)
    targets = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    rank = _rank(tensors, targets, path)
    alpha = facts.get(f"{_PREFIX}lora_alpha", rank)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ModelError(f"{path}: its metadata says lora_alpha {alpha!r}; it must be a positive number")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
    model.denoiser.add_adapter(config, adapter_name=ADAPTER)  # type: ignore[operator]
    restore_lora(model, tensors)
    model.denoiser.requires_grad_(False)


def _check_fit(model: VideoModel, tensors: dict[str, Tensor], path: Path) -> None:
    modules = dict(model.denoiser.named_modules())
    wrong = []
    for name, tensor in tensors.items():
        target, _, part = name.partition(".lora_")
        weight = getattr(modules.get(target), "weight", None)
        axis = 1 if part.startswith("A") else 0
        if weight is None or part not in _HALVES or tensor.ndim != 2 or tensor.shape[axis] != weight.shape[axis]:
            wrong.append(name)
        elif not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: {name} holds non-finite numbers")
    if wrong or not tensors:
        listed = ", ".join(wrong[:3]) or "the file is empty"
        raise ModelError(f"{path}: does not fit {model.folder}: {len(wrong)} of {len(tensors)} keys ({listed}, …)")


def _rank(tensors: dict[str, Tensor], targets: list[str], path: Path) -> int:
    """Return the one rank of all halves, read off their shapes: A is [rank, in], B is [out, rank]."""
    ranks = set()
    for target in targets:
        for axis, half in enumerate(_HALVES):
            name = f"{target}.lora_{half}"
            if name not in tensors:
                raise ModelError(f"{path}: {name} is missing, only the other half is there; save the LoRA again")
            ranks.add(tensors[name].shape[axis])
    if len(ranks) != 1 or ranks == {0}:
        raise ModelError(f"{path}: its matrices have ranks {sorted(ranks)}; one rank for all is supported")
    return int(ranks.pop())
