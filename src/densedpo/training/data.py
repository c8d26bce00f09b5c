"""What training reads: a frozen label snapshot and the pairs' latents, nothing else.

Labels are spread to latent frames here, once. Held-out pairs are chosen by source file, so the two sets share none.
The order of pairs is a function of (run, step), which leaves resume nothing to restore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from densedpo.config import TrainSettings
from densedpo.errors import LabelError, TrainingError
from densedpo.keys import content_id, stream
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.snapshot import LabelSnapshot
from densedpo.models.base import VideoModel
from densedpo.observe import track
from densedpo.store.files import sha256_file
from densedpo.store.project import Project
from densedpo.store.tables import read_table
from densedpo.training.loss import Labels


@dataclass(frozen=True)
class PairItem:
    """One pair ready for training: where its latents lie and what its labels say.

    ``frame_labels`` [F] in [-1, 1] are the segment labels spread over latent frames; ``clip_label`` is one number. A
    zero is a tie where ``frame_ties`` or ``clip_tie`` says so, and no label otherwise. ``eta`` is the noise level that
    the pair was made from, ``latent_shape`` (C, F, H, W) with the model's lead frames in F.
    """

    pair_id: str
    clip_id: str
    source_sha256: str
    caption: str
    latents_path: Path
    sha256_latents: str
    num_segments: int
    frame_labels: tuple[float, ...]
    frame_ties: tuple[bool, ...]
    clip_label: float
    clip_tie: bool
    eta: float
    latent_shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class Visit:
    """One pair in one epoch: what a batch is made of and what its t and noise are named by."""

    item: PairItem
    epoch: int


@dataclass(frozen=True)
class PairLatents:
    """Latents of one pair, each [C, F, H, W]: the real clip and both sides."""

    clip: Tensor
    a: Tensor
    b: Tensor


def load_items(
    project: Project, snapshot: LabelSnapshot, settings: TrainSettings, pair_mode: str, model: VideoModel
) -> list[PairItem]:
    """Return the pairs that a run can learn from, in order of id; the others are dropped before a latent is read.

    Args:
        project: the project.
        snapshot: frozen labels.
        settings: the run's; with method ``sft`` every labelled pair's clip counts, once.
        pair_mode: ``guided`` or ``independent``.
        model: the base; latents of another model mean nothing to it.

    Raises:
        LabelError: if the snapshot names a pair that the project lacks.
        TrainingError: if a pair was made by another model, or nothing is left to learn from.
    """
    rows = {row["pair_id"]: row for row in read_table(project.pairs_table)}
    if missing := sorted(set(snapshot.rows) - set(rows)):
        raise LabelError(
            f"snapshot {snapshot.id}: {len(missing)} labelled pairs are not in {project.pairs_table}, "
            f"first {missing[0]}: left out by `clips filter`, or of another project; run `densedpo label freeze` again"
        )
    items = []
    for pair_id in sorted(snapshot.rows):
        row = rows[pair_id]
        if row["mode"] != pair_mode:
            continue
        if row["model_fingerprint"] != model.fingerprint:
            raise TrainingError(
                f"pair {pair_id}: made by model {row['model']} ({row['model_fingerprint']}), not by the base loaded "
                f"({model.fingerprint}); train the model that made the pairs, or make and label new ones"
            )
        items.append(_item(project, row, snapshot, model))
    items = usable_items(items, settings)
    if not items:
        raise TrainingError(
            f"snapshot {snapshot.id}: no {pair_mode} pair with a preference for --method {settings.method}; make and "
            f"label {pair_mode} pairs (`densedpo pairs make --mode {pair_mode}`), or choose others with --pairs"
        )
    return items


def usable_items(items: Sequence[PairItem], settings: TrainSettings) -> list[PairItem]:
    """Return the items that ``settings`` can learn from: a preference, a tie where ties teach, or for sft each clip."""
    if settings.method == "sft":
        return list({item.clip_id: item for item in items}.values())
    ties_teach = "tie_aware" in settings.loss_type
    if settings.method in {"vanilla", "structural"}:
        return [item for item in items if item.clip_label or (ties_teach and item.clip_tie)]
    return [item for item in items if any(item.frame_labels) or (ties_teach and any(item.frame_ties))]


def tie_similar_frames(items: Sequence[PairItem], reader: LatentReader, rms: float) -> list[PairItem]:
    """Make ties of the latent frames in which a and b differ by less than ``rms`` (root mean square over C, H, W).

    Where both sides show the same, the loss can only unlearn it (appendix B of arXiv 2506.03517).
    """
    masked = []
    for item in track(items, "comparing the sides"):
        latents = reader.read(item)
        apart = (latents.a - latents.b).square().mean(dim=(0, 2, 3)).sqrt()
        close = (apart[-len(item.frame_labels) :] < rms).tolist()  # without lead frames
        labels = tuple(0.0 if same else label for label, same in zip(item.frame_labels, close, strict=True))
        ties = tuple(tie or same for tie, same in zip(item.frame_ties, close, strict=True))
        masked.append(replace(item, frame_labels=labels, frame_ties=ties))
    return masked


def labels_of(items: Sequence[PairItem], device: torch.device) -> Labels:
    """Return the labels of pairs of one length as tensors."""
    return Labels(
        frames=torch.tensor([item.frame_labels for item in items], dtype=torch.float32, device=device),
        frame_ties=torch.tensor([item.frame_ties for item in items], device=device),
        clip=torch.tensor([item.clip_label for item in items], dtype=torch.float32, device=device),
        clip_ties=torch.tensor([item.clip_tie for item in items], device=device),
    )


def _item(project: Project, row: dict[str, Any], snapshot: LabelSnapshot, model: VideoModel) -> PairItem:
    labels = snapshot.rows[row["pair_id"]]
    grid = SegmentGrid(row["num_frames"], row["fps"], snapshot.segment_s)
    frame_labels, frame_ties = spread_labels(grid, labels.segment_labels, row["temporal_stride"])
    return PairItem(
        pair_id=row["pair_id"],
        clip_id=row["clip_id"],
        source_sha256=row["source_sha256"],
        caption=row["caption"],
        latents_path=project.pairs / row["pair_id"] / "latents.safetensors",
        sha256_latents=row["sha256_latents"],
        num_segments=grid.num_segments,
        frame_labels=frame_labels,
        frame_ties=frame_ties,
        clip_label=labels.clip_label or 0.0,
        clip_tie=labels.clip_label == 0,
        eta=row["eta"],
        latent_shape=model.latent_shape(row["num_frames"], row["height"], row["width"]),
    )


def spread_labels(
    grid: SegmentGrid, segment_labels: Sequence[float | None], temporal_stride: int
) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Spread segment labels (None: unlabelled) over latent frames; return labels, and which frames are wholly ties."""
    values = [label or 0.0 for label in segment_labels]
    labels = grid.latent_labels(values, temporal_stride)
    not_a_tie = grid.latent_labels([float(label != 0) for label in segment_labels], temporal_stride)
    return tuple(float(label) for label in labels), tuple(bool(share == 0) for share in not_a_tie)


def split_by_source(items: Sequence[PairItem], eval_share: float) -> tuple[list[PairItem], list[PairItem]]:
    """Split into training and held-out items by a hash of the source file, so no file is on both sides.

    At least one source is left to train on.
    """
    sources = sorted({item.source_sha256 for item in items}, key=lambda sha: content_id("held-out-pairs", sha))
    held = set(sources[: min(round(eval_share * len(sources)), len(sources) - 1)])
    return [i for i in items if i.source_sha256 not in held], [i for i in items if i.source_sha256 in held]


class LatentReader:
    """Reads latents; the first time each file is touched its digest is checked and its numbers must be finite."""

    def __init__(self) -> None:
        """Start with nothing checked."""
        self._checked: set[str] = set()

    def read(self, item: PairItem) -> PairLatents:
        """Return a pair's latents.

        Raises:
            TrainingError: naming the pair, if its file is missing, damaged or holds a non-finite number.
        """
        where = f"pair {item.pair_id}: {item.latents_path}"
        try:
            tensors = load_file(item.latents_path)
            if item.pair_id not in self._checked:
                if sha256_file(item.latents_path) != item.sha256_latents:
                    raise TrainingError(f"{where}: digest differs from its row; remove its folder, make it again")
                for name, tensor in tensors.items():
                    if not bool(torch.isfinite(tensor).all()):
                        raise TrainingError(
                            f"{where}: {name} holds non-finite numbers; remove its folder, make it again"
                        )
                self._checked.add(item.pair_id)
            return PairLatents(tensors["clip"], tensors["a"], tensors["b"])
        except (OSError, SafetensorError, KeyError) as error:
            raise TrainingError(f"{where}: cannot be read ({error}); remove its folder, make it again") from None


def batch_at(items: Sequence[PairItem], seed: int, step: int, batch_size: int) -> list[Visit]:
    """Return the batch of step ``step``: consecutive items of epochs that are each shuffled by (seed, epoch)."""
    count = len(items)
    orders: dict[int, np.ndarray[Any, np.dtype[np.int64]]] = {}
    batch = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = stream(seed, "training-order", epoch).permutation(count)
        batch.append(Visit(items[int(orders[epoch][place])], epoch))
    return batch


def micro_batches(visits: Sequence[Visit], size: int) -> list[list[Visit]]:
    """Cut a batch into parts of at most ``size`` pairs that share one latent shape."""
    groups: dict[tuple[int, ...], list[Visit]] = {}
    for visit in visits:
        groups.setdefault(visit.item.latent_shape, []).append(visit)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
