"""Text conditions: every caption is encoded once and kept on disk, so that a restart reads instead of encoding.

Trailing rows of the embedding that are exactly zero (the padding of Wan's text encoder) are not stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from densedpo.errors import ModelError
from densedpo.keys import content_id
from densedpo.models.base import VideoModel
from densedpo.models.text import TextCondition
from densedpo.observe import track
from densedpo.store.files import replacing

_KEPT = 512  # conditions in memory


class TextBook:
    """The condition of each caption, made once per base model below ``folder``."""

    def __init__(self, model: VideoModel, captions: Iterable[str], folder: Path) -> None:
        """Encode the captions that are not there yet."""
        weight = next(model.denoiser.parameters())
        self._folder = folder / f"{model.fingerprint}-{str(weight.dtype).removeprefix('torch.')}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._device = weight.device
        self._length = model.defaults.text_length
        missing = [caption for caption in sorted(set(captions)) if not self._path(caption).exists()]
        if missing:
            with model.in_use(*model.text_encoders):
                # one at a time: in a batch the last bits would depend on which captions were still missing
                for caption in track(missing, "encoding captions"):
                    self._write(caption, model.encode_text([caption]))
        self._load = lru_cache(_KEPT)(self._read)

    def stack(self, captions: Sequence[str]) -> TextCondition:
        """Return the conditions of several captions, on the denoiser's device."""
        return TextCondition.cat([self._load(caption) for caption in captions]).to(self._device)

    def _path(self, caption: str) -> Path:
        return self._folder / f"{content_id('caption', caption)}.safetensors"

    def _write(self, caption: str, condition: TextCondition) -> None:
        tensors = {name: tensor[0] for name, tensor in condition.tensors.items()}
        tensors["hidden"] = tensors["hidden"][: _used_rows(tensors["hidden"])]
        with replacing(self._path(caption)) as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)

    def _read(self, caption: str) -> TextCondition:
        path = self._path(caption)
        try:
            tensors = load_file(path)
            hidden = tensors["hidden"]
        except (OSError, SafetensorError, KeyError) as error:
            raise ModelError(f"{path}: cannot be read ({error}); remove it and repeat the command") from None
        padded = hidden.new_zeros(max(self._length, len(hidden)), hidden.shape[1])
        padded[: len(hidden)] = hidden
        return TextCondition({name: tensor[None] for name, tensor in (tensors | {"hidden": padded}).items()})


def _used_rows(embedding: Tensor) -> int:
    """Return the number of rows up to the last one that is not zero, at least 1."""
    used = embedding.ne(0).any(dim=1).nonzero()
    return int(used[-1]) + 1 if len(used) else 1
