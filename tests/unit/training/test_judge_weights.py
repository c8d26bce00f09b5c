"""A judge's confidence reaches the loss: from its answers through a snapshot to the weighted loss, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from densedpo.config import TrainSettings
from densedpo.keys import noise
from densedpo.labels.answers import Answer, AnswerEvent
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.snapshot import freeze, load_snapshot
from densedpo.labels.store import LabelStore
from densedpo.models.load import load_model
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table
from densedpo.training.data import labels_of, load_items
from densedpo.training.loss import Errors, LossSpec, preference_loss

SAID: tuple[tuple[Answer, float], ...] = (("a", 0.9), ("b", 0.4), ("tie", 0.8), ("a", 0.25))
BETA = 7.0


@pytest.fixture
def project(pairs_project: Path) -> Project:
    project = Project(pairs_project)
    events = []
    for row in guided(project):
        for segment, (answer, confidence) in enumerate(SAID):
            events.append(
                AnswerEvent(
                    pair_id=row["pair_id"],
                    segment=segment,
                    answer=answer,
                    outcome="ok",
                    source="judge",
                    author="m",
                    segment_s=1.0,
                    start_s=float(segment),
                    end_s=segment + 1.0,
                    confidence=confidence,
                )
            )
    with LabelStore.open(project.label_store) as store:
        store.append(events)
    return project


def guided(project: Project) -> list[Row]:
    return [row for row in read_table(project.pairs_table) if row["mode"] == "guided"]


def loss_and_by_hand(project: Project, model: Path, magnitudes: list[float]) -> tuple[float, float]:
    """Return the loss of training code on the latest snapshot, and sum |l| softplus(-z) / sum |l| by hand."""
    settings = TrainSettings.model_validate({"method": "dense"})
    snapshot = load_snapshot(sorted(project.snapshots.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)[-1])
    items = load_items(project, snapshot, settings, "guided", load_model(str(model), device="cpu"))
    labels = labels_of(items, torch.device("cpu"))
    errors = [noise((len(items), labels.frames.shape[1]), "test", "errors", n).abs() for n in range(4)]
    spec = LossSpec("dense", beta=BETA)
    found = preference_loss(Errors(errors[0], errors[1]), Errors(errors[2], errors[3]), labels, spec)
    total, weight = 0.0, 0.0
    for place, row in enumerate(guided(project)):
        grid = SegmentGrid(row["num_frames"], row["fps"], 1.0)
        shares = grid.latent_weights(row["temporal_stride"])  # [segments, latent frames]
        signs = [{"a": 1, "b": -1}.get(answer, 0) for answer, _ in SAID]
        for frame in range(shares.shape[1]):
            parts = zip(signs, magnitudes, shares[:, frame], strict=True)
            label = sum(sign * magnitude * share for sign, magnitude, share in parts)
            index = sorted(r["pair_id"] for r in guided(project)).index(row["pair_id"])
            gap = float((errors[0] - errors[2] - errors[1] + errors[3])[index, frame])
            z = -0.5 * BETA * math.copysign(1.0, label) * gap
            total += abs(label) * math.log1p(math.exp(-z))
            weight += abs(label)
        assert items[place].num_segments == len(SAID)
    return float(found.loss), total / weight


def test_the_loss_is_weighted_by_confidence(project: Project, tiny_model_folder: Path) -> None:
    freeze(project, "judge", confidence="stated")
    stated = [confidence for _, confidence in SAID]
    loss, by_hand = loss_and_by_hand(project, tiny_model_folder, stated)
    assert loss == pytest.approx(by_hand, rel=1e-5)
    other = loss_and_by_hand(project, tiny_model_folder, [1.0] * len(SAID))[1]
    assert abs(loss - other) > 1e-3  # weights of 1 would have been noticed


def test_without_weights_all_preferences_count_alike(project: Project, tiny_model_folder: Path) -> None:
    freeze(project, "judge")  # not calibrated
    loss, by_hand = loss_and_by_hand(project, tiny_model_folder, [1.0] * len(SAID))
    assert loss == pytest.approx(by_hand, rel=1e-5)
