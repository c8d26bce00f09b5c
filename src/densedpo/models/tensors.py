"""Weight files that anyone may have made: whole, unambiguous safetensors, or refused before a library opens them.

Libraries fall back to other formats where a folder's index names one, and their readers take a name that stands twice.
So every header is read here first, and a folder is checked as a whole before its parts are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from densedpo.errors import ModelError, ProjectError
from densedpo.store.files import read_object

INDEX_ENDING = ".safetensors.index.json"
_MAX_HEADER_BYTES = 2 * 2**20  # a 14-billion-parameter model needs 0.2 MiB; longer ones would only cost time
_WEIGHTS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header was found in order: names, types and shapes of its tensors, and its metadata."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    metadata: dict[str, str]

    def read(self) -> Iterator[tuple[str, Tensor]]:
        """Give name and tensor, one by one.

        Raises:
            ModelError: if a tensor is not of floating point, or holds a number that is not finite.
        """
        with safe_open(self.path, "pt") as file:
            for name, kind in self.types.items():
                if kind not in _WEIGHTS:
                    raise ModelError(f"{self.path}: {name} is of type {kind}, which is none of {', '.join(_WEIGHTS)}")
                tensor: Tensor = file.get_tensor(name)
                if not is_finite(tensor):
                    raise ModelError(f"{self.path}: {name} holds non-finite numbers")
                yield name, tensor


def open_tensors(path: Path) -> TensorFile:
    """Read and check the header of a safetensors file; no tensor is read.

    Raises:
        ModelError: if the file is missing, is no whole safetensors file, or names a tensor twice.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"its header would be {length} bytes")
            header = file.read(length)
        with safe_open(path, "pt"):  # types, shapes, and that the tensors cover the file without hole or overlap
            entries: dict[str, Any] = json.loads(header, object_pairs_hook=_unique)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error}); nothing else is ever read") from None
    metadata = entries.pop("__metadata__", None) or {}
    return TensorFile(
        path=path,
        shapes={name: tuple(entry["shape"]) for name, entry in entries.items()},
        types={name: entry["dtype"] for name, entry in entries.items()},
        metadata=metadata,
    )


def shards(index: Path) -> list[Path]:
    """Return the files that an index spreads a model over.

    Raises:
        ModelError: if it is no index, or names anything but a safetensors file beside itself.
    """
    try:
        names = read_object(index).get("weight_map")
    except ProjectError as error:
        raise ModelError(str(error)) from None
    found = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
    if not found:
        raise ModelError(f"{index}: has no weight_map; get the model again")
    for name in found:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: names {name!r}, no safetensors file beside it; nothing else is ever read")
    return [index.with_name(name) for name in found]


def check_weights(folder: Path) -> None:
    """Check the weight files of a model folder's parts before any library opens them.

    Raises:
        ModelError: for the first file that is not a whole safetensors file, or an index that names another kind.
    """
    for index in sorted(folder.glob(f"*/*{INDEX_ENDING}")):
        shards(index)
    for path in sorted(folder.glob("*/*.safetensors")):
        open_tensors(path)


def is_finite(tensor: Tensor) -> bool:
    """Say whether every number is finite; one pass, no copy but of 8-bit floats, which torch cannot search."""
    if tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1:
        tensor = tensor.bfloat16()
    return tensor.numel() == 0 or all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is in it twice")
        found[name] = value
    return found
