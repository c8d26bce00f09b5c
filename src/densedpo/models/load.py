"""Find and load a model: the miniature in the package, a local folder, or a hub name at a pinned revision."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from densedpo.clips.geometry import ClipGeometry
from densedpo.errors import ConfigError, ModelError
from densedpo.models.base import VideoModel
from densedpo.models.cogvideox import CogVideoXModel
from densedpo.models.fingerprint import fingerprint_folder
from densedpo.models.folder import denoiser_stored, from_hub, read_config
from densedpo.models.full import CONFIG, load_denoiser
from densedpo.models.hunyuan_video import HunyuanVideoModel
from densedpo.models.lora import load_lora, lora_file
from densedpo.models.ltx import LtxModel
from densedpo.models.storage import StorageDtype
from densedpo.models.tensors import check_weights, is_finite
from densedpo.models.wan import WanModel
from densedpo.models.weightless import load_weightless
from densedpo.store.files import sha256_file

FAMILIES: dict[str, type[VideoModel]] = {
    "WanPipeline": WanModel,
    "CogVideoXPipeline": CogVideoXModel,
    "LTXPipeline": LtxModel,
    "LTXConditionPipeline": LtxModel,
    "HunyuanVideoPipeline": HunyuanVideoModel,
}
# Data beside the miniature world's code; nothing of that code is imported.
MINIATURE = Path(__file__).parent.parent / "miniworld" / "base"
_DEVICE = re.compile(r"cpu|cuda(?::(\d{1,4}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONFIGURATION = ["*.json", "*.model", "*.txt"]
_WANTED = [*_CONFIGURATION, "*/*.safetensors"]  # weights of parts; some hub models keep every release whole beside them


def resolve_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: if the name is unknown or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = _DEVICE.fullmatch(name)
    if known is None:
        raise ConfigError(f"device: {name!r} is unknown; use auto, cpu, cuda or cuda:N")
    if name != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r} asked for, but torch sees no GPU here; use --device cpu")
    if int(known[1] or 0) >= (count := torch.cuda.device_count()) and name != "cpu":
        raise ConfigError(f"device: {name!r} asked for, but there are {count} GPUs, counted from 0; use another N")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format for float32, bfloat16, or auto: bfloat16 on a GPU and float32 elsewhere."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def resolve_folder(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Return the local folder of a model, fetching a hub model's files if need be, with or without its weights.

    Raises:
        ModelError: if the folder has no ``model_index.json`` or the hub model cannot be had.
    """
    folder = MINIATURE if name == "miniature" else Path(name)
    if not folder.is_dir():
        folder = from_hub(name, _WANTED if weights else _CONFIGURATION, revision)
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder}: no model_index.json; give a folder in diffusers layout, or `miniature`")
    return folder


def load_model(
    name: str = "miniature",
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    storage_dtype: StorageDtype | None = None,
) -> VideoModel:
    """Load a model by the family named in its ``model_index.json``; remote code is never run.

    Args:
        name: ``miniature``, a local folder or a hub name.
        revision: of a hub model.
        device: as ``resolve_device`` takes it.
        dtype: number format of the denoiser's weights and computation: float32, bfloat16, or auto, which is bfloat16
            on a GPU and float32 elsewhere.
        storage_dtype: format that the denoiser's weights are kept in, where other (``models.storage``); for a model
            that gets a LoRA this comes later.

    Raises:
        ModelError: if the family is unknown or not supported, a part does not load, a weight file is no whole
            safetensors file, or a weight is not finite.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    folder = resolve_folder(name, revision)
    family = _family(folder)
    check_weights(folder)
    place = resolve_device(device)
    with denoiser_stored(storage_dtype):
        model = family(folder, device=place, dtype=resolve_dtype(dtype, place))
    model.storage_dtype = storage_dtype
    model.name = name
    for part, module in vars(model).items():
        for weight, tensor in module.state_dict().items() if isinstance(module, nn.Module) else ():
            if not is_finite(tensor):
                raise ModelError(f"{folder}: {part}.{weight} holds non-finite numbers; get the model again")
    return model


def load_shapes(name: str, *, revision: str | None = None, dtype: str = "float32") -> VideoModel:
    """Return a model without weights, from its configuration files alone; see ``models.weightless``.

    Raises:
        ModelError: if the family is unknown or not supported, or a file is missing or wrong.
    """
    folder = resolve_folder(name, revision, weights=False)
    return load_weightless(_family(folder), folder, getattr(torch, dtype))


def load_tuned(
    name: str,
    tuned: Path | None,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> VideoModel:
    """Load a model and, if given, what was tuned from it: anything that ``find_tuned`` finds.

    Raises:
        ModelError: as ``find_tuned``, or if what is there does not belong to the model.
    """
    found = None if tuned is None else find_tuned(tuned)
    model = load_model(name, revision=revision, device=device, dtype=dtype)
    if found is not None:
        (load_denoiser if found.is_dir() else load_lora)(model, found)
    return model


def find_tuned(path: Path) -> Path:
    """Return what was tuned: a LoRA file, or the folder of a whole denoiser.

    Args:
        path: a run's folder, its ``lora`` or ``transformer`` folder, or a LoRA file.

    Raises:
        ModelError: if there is nothing of the kind, or both.
    """
    inside = [path / name for name in ("lora", "transformer") if (path / name).is_dir()]
    if len(inside) > 1:
        raise ModelError(f"{path}: has both lora/ and transformer/; name the one that is meant")
    place = inside[0] if inside else path
    if (file := lora_file(place)) and file.is_file():
        return file
    if (place / CONFIG).is_file():
        return place
    raise ModelError(
        f"{path}: no LoRA and no tuned denoiser; give a finished run's folder, its lora/ or transformer/, or a "
        ".safetensors file"
    )


def tuned_digest(path: Path) -> str:
    """Return a digest of what ``find_tuned`` finds: it changes with the weights.

    Raises:
        ModelError: as ``find_tuned``.
    """
    found = find_tuned(path)
    return fingerprint_folder(found) if found.is_dir() else sha256_file(found)


def hub_revision(folder: Path) -> str | None:
    """Return the commit that a folder in the hub's cache holds; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def load_geometry(name: str, *, revision: str | None = None) -> ClipGeometry:
    """Return the clip shape that a model takes, from its configuration files alone."""
    folder = resolve_folder(name, revision, weights=False)
    return _family(folder).geometry_of(folder)


def _family(folder: Path) -> type[VideoModel]:
    family = str(read_config(folder / "model_index.json").get("_class_name"))
    if family not in FAMILIES:
        raise ModelError(f"{folder}: family {family!r} is not supported; supported: {', '.join(FAMILIES)}")
    return FAMILIES[family]
