"""LoRA on a denoiser: add, switch off for the reference, save and load in diffusers' own layout and in ComfyUI's."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from densedpo.errors import ConfigError, ModelError
from densedpo.keys import seeded_initialisation
from densedpo.models.base import VideoModel
from densedpo.models.comfyui import ALPHA, PREFIX, from_comfyui, to_comfyui
from densedpo.models.comfyui_fused import fuse, fused_keys, unfuse
from densedpo.models.tensors import TensorFile, open_tensors
from densedpo.store.files import replacing

ADAPTER = "default"
FILE_NAME = "pytorch_lora_weights.safetensors"  # the name diffusers' load_lora_weights looks for
COMFYUI_FILE_NAME = "pytorch_lora_weights_comfyui.safetensors"
_PREFIX = "transformer."
_CONFIG_KEY = "lora_adapter_metadata"  # where diffusers keeps rank and alpha, under names that begin with the prefix
_COMFYUI_CONFIG_KEY = "densedpo"  # not the one above: diffusers would apply the alpha in it to what is scaled already
_HALVES = ("A.weight", "B.weight")  # the update of a weight is B A
_BASE_KEY = "densedpo.base_fingerprint"
_UNSUPPORTED = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")  # each changes what the matrices mean
_BEFORE_BLOCK_NUMBER = re.compile(r"^[^.]+\.\d+\.")


def add_lora(
    model: VideoModel, *, rank: int, alpha: int, seed: int, targets: Sequence[str] | None = None
) -> list[nn.Parameter]:
    """Add a LoRA adapter to the denoiser and return its parameters, the only trainable ones.

    A target's weight W [out, in] becomes W + alpha / rank * B A, with A [rank, in] and B [out, rank]. B starts at zero,
    so policy and reference agree exactly before the first step. Adapter weights are float32 whatever the base's type.

    Args:
        model: the base, without adapter.
        rank: width of A and B: how much the update can express, and how large the file is.
        alpha: numerator of the update's factor. Equal to the rank, the factor is 1; a larger one acts like a higher
            learning rate.
        seed: names the stream that A is drawn from.
        targets: linear layers by the ends of their names: ``to_q`` means every layer so called, ``attn1.to_q`` only
            those of self-attention, ``blocks.0.attn1.to_q`` one. By default the family's: all of attention and
            feed-forward.

    Raises:
        ConfigError: if a target names no linear layer.
        ModelError: if the model has an adapter already.
    """
    if ADAPTER in getattr(model.denoiser, "peft_config", {}):
        raise ModelError(f"{model.folder}: this model has an adapter already; load it afresh for another run")
    chosen = list(model.defaults.lora_targets if targets is None else targets)
    _check_targets(model, chosen)
    config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=chosen)
    with seeded_initialisation(seed):
        return _add_adapter(model, config)


@contextmanager
def adapter_off(model: VideoModel) -> Iterator[None]:
    """Run the block with the adapter switched off: the reference model. It comes back on even if the block fails."""
    model.denoiser.disable_adapters()
    try:
        yield
    finally:
        model.denoiser.enable_adapters()


def lora_tensors(model: VideoModel) -> dict[str, Tensor]:
    """Return the adapter's weights by diffusers' names, without the ``transformer.`` prefix."""
    state: dict[str, Tensor] = get_peft_model_state_dict(model.denoiser, adapter_name=ADAPTER)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}


def restore_lora(model: VideoModel, tensors: dict[str, Tensor]) -> None:
    """Put back weights that ``lora_tensors`` returned."""
    set_peft_model_state_dict(model.denoiser, tensors, adapter_name=ADAPTER)


def save_lora(
    model: VideoModel,
    folder: Path,
    layout: Literal["diffusers", "comfyui"] = "diffusers",
) -> Path:
    """Write the adapter so that ``pipeline.load_lora_weights(folder)`` loads it; the base's fingerprint goes along.

    Args:
        model: the model with its adapter.
        folder: usually ``RUN/lora``.
        layout: any but ``diffusers`` adds a second file beside it, ``pytorch_lora_weights_comfyui.safetensors``.

    Returns:
        The file in diffusers' layout, which is always written.

    Raises:
        ModelError: if it cannot be written, or a layer's name in ComfyUI is not known.
    """
    config: dict[str, Any] = model.denoiser.peft_config[ADAPTER].to_dict()
    kept = {key: config[key] for key in ("r", "lora_alpha", "target_modules", "lora_dropout", "use_rslora")}
    kept["target_modules"] = sorted(kept["target_modules"])
    facts = {f"{_PREFIX}{key}": value for key, value in kept.items()} | {_BASE_KEY: model.fingerprint}
    weights = lora_tensors(model)
    path = folder / FILE_NAME
    _write(path, {f"{_PREFIX}{name}": tensor for name, tensor in weights.items()}, _CONFIG_KEY, facts)
    if layout != "diffusers":
        factor = kept["lora_alpha"] / kept["r"]
        scaled = {name: t * factor if name.endswith(_HALVES[1]) else t for name, t in weights.items()}
        fused, rest = fuse(model.family, scaled)
        named = fused | {to_comfyui(model.family, name): tensor for name, tensor in rest.items()}
        _write(
            folder / COMFYUI_FILE_NAME, dict(sorted(named.items())), _COMFYUI_CONFIG_KEY, {_BASE_KEY: model.fingerprint}
        )
    return path


def load_lora(model: VideoModel, folder: Path, scale: float = 1.0) -> None:
    """Load an adapter saved by us, or by anyone in diffusers' or ComfyUI's layout, onto the denoiser, frozen.

    Args:
        model: the base, without adapter.
        folder: a folder that holds the file, or the file.
        scale: strength of the update: 0 is the base, 1 the model as it was trained.

    Raises:
        ModelError: if the file is missing or no safetensors file, was trained on another base, lacks a half of a
            matrix, or does not fit; the first keys that do not match are listed.
    """
    path = lora_file(folder)
    if path is None or not path.is_file():
        missing = path or folder / FILE_NAME
        raise ModelError(f"{missing}: no such LoRA file; give a run's lora/ folder or a .safetensors file")
    file = open_tensors(path)
    facts = _facts(file)
    base = facts.get(_BASE_KEY)
    if base is not None and base != model.fingerprint:
        raise ModelError(
            f"{path}: trained on base {base}, but the model loaded is {model.fingerprint} ({model.folder}); "
            f"load the base it was trained on"
        )
    parts = _unfused(model, file)
    names = {key: _our_name(model, key) for key in file.shapes.keys() - fused_keys(model.family, file.shapes)}
    shapes = {name: file.shapes[key] for key, name in names.items()}
    shapes |= {name: tuple(tensor.shape) for name, tensor in parts.items()}
    if len(shapes) != len(names) + len(parts):
        raise ModelError(f"{path}: holds a weight under two names; save the LoRA again")
    alphas = {name for key, name in names.items() if key.startswith(PREFIX) and name.endswith(ALPHA)}
    _check_fit(model, {name: shape for name, shape in shapes.items() if name not in alphas}, path)
    targets = sorted({name.rsplit(".lora_", 1)[0] for name in shapes.keys() - alphas})
    rank = _rank(shapes, targets, path)
    tensors = {names[key]: tensor for key, tensor in file.read() if key in names} | parts
    for name in alphas:
        half = f"{name.removesuffix(ALPHA)}.lora_{_HALVES[1]}"
        if half not in tensors or tensors[name].numel() != 1 or tensors[name].item() <= 0:
            raise ModelError(f"{path}: {name} must be one positive number, for a layer that is in the file")
        tensors[half] = tensors[half].float() * (tensors.pop(name).item() / rank)
    alpha = facts.get(f"{_PREFIX}lora_alpha", rank)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ModelError(f"{path}: its metadata says lora_alpha {alpha!r}; it must be a positive number")
    _add_adapter(model, LoraConfig(r=rank, lora_alpha=alpha * scale, target_modules=targets))
    restore_lora(model, tensors)
    model.denoiser.requires_grad_(False)


def lora_file(folder: Path) -> Path | None:
    """Return the LoRA file in a folder, diffusers' before ComfyUI's, or None; a path that is no folder is the file."""
    if not folder.is_dir():
        return folder
    return next((folder / name for name in (FILE_NAME, COMFYUI_FILE_NAME) if (folder / name).is_file()), None)


def _add_adapter(model: VideoModel, config: LoraConfig) -> list[nn.Parameter]:
    model.denoiser.add_adapter(config, adapter_name=ADAPTER)
    parameters = [p for p in model.denoiser.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()  # the library gives them the base's type
    return parameters


def _check_targets(model: VideoModel, targets: Sequence[str]) -> None:
    """Refuse a target that names no linear layer; the library would skip it in silence if another one matches."""
    is_linear = {name: isinstance(module, nn.Linear) for name, module in model.denoiser.named_modules()}
    for target in targets or [""]:
        found = [is_linear[name] for name in is_linear if name == target or name.endswith(f".{target}")]
        if not found or not all(found):
            known = dict.fromkeys(_BEFORE_BLOCK_NUMBER.sub("", name) for name in is_linear if is_linear[name])
            raise ConfigError(f"lora_targets: {target!r} is no linear layer of this model; it has {', '.join(known)}")


def _write(path: Path, tensors: dict[str, Tensor], key: str, facts: dict[str, Any]) -> None:
    # one metadata key only: safetensors writes several in random order, and equal runs must give equal bytes
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {key: json.dumps(facts, sort_keys=True)})
        except SafetensorError as error:
            raise ModelError(f"{path}: cannot be written ({error}); make room and repeat the command") from None


def _facts(file: TensorFile) -> dict[str, Any]:
    """Return what a LoRA file says of itself."""
    key = next((key for key in (_CONFIG_KEY, _COMFYUI_CONFIG_KEY) if key in file.metadata), _CONFIG_KEY)
    try:
        facts = json.loads(file.metadata.get(key, "{}"))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise ModelError(f"{file.path}: its metadata {key} is not a JSON object; save the LoRA again")
    if found := [name for name in _UNSUPPORTED if facts.get(f"{_PREFIX}{name}")]:
        raise ModelError(f"{file.path}: was made with {found[0]}, which is not supported; merge it into plain matrices")
    return facts


def _unfused(model: VideoModel, file: TensorFile) -> dict[str, Tensor]:
    """Return the weights of layers that are one in ComfyUI and several here."""
    chosen = fused_keys(model.family, file.shapes)
    if not chosen:
        return {}
    linear = {name: module.out_features for name, module in _linear_layers(model)}
    try:
        return unfuse(model.family, {key: tensor for key, tensor in file.read() if key in chosen}, linear)
    except ModelError as error:
        raise ModelError(f"{file.path}: does not fit {model.folder}: {error}") from None


def _linear_layers(model: VideoModel) -> Iterator[tuple[str, nn.Linear]]:
    return ((name, module) for name, module in model.denoiser.named_modules() if isinstance(module, nn.Linear))


def _our_name(model: VideoModel, key: str) -> str:
    return from_comfyui(model.family, key) if key.startswith(PREFIX) else key.removeprefix(_PREFIX)


def _check_fit(model: VideoModel, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    modules = dict(model.denoiser.named_modules())
    wrong = []
    for name, shape in shapes.items():
        target, _, part = name.partition(".lora_")
        weight = getattr(modules.get(target), "weight", None)
        axis = 1 if part.startswith("A") else 0
        if weight is None or part not in _HALVES or len(shape) != 2 or shape[axis] != weight.shape[axis]:
            wrong.append(name)
    if wrong or not shapes:
        listed = ", ".join(wrong[:3]) or "the file is empty"
        raise ModelError(f"{path}: does not fit {model.folder}: {len(wrong)} of {len(shapes)} keys ({listed}, …)")


def _rank(shapes: dict[str, tuple[int, ...]], targets: list[str], path: Path) -> int:
    """Return the one rank of all halves, read off their shapes: A is [rank, in], B is [out, rank]."""
    ranks = set()
    for target in targets:
        for axis, half in enumerate(_HALVES):
            name = f"{target}.lora_{half}"
            if name not in shapes:
                raise ModelError(f"{path}: {name} is missing, only the other half is there; save the LoRA again")
            ranks.add(shapes[name][axis])
    if len(ranks) != 1 or ranks == {0}:
        raise ModelError(f"{path}: its matrices have ranks {sorted(ranks)}; one rank for all is supported")
    return ranks.pop()
