"""What training reads: a frozen label snapshot and the pairs' latents, nothing else.

Labels are spread to latent frames here, once. Held-out pairs are chosen by source file, so the two sets share none.
The order of pairs is a function of (run, step), which leaves resume nothing to restore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from densedpo.config import Method
from densedpo.errors import LabelError, TrainingError
from densedpo.keys import content_id, stream
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.snapshot import LabelSnapshot
from densedpo.store.files import sha256_file
from densedpo.store.project import Project
from densedpo.store.tables import read_table


@dataclass(frozen=True)
class PairItem:
    """One pair ready for training: where its latents lie and what its labels say.

    ``frame_labels`` [F] in [-1, 1] are the segment labels spread over latent frames; ``clip_label`` is one number.
    """

    pair_id: str
    clip_id: str
    source_sha256: str
    caption: str
    latents_path: Path
    sha256_latents: str
    num_segments: int
    frame_labels: tuple[float, ...]
    clip_label: float


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
    project: Project, snapshot: LabelSnapshot, method: Method, pair_mode: str, fingerprint: str
) -> list[PairItem]:
    """Return the pairs that ``method`` can learn from, in order of id; pairs without any preference are dropped.

    Args:
        project: the project.
        snapshot: frozen labels.
        method: a preference method, or ``sft``, which takes every labelled pair's clip once.
        pair_mode: ``guided`` or ``independent``.
        fingerprint: the base model's; latents of another model mean nothing to it.

    Raises:
        LabelError: if the snapshot names a pair that the project lacks.
        TrainingError: if a pair was made by another model, or nothing is left to learn from.
    """
    rows = {row["pair_id"]: row for row in read_table(project.pairs_table)}
    if missing := sorted(set(snapshot.rows) - set(rows)):
        raise LabelError(
            f"snapshot {snapshot.id}: {len(missing)} labelled pairs are not in {project.pairs_table}, "
            f"first {missing[0]}; freeze again in the project that holds them"
        )
    items = []
    for pair_id in sorted(snapshot.rows):
        row = rows[pair_id]
        if row["mode"] != pair_mode:
            continue
        if row["model_fingerprint"] != fingerprint:
            raise TrainingError(
                f"pair {pair_id}: made by model {row['model']} ({row['model_fingerprint']}), not by the base loaded "
                f"({fingerprint}); train the model that made the pairs, or make and label new ones"
            )
        item = _item(project, row, snapshot)
        decided = item.clip_label != 0 if method in {"vanilla", "structural"} else any(item.frame_labels)
        if decided or method == "sft":
            items.append(item)
    if method == "sft":
        items = list({item.clip_id: item for item in items}.values())
    if not items:
        raise TrainingError(
            f"snapshot {snapshot.id}: no {pair_mode} pair with a preference for --method {method}; make and label "
            f"{pair_mode} pairs (`densedpo pairs make --mode {pair_mode}`), or choose others with --pairs"
        )
    return items


def _item(project: Project, row: dict[str, Any], snapshot: LabelSnapshot) -> PairItem:
    labels = snapshot.rows[row["pair_id"]]
    grid = SegmentGrid(row["num_frames"], row["fps"], snapshot.segment_s)
    segments = [0.0 if label is None else label for label in labels.segment_labels]
    return PairItem(
        pair_id=row["pair_id"],
        clip_id=row["clip_id"],
        source_sha256=row["source_sha256"],
        caption=row["caption"],
        latents_path=project.pairs / row["pair_id"] / "latents.safetensors",
        sha256_latents=row["sha256_latents"],
        num_segments=grid.num_segments,
        frame_labels=tuple(float(v) for v in grid.latent_labels(segments, row["temporal_stride"])),
        clip_label=labels.clip_label or 0.0,
    )


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
                    raise TrainingError(f"{where}: digest differs from the pair's row; make this pair again")
                for name, tensor in tensors.items():
                    if not bool(torch.isfinite(tensor).all()):
                        raise TrainingError(f"{where}: {name} holds non-finite numbers; make this pair again")
                self._checked.add(item.pair_id)
            return PairLatents(tensors["clip"], tensors["a"], tensors["b"])
        except (OSError, SafetensorError, KeyError) as error:
            raise TrainingError(f"{where}: cannot be read ({error}); make this pair again") from None


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
    """Cut a batch into parts of at most ``size`` pairs that share one number of latent frames."""
    groups: dict[int, list[Visit]] = {}
    for visit in visits:
        groups.setdefault(len(visit.item.frame_labels), []).append(visit)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
