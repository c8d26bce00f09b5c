"""A model's folder in diffusers' layout: where it lies, its JSON files and its parts, safetensors alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from transformers import AutoTokenizer

from densedpo.errors import ModelError, ProjectError
from densedpo.models.base import InferenceDefaults
from densedpo.models.storage import StorageDtype, store_weights
from densedpo.store.files import read_object


def read_config(path: Path) -> dict[str, Any]:
    """Read one of a model's JSON files.

    Raises:
        ModelError: if it is missing or holds no JSON object.
    """
    try:
        return read_object(path)
    except ProjectError as error:
        raise ModelError(str(error)) from None


def number(path: Path, *keys: str, default: float) -> float:
    """Return the first of ``keys`` that a model's JSON file has: a positive number.

    Raises:
        ModelError: if the file is missing, or the value is something else.
    """
    config = read_config(path)
    key = next((key for key in keys if key in config), None)
    value = default if key is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(f"{path}: {key} must be a positive number, got {value!r}")
    return value


def from_hub(name: str, wanted: Sequence[str], revision: str | None = None) -> Path:
    """Return where a hub model's files of these patterns lie on this machine, fetching those that are not there yet.

    Raises:
        ModelError: if there is no such model, or it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{name}: neither a local folder nor a hub model that can be fetched ({reason})") from None


def scheduler_file(folder: Path) -> Path:
    """Return where a model keeps the settings of its noise schedule."""
    return folder / "scheduler" / "scheduler_config.json"


def inference_settings(folder: Path, defaults: InferenceDefaults, *, multiple_px: int = 1) -> InferenceDefaults:
    """Return the family's settings, overlaid by ``densedpo.json`` where a model folder has one; the miniature does.

    Args:
        folder: the model's folder.
        defaults: the family's.
        multiple_px: what height and width must be multiples of.

    Raises:
        ModelError: if that file holds unknown settings or values out of range.
    """
    path = folder / "densedpo.json"
    if not path.exists():
        return defaults
    given = read_config(path).get("inference", {})
    if not isinstance(given, dict):
        raise ModelError(f"{path}: inference must be an object of settings, got {type(given).__name__}")
    known = {item.name for item in fields(InferenceDefaults)}
    if unknown := sorted(set(given) - known):
        raise ModelError(f"{path}: unknown inference settings {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        settings = TypeAdapter(InferenceDefaults).validate_python(asdict(defaults) | given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path}: inference.{key}: {first['msg']}, got {first['input']!r}") from None
    if settings.height % multiple_px or settings.width % multiple_px:
        size = f"{settings.height}x{settings.width}"
        raise ModelError(f"{path}: inference: height and width must be multiples of {multiple_px}, got {size}")
    return settings


@contextmanager
def naming_folder(folder: Path, family: str) -> Iterator[None]:
    """Turn whatever loading raises into one error that names the folder."""
    try:
        yield
    # a weight that the files lack stays without storage, which fails with NotImplementedError when it is moved
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot load this {family} model: {' '.join(str(error).split())}") from error


_STORAGE: ContextVar[StorageDtype | None] = ContextVar("storage", default=None)
_WITHOUT_WEIGHTS: ContextVar[bool] = ContextVar("without_weights", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Have ``load_part`` make parts from their configuration alone, on ``meta``; for ``models.weightless``."""
    token = _WITHOUT_WEIGHTS.set(True)
    try:
        yield
    finally:
        _WITHOUT_WEIGHTS.reset(token)


@contextmanager
def denoiser_stored(storage: StorageDtype | None) -> Iterator[None]:
    """Have ``load_part`` make a denoiser's weights small before they go to the device."""
    token = _STORAGE.set(storage)
    try:
        yield
    finally:
        _STORAGE.reset(token)


def load_part(kind: type[Any], folder: Path, name: str, dtype: torch.dtype) -> Any:
    """Load one part of a diffusers model, frozen, on the CPU.

    Args:
        kind: its class; diffusers' or transformers'.
        folder: the model's folder.
        name: of the part's folder, such as ``vae``.
        dtype: number format of its weights.

    Raises:
        ModelError: if weights are missing.
    """
    if _WITHOUT_WEIGHTS.get():
        return _shape_of_part(kind, folder, name, dtype)
    local: dict[str, Any] = {"subfolder": name, "local_files_only": True, "use_safetensors": True}
    if kind.__module__.startswith("diffusers"):
        part: nn.Module = kind.from_pretrained(folder, torch_dtype=dtype, **local)
    else:
        part, found = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True, **local)
        if missing := sorted(found["missing_keys"]):
            raise ModelError(f"{folder}: {name} lacks {len(missing)} weights ({missing[0]}, …)")
    part.requires_grad_(False).eval()
    if name.startswith("transformer") and (storage := _STORAGE.get()):
        store_weights(part, storage)
    return part


def _shape_of_part(kind: type[Any], folder: Path, name: str, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        if kind.__module__.startswith("diffusers"):
            part: nn.Module = kind.from_config(kind.load_config(folder, subfolder=name, local_files_only=True))
        else:
            part = kind(kind.config_class.from_pretrained(folder, subfolder=name, local_files_only=True))
    in_float32 = getattr(part, "_keep_in_fp32_modules", None) or ()
    for weight, parameter in part.named_parameters():
        if not any(kept in weight.split(".") for kept in in_float32):
            parameter.data = parameter.data.to(dtype)
    return part.requires_grad_(False).eval()


def load_tokenizer(folder: Path, name: str = "tokenizer") -> Any:
    """Load a tokenizer; code that it may bring along is never run."""
    return AutoTokenizer.from_pretrained(folder, subfolder=name, local_files_only=True, trust_remote_code=False)


def tokenize(tokenizer: Any, prompts: list[str], length: int) -> Any:
    """Return ids and mask of prompts [B, L], cut or padded to ``length`` tokens with their special ones."""
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=length,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
