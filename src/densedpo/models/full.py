"""Full fine-tuning: which weights move, and the whole denoiser saved and loaded in diffusers' layout.

``RUN/transformer/`` holds ``config.json``, safetensors (in shards where large) and ``densedpo.json``, which names the
base. diffusers loads it like any model's part: ``from_pretrained(RUN, subfolder="transformer")``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn

from densedpo.errors import ModelError
from densedpo.keys import content_id
from densedpo.models.base import VideoModel
from densedpo.models.fingerprint import fingerprint_folder
from densedpo.models.folder import read_config
from densedpo.models.tensors import INDEX_ENDING, TensorFile, is_finite, open_tensors, shards
from densedpo.store.files import replacing_folder, write_json

CONFIG = "config.json"
_STEM = "diffusion_pytorch_model"  # diffusers' name
_RECORD = "densedpo.json"
_SHARD_BYTES = 10**10


def trainable(model: VideoModel) -> dict[str, nn.Parameter]:
    """Make every weight of the denoiser trainable and float32, and return them by name.

    A model that was loaded in bfloat16 must then be called under autocast (``VideoModel.compute_dtype``).
    """
    model.denoiser.float().requires_grad_(True)
    return dict(model.denoiser.named_parameters())


def save_denoiser(
    model: VideoModel, folder: Path, tensors: Mapping[str, Tensor] | None = None, *, shard_bytes: int = _SHARD_BYTES
) -> Path:
    """Write the denoiser to ``folder``, whole or not at all, in place of what was there.

    Args:
        model: the tuned model; its fingerprint is the base's and goes along.
        folder: usually ``RUN/transformer``.
        tensors: weights by name where they are not the model's own: a moving average, or gathered shards.
        shard_bytes: largest size of one file.

    Raises:
        ModelError: if a weight is not finite, or it cannot be written.
    """
    weights = model.denoiser.state_dict() if tensors is None else dict(tensors)
    assert weights.keys() == model.denoiser.state_dict().keys(), "an adapter is still on, or weights are missing"
    if wrong := [name for name, tensor in weights.items() if not is_finite(tensor)]:
        raise ModelError(f"{folder}: {wrong[0]} holds non-finite numbers; not saved")
    config = _config(model)
    config.pop("_name_or_path", None)  # where the base lay on this machine
    with replacing_folder(folder) as temporary:
        try:
            save_torch_state_dict(
                {name: tensor.detach() for name, tensor in weights.items()},
                temporary,
                filename_pattern=f"{_STEM}{{suffix}}.safetensors",
                max_shard_size=shard_bytes,
            )
        except SafetensorError as error:
            raise ModelError(f"{folder}: cannot be written ({error}); make room and repeat the command") from None
        write_json(temporary / CONFIG, config)
        write_json(temporary / _RECORD, {"base_fingerprint": model.fingerprint})
    return folder


def load_denoiser(model: VideoModel, folder: Path) -> None:
    """Put the weights in ``folder`` into the denoiser, frozen; the model's fingerprint becomes the tuned model's own.

    Raises:
        ModelError: if the folder was tuned from another base, is of another shape, lacks a weight or has one too many,
            or holds a number that is not finite. The model is of no use then.
    """
    config = read_config(folder / CONFIG)
    record = read_config(folder / _RECORD) if (folder / _RECORD).exists() else {}
    base = record.get("base_fingerprint", model.fingerprint)
    if base != model.fingerprint:
        raise ModelError(
            f"{folder}: tuned from base {base}, but the model loaded is {model.fingerprint} ({model.folder}); "
            f"load the base it was tuned from"
        )
    ours = _config(model)
    if other := [k for k in ours if not k.startswith("_") and k in config and config[k] != ours[k]]:
        shown = ", ".join(f"{key} {config[key]!r} for {ours[key]!r}" for key in other[:3])
        raise ModelError(f"{folder / CONFIG}: another architecture than {model.folder} ({shown})")
    weights = model.denoiser.state_dict()
    files = [open_tensors(path) for path in _weight_files(folder)]
    _check_fit(model, {name: tuple(tensor.shape) for name, tensor in weights.items()}, files, folder)
    with torch.no_grad():
        for file in files:
            for name, tensor in file.read():
                weights[name].copy_(tensor)
    model.denoiser.requires_grad_(False)
    model.fingerprint = content_id("tuned", base, fingerprint_folder(folder))


def _config(model: VideoModel) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(model.denoiser.to_json_string())
    return config


def _weight_files(folder: Path) -> list[Path]:
    index = folder / f"{_STEM}{INDEX_ENDING}"
    return shards(index) if index.exists() else [folder / f"{_STEM}.safetensors"]


def _check_fit(model: VideoModel, wanted: dict[str, tuple[int, ...]], files: list[TensorFile], folder: Path) -> None:
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        if twice := sorted(found.keys() & file.shapes.keys()):
            raise ModelError(f"{folder}: {twice[0]} is in two files; get the folder again")
        found |= file.shapes
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    wrong += [f"{name} is unknown" for name in sorted(found.keys() - wanted.keys())]
    wrong += [
        f"{name} is {list(found[name])}, not {list(wanted[name])}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name] != wanted[name]
    ]
    if wrong:
        raise ModelError(f"{folder}: does not fit {model.folder} in {len(wrong)} weights: {'; '.join(wrong[:3])}")
