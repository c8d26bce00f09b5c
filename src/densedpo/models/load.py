"""Find and load a model: the miniature in the package, a local folder, or a hub name at a pinned revision."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from densedpo.clips.geometry import ClipGeometry
from densedpo.errors import ConfigError, ModelError
from densedpo.models.base import VideoModel
from densedpo.models.lora import load_lora
from densedpo.models.wan import WanModel, read_config

FAMILIES: dict[str, type[WanModel]] = {"WanPipeline": WanModel}
# Data beside the miniature world's code; nothing of that code is imported.
MINIATURE = Path(__file__).parent.parent / "miniworld" / "base"
_DEVICE = re.compile(r"cpu|cuda(?::(\d{1,4}))?")
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt"]


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


def resolve_folder(name: str, revision: str | None = None) -> Path:
    """Return the local folder of a model, fetching a hub model's safetensors and JSON files if need be.

    Raises:
        ModelError: if the folder has no ``model_index.json`` or the hub model cannot be had.
    """
    folder = MINIATURE if name == "miniature" else Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"{name}: neither a local folder nor a hub model that can be fetched ({reason})") from None
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder}: no model_index.json; give a folder in diffusers layout, or `miniature`")
    return folder


def load_model(
    name: str = "miniature", *, revision: str | None = None, device: str = "auto", dtype: str = "float32"
) -> VideoModel:
    """Load a model by the family named in its ``model_index.json``; remote code is never run.

    Raises:
        ModelError: if the family is unknown or not supported, or a part does not load.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    folder = resolve_folder(name, revision)
    model = _family(folder)(folder, device=resolve_device(device), dtype=getattr(torch, dtype))
    model.name = name
    return model


def load_tuned(name: str, lora: Path | None, *, revision: str | None = None, device: str = "auto") -> VideoModel:
    """Load a model and, if given, a LoRA on it."""
    model = load_model(name, revision=revision, device=device)
    if lora is not None:
        load_lora(model, lora)
    return model


def load_geometry(name: str, *, revision: str | None = None) -> ClipGeometry:
    """Return the clip shape that a model takes, from its configuration files alone."""
    folder = resolve_folder(name, revision)
    return _family(folder).geometry_of(folder)


def _family(folder: Path) -> type[WanModel]:
    family = str(read_config(folder / "model_index.json").get("_class_name"))
    if family not in FAMILIES:
        raise ModelError(f"{folder}: family {family!r} is not supported; supported: {', '.join(FAMILIES)}")
    return FAMILIES[family]
