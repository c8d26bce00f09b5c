"""The reference of a preference loss: the base model's errors at the policy's own t and noise.

Three kinds: the LoRA switched off, a frozen copy for full fine-tuning, and errors measured once before training and
read from disk. Each is asked *before* the policy's graph is built, so nothing can recompute the policy with the adapter
off. The cache holds per-latent-frame errors of K stored draws a pair, which any label, loss or beta can use.

Shape letters: B pairs, F latent frames, K stored draws, L text tokens, D text width.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from densedpo.config import TrainSettings
from densedpo.errors import CheckpointError, TrainingError
from densedpo.keys import content_id
from densedpo.models.base import VideoModel
from densedpo.models.lora import ADAPTER, adapter_off
from densedpo.models.parts import Denoiser
from densedpo.models.text import TextCondition
from densedpo.models.text_book import TextBook
from densedpo.observe import say, track, warn
from densedpo.store.files import remove_leftovers, replacing, write_json
from densedpo.training.data import LatentReader, PairItem, PairLatents, Visit, micro_batches
from densedpo.training.draws import Draw, DrawLaw
from densedpo.training.loss import Errors
from densedpo.training.objective import Part, pair_errors
from densedpo.training.parallel import Parallel

MAX_LOGIT_NOISE = 0.01  # of a logit whose median is about 0.3: far below what could turn a step
_FACTS_KEY = "densedpo"  # one metadata key only: safetensors writes several in random order
_STORED = ("a", "b", "t")


class AdapterOff:
    """The reference of LoRA training: the same denoiser with its adapter switched off."""

    def __init__(self, model: VideoModel) -> None:
        self._model = model

    @property
    def denoiser(self) -> nn.Module:
        """What the reference runs: the policy's own denoiser."""
        return self._model.denoiser

    @torch.no_grad()
    def errors(
        self, visits: Sequence[Visit], latents: Sequence[PairLatents], draw: Draw, text: TextCondition
    ) -> Errors:
        """Return the base's errors."""
        with adapter_off(self._model):
            return pair_errors(self._model, latents, draw, text)


class FrozenCopy:
    """The reference of full fine-tuning: a frozen copy of the denoiser.

    Make it when the denoiser is in the number format it will train in, and before a weight is trained or restored. The
    policy's denoiser is swapped out inside the call only, and comes back even if the call fails.
    """

    def __init__(self, model: VideoModel) -> None:
        self._model = model
        self.denoiser: Denoiser = copy.deepcopy(model.denoiser).requires_grad_(False).eval()

    @torch.no_grad()
    def errors(
        self, visits: Sequence[Visit], latents: Sequence[PairLatents], draw: Draw, text: TextCondition
    ) -> Errors:
        """Return the base's errors."""
        policy = self._model.denoiser
        self._model.denoiser = self.denoiser
        try:
            return pair_errors(self._model, latents, draw, text)
        finally:
            self._model.denoiser = policy


class CachedReference:
    """Errors that ``precompute`` measured; the model is never run. ``draw`` must be one of stored draws."""

    def __init__(self, folder: Path, draws: int) -> None:
        """Read from ``folder``, where each pair has ``draws`` stored draws; a file is read when it is first needed."""
        self.folder, self._draws = folder, draws
        self._loaded: dict[str, dict[str, Tensor]] = {}  # a few KB a pair

    def errors(
        self, visits: Sequence[Visit], latents: Sequence[PairLatents], draw: Draw, text: TextCondition
    ) -> Errors:
        """Return the stored errors of each visit's draw.

        Raises:
            TrainingError: if a pair's file is missing, damaged, stale, or was measured at another noise level.
        """
        assert draw.stored is not None, "a cached reference needs stored draws"
        rows = [self._of(visit.item) for visit in visits]
        for visit, stored, index, t in zip(visits, rows, draw.stored, draw.t.tolist(), strict=True):
            if stored["t"][index].item() != t:
                path = _path(self.folder, visit.item)
                raise TrainingError(
                    f"pair {visit.item.pair_id}: {path}: draw {index} was measured at noise level "
                    f"{stored['t'][index]:.6f}, not at {t:.6f}; remove {self.folder} and repeat the command"
                )
        sides = (torch.stack([row[s][k] for row, k in zip(rows, draw.stored, strict=True)]) for s in ("a", "b"))
        return Errors(*(side.to(text.device) for side in sides))

    def _of(self, item: PairItem) -> dict[str, Tensor]:
        if item.pair_id not in self._loaded:
            stored = _load(_path(self.folder, item), item, self._draws)
            if stored is None:
                raise TrainingError(
                    f"pair {item.pair_id}: {_path(self.folder, item)}: missing or damaged; repeat the command, which "
                    f"measures what is missing"
                )
            self._loaded[item.pair_id] = stored
        return self._loaded[item.pair_id]


@dataclass(frozen=True)
class Payback:
    """What a cache costs and saves, in reference passes of one pair, both sides."""

    cost: int
    saved_per_epoch: int
    run_epochs: float

    @property
    def epochs(self) -> float:
        """Epochs after which the cache has saved what it cost: K, or less where files are already there."""
        return self.cost / self.saved_per_epoch

    def say(self) -> None:
        """Tell the user before it is spent; warn where this run is too short to earn it back."""
        saved = round(self.saved_per_epoch * self.run_epochs)
        say(
            f"reference cache: {self.cost} passes to make, {saved} saved in this run; paid back after "
            f"{self.epochs:.1f} epochs, this run has {self.run_epochs:.1f}"
        )
        if self.run_epochs < self.epochs:
            warn(
                "this run is too short to pay the reference cache back; lower ref_draws or leave out "
                "precompute_ref_errors, unless other runs on these pairs will use it"
            )


def precompute(
    model: VideoModel,
    items: Sequence[PairItem],
    reader: LatentReader,
    texts: TextBook,
    law: DrawLaw,
    settings: TrainSettings,
    cache: Path,
    parallel: Parallel | None = None,
) -> CachedReference:
    """Measure the base's errors on every stored draw of every pair, once; what is already there is kept.

    The base is the denoiser with its adapter, if any, switched off. In full fine-tuning this must therefore come before
    a weight is trained or restored. Pairs go through the model in parts that do not depend on what is already there, so
    a pass that was killed and repeated equals one that was not.

    Args:
        model: the model, on its device and in its number format.
        items: the pairs.
        reader: reads their latents.
        texts: their captions' embeddings.
        law: the law of draws, with ``stored`` set.
        settings: the run's.
        cache: folder of caches; this one is ``reference/<id>/`` below it, the id naming all that changes the numbers.
        parallel: the processes that share the work, all of which must call this; by default this one alone.

    Raises:
        TrainingError: if a file was measured on other latents or another caption of the same pair, or an error is not
            finite.
    """
    assert law.stored is not None
    shared_by = 1 if parallel is None else parallel.world
    size = min(settings.micro_batch_size, math.ceil(settings.batch_size / shared_by))  # of a pass in training
    facts = _made_for(model, law, settings, size)
    folder = cache / "reference" / content_id("reference", facts)
    if parallel is None or parallel.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        write_json(folder / "info.json", facts)
    visits = [Visit(item, 0) for item in sorted(items, key=lambda item: item.pair_id)]
    parts = [[visit.item for visit in part] for part in micro_batches(visits, size)]
    todo = [(part, missing) for part in parts if (missing := _missing(folder, part, law.stored))]
    if todo:
        passes = law.stored * sum(len(part) for part, _ in todo)
        payback = Payback(passes, len(items), settings.max_steps * settings.batch_size / len(items))
        if parallel is None or parallel.is_main:
            payback.say()
        mine = [(work, 1.0) for work in todo]
        if parallel is not None:
            parallel.wait()  # nobody writes before everybody has seen what is missing
            mine = parallel.in_step(parallel.share(todo), todo[0])
        for (part, missing), weight in track(mine, "measuring the reference"):
            measured = _measure(model, part, reader, texts, law)
            for item in missing if weight else []:
                _write(_path(folder, item), item, measured[item.pair_id])
        if parallel is not None:
            parallel.wait()
    return CachedReference(folder, law.stored)


def verify(cached: CachedReference, model: VideoModel, part: Part, beta: float) -> float:
    """Compare the cache with the base as it is now; return the noise of a logit, 0.5 beta max |difference of (a - b)|.

    Call it before a weight is trained or restored, on the first part of the first batch.

    Raises:
        CheckpointError: if the noise is above ``MAX_LOGIT_NOISE``: the cache was made with other numerics.
    """
    found = cached.errors(part.visits, part.latents, part.draw, part.text)
    live = _base_errors(model, part.latents, part.draw, part.text)
    noise = 0.5 * beta * float(((found.a - found.b) - (live.a - live.b)).abs().max())
    if not noise <= MAX_LOGIT_NOISE:  # a NaN must not pass
        raise CheckpointError(
            f"{cached.folder}: these reference errors differ from the model's own by {noise:.2g} in the logit (at most "
            f"{MAX_LOGIT_NOISE} at beta {beta:g}), so they were made with other numerics; remove this folder"
        )
    return noise


@contextmanager
def _base(model: VideoModel) -> Iterator[None]:
    """Run the block with the base's weights."""
    with adapter_off(model) if ADAPTER in getattr(model.denoiser, "peft_config", {}) else nullcontext():
        yield


@torch.no_grad()
def _base_errors(model: VideoModel, latents: Sequence[PairLatents], draw: Draw, text: TextCondition) -> Errors:
    with _base(model):
        return pair_errors(model, latents, draw, text)


def _made_for(model: VideoModel, law: DrawLaw, settings: TrainSettings, size: int) -> dict[str, Any]:
    """Return everything that changes the numbers, except the pair itself."""
    weight = next(model.denoiser.parameters())
    return {
        "base_fingerprint": model.fingerprint,
        "ref_draws": law.stored,
        "shift": law.shift,
        "levels": type(law.levels).__name__,
        "share_noise": law.share_noise,
        "t_limit": "eta" if law.limit_to_eta else "none",
        "dtype": settings.dtype,
        "storage_dtype": settings.storage_dtype,
        "weights": str(weight.dtype),
        "attention_backend": settings.attention_backend,
        "compile": settings.compile,
        "micro_batch_size": size,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        "device": weight.device.type,
    }


def _measure(
    model: VideoModel, part: Sequence[PairItem], reader: LatentReader, texts: TextBook, law: DrawLaw
) -> dict[str, dict[str, Tensor]]:
    """Return a [K, F], b [K, F] and t [K] of each pair of a part, in the batch layout of training."""
    assert law.stored is not None
    latents = [reader.read(item) for item in part]
    text = texts.stack([item.caption for item in part])
    draws = [law.stored_draws(part, [index] * len(part), part[0].latent_shape) for index in range(law.stored)]
    errors = [_base_errors(model, latents, draw, text) for draw in draws]
    sides = {
        "a": torch.stack([found.a for found in errors], dim=1).cpu(),
        "b": torch.stack([found.b for found in errors], dim=1).cpu(),
        "t": torch.stack([draw.t for draw in draws], dim=1),
    }
    measured = {item.pair_id: {name: side[row] for name, side in sides.items()} for row, item in enumerate(part)}
    for pair_id, tensors in measured.items():
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise TrainingError(f"pair {pair_id}: the base's error is not finite; look at this pair, or set dtype")
    return measured


def _path(folder: Path, item: PairItem) -> Path:
    return folder / f"{item.pair_id}.safetensors"


def _missing(folder: Path, part: Sequence[PairItem], draws: int) -> list[PairItem]:
    """Return the pairs of a part without a sound file."""
    return [item for item in part if _load(_path(folder, item), item, draws) is None]


def _write(path: Path, item: PairItem, tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    facts = {"latents": item.sha256_latents, "caption": content_id(item.caption), "values": _digest(tensors)}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, {_FACTS_KEY: json.dumps(facts, sort_keys=True)})
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be written ({error}); make room and repeat the command") from None


def _load(path: Path, item: PairItem, draws: int) -> dict[str, Tensor] | None:
    """Return a pair's stored tensors, or None if its file is missing, or damaged, which is said.

    Raises:
        TrainingError: if the file is sound but was measured on something else.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[_FACTS_KEY])
            tensors = {name: file.get_tensor(name) for name in _STORED}
        sound = facts["values"] == _digest(tensors)
        measured_on = (facts["latents"], facts["caption"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        sound, measured_on = False, ("", "")
    if not sound:
        warn(f"{path}: damaged reference errors are measured again")
        return None
    if measured_on != (item.sha256_latents, content_id(item.caption)):
        raise TrainingError(
            f"pair {item.pair_id}: {path}: measured on other latents or another caption of this pair; remove "
            f"{path.parent} and repeat the command"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    frames = len(item.frame_labels)
    assert shapes == {"a": (draws, frames), "b": (draws, frames), "t": (draws,)}
    return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' bytes in order of name."""
    digest = hashlib.sha256()
    for name in _STORED:
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
