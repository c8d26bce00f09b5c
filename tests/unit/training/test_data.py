"""What training reads: items, splits, order, and refusal of damaged latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from densedpo.config import TrainSettings
from densedpo.errors import LabelError, TrainingError
from densedpo.keys import content_id, stream
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.snapshot import LabelSnapshot, latest_snapshot, load_snapshot
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.store.files import sha256_file
from densedpo.store.project import Project
from densedpo.store.tables import read_table
from densedpo.training.data import (
    LatentReader,
    PairItem,
    PairLatents,
    Visit,
    batch_at,
    load_items,
    micro_batches,
    split_by_source,
    spread_labels,
    tie_similar_frames,
    usable_items,
)


@pytest.fixture
def project(labelled_project: Path) -> Project:
    return Project(labelled_project)


@pytest.fixture
def snapshot(project: Project) -> LabelSnapshot:
    return load_snapshot(latest_snapshot(project))


@pytest.fixture
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


def training(method: str, **changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"method": method, **changes})


def item(number: int, clip: str = "", frames: int = 9) -> PairItem:
    return PairItem(
        pair_id=f"p{number}",
        clip_id=clip or f"c{number}",
        source_sha256=clip or f"c{number}",
        caption="x",
        latents_path=Path("x"),
        sha256_latents="",
        num_segments=4,
        frame_labels=(1.0,) * frames,
        frame_ties=(False,) * frames,
        clip_label=1.0,
        clip_tie=False,
        eta=1.0,
        latent_shape=(8, frames, 8, 8),
    )


def test_labels_reach_the_latent_frames_they_speak_for(
    project: Project, snapshot: LabelSnapshot, model: VideoModel
) -> None:
    items = load_items(project, snapshot, training("dense"), "guided", model)
    assert 0 < len(items) <= 6
    for loaded in items:
        segments = snapshot.rows[loaded.pair_id].segment_labels
        assert len(loaded.frame_labels) == 9
        assert loaded.frame_labels[0] == loaded.frame_labels[1] == segments[0]
        assert loaded.frame_labels[8] == segments[3]


def test_only_pairs_of_the_wanted_mode_and_with_a_preference(
    project: Project, snapshot: LabelSnapshot, model: VideoModel
) -> None:
    modes = {row["pair_id"]: row["mode"] for row in read_table(project.pairs_table)}
    for method in ("dense", "vanilla"):
        for mode in ("guided", "independent"):
            items = load_items(project, snapshot, training(method), mode, model)
            assert {modes[i.pair_id] for i in items} == {mode}
            assert all(any(i.frame_labels) if method == "dense" else i.clip_label for i in items)


def test_sft_takes_every_clip_once(project: Project, snapshot: LabelSnapshot, model: VideoModel) -> None:
    items = load_items(project, snapshot, training("sft"), "guided", model)
    assert len(items) == len({i.clip_id for i in items}) == 6


def test_a_snapshot_of_another_project_is_refused(project: Project, snapshot: LabelSnapshot, model: VideoModel) -> None:
    rows = snapshot.rows | {"0123": next(iter(snapshot.rows.values()))}
    with pytest.raises(LabelError, match="0123"):
        load_items(project, LabelSnapshot(1.0, rows, "other", {}), training("dense"), "guided", model)


def test_nothing_to_learn_from_is_an_error(project: Project, snapshot: LabelSnapshot, model: VideoModel) -> None:
    with pytest.raises(TrainingError, match="no guided pair"):
        load_items(project, LabelSnapshot(1.0, {}, "empty", {}), training("dense"), "guided", model)


@given(st.integers(2, 40), st.floats(0, 0.9))
def test_no_source_is_on_both_sides_of_the_split(count: int, share: float) -> None:
    items = [item(n, clip=f"c{n // 2}") for n in range(count)]
    learning, held_out = split_by_source(items, share)
    assert learning
    assert not {i.source_sha256 for i in learning} & {i.source_sha256 for i in held_out}
    assert sorted(i.pair_id for i in learning + held_out) == sorted(i.pair_id for i in items)


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 50))
def test_every_epoch_shows_every_pair_once(count: int, batch_size: int, seed: int) -> None:
    items = [item(n) for n in range(count)]
    steps = -(-count * 3 // batch_size)
    visits = [visit for step in range(steps) for visit in batch_at(items, seed, step, batch_size)]
    shown = [visit.item.pair_id for visit in visits]
    # no pair is met twice under one name, so no t and noise is drawn twice
    assert len({(visit.epoch, visit.item.pair_id) for visit in visits}) == len(visits)
    for epoch in range(3):
        assert sorted(shown[epoch * count : (epoch + 1) * count]) == sorted(i.pair_id for i in items)


def test_micro_batches_never_mix_lengths() -> None:
    parts = micro_batches([Visit(item(n, frames=9 if n % 3 else 5), 0) for n in range(10)], 3)
    assert sum(len(part) for part in parts) == 10
    for part in parts:
        assert len(part) <= 3 and len({len(v.item.frame_labels) for v in part}) == 1


def test_damaged_latents_are_named(project: Project, snapshot: LabelSnapshot, model: VideoModel) -> None:
    loaded = load_items(project, snapshot, training("dense"), "guided", model)[0]
    data = bytearray(loaded.latents_path.read_bytes())
    data[-5] ^= 1  # one bit in the numbers: a loader without a digest would not notice
    loaded.latents_path.write_bytes(data)
    assert load_file(loaded.latents_path).keys() == {"a", "b", "clip"}
    with pytest.raises(TrainingError, match=loaded.pair_id):
        LatentReader().read(loaded)


def test_a_non_number_in_latents_is_named(project: Project, snapshot: LabelSnapshot, model: VideoModel) -> None:
    loaded = load_items(project, snapshot, training("dense"), "guided", model)[0]
    tensors = load_file(loaded.latents_path)
    tensors["b"][0, 0, 0, 0] = float("nan")
    save_file(tensors, loaded.latents_path)
    fields = vars(loaded) | {"sha256_latents": sha256_file(loaded.latents_path)}
    with pytest.raises(TrainingError, match=f"{loaded.pair_id}.*non-finite"):
        LatentReader().read(PairItem(**fields))


def test_missing_latents_are_named(project: Project, snapshot: LabelSnapshot, model: VideoModel) -> None:
    loaded = load_items(project, snapshot, training("dense"), "guided", model)[0]
    loaded.latents_path.unlink()
    with pytest.raises(TrainingError, match=loaded.pair_id):
        LatentReader().read(loaded)


def test_latents_come_back_as_written(project: Project, snapshot: LabelSnapshot, model: VideoModel) -> None:
    loaded = load_items(project, snapshot, training("dense"), "guided", model)[0]
    read = LatentReader().read(loaded)
    assert read.a.shape == read.b.shape == read.clip.shape == torch.Size([8, 9, 8, 8])


def test_pairs_of_another_model_are_refused(project: Project, snapshot: LabelSnapshot, model: VideoModel) -> None:
    model.fingerprint = "another model"
    with pytest.raises(TrainingError, match="made by model"):
        load_items(project, snapshot, training("dense"), "guided", model)


def test_something_is_always_left_to_train_on() -> None:
    learning, held_out = split_by_source([item(n) for n in range(3)], 0.99)
    assert (len(learning), len(held_out)) == (1, 2)


def test_ties_and_unlabelled_segments_are_told_apart() -> None:
    grid = SegmentGrid(num_frames=33, fps=8.0, segment_s=1.0)
    labels, ties = spread_labels(grid, [1.0, 0.0, None, -0.5], 4)
    # 33 frames in latents of 4: latents 2, 4 and 6 straddle two segments, with three frames in the earlier one
    assert labels == (1.0, 1.0, 0.75, 0.0, 0.0, 0.0, -0.125, -0.5, -0.5)
    assert [index for index, tie in enumerate(ties) if tie] == [3]  # 4 and 5 are partly or wholly unlabelled
    assert {type(value) for value in labels + ties} == {float, bool}  # plain numbers, not numpy's


def test_one_frame_with_something_to_say_is_enough() -> None:
    blank = replace(item(1), frame_labels=(0.0,) * 9, clip_label=0.0)
    one_label = replace(blank, pair_id="label", frame_labels=(0.0,) * 8 + (-1.0,))
    one_tie = replace(blank, pair_id="tie", frame_ties=(True,) + (False,) * 8)
    items = [blank, one_label, one_tie]
    assert usable_items(items, training("dense")) == [one_label]
    assert usable_items(items, training("dense", loss_type="tie_aware")) == [one_label, one_tie]
    for method in ("vanilla", "structural"):  # these ask for the label of the clip
        assert usable_items([*items, replace(blank, clip_label=-1.0)], training(method)) == [
            replace(blank, clip_label=-1.0)
        ]


def test_sft_needs_no_preference_and_takes_each_clip_once() -> None:
    blank = replace(item(1), frame_labels=(0.0,) * 9, clip_label=0.0)
    items = [blank, replace(blank, pair_id="again"), item(2)]
    assert [found.clip_id for found in usable_items(items, training("sft"))] == ["c1", "c2"]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 1), (0.26, 3), (0.9, 9)])
def test_held_out_sources_are_first_in_the_order_of_their_hash(share: float, count: int) -> None:
    items = [item(n) for n in range(10)]
    by_hash = sorted((i.source_sha256 for i in items), key=lambda sha: content_id("held-out-pairs", sha))
    _, held_out = split_by_source(items, share)
    # a run that is resumed with a later version must not train on what it held out
    assert {i.source_sha256 for i in held_out} == set(by_hash[:count])


def test_the_order_of_pairs_does_not_change() -> None:
    items = [item(n) for n in range(5)]
    orders = [stream(7, "training-order", epoch).permutation(5) for epoch in range(3)]
    expected = [Visit(items[place], epoch) for epoch, order in enumerate(orders) for place in order]
    assert batch_at(items, 7, 2, 4) == expected[8:12]


def test_micro_batches_are_full_and_keep_the_order() -> None:
    visits = [Visit(item(n, frames=5 if n == 2 else 9), 0) for n in range(6)]
    parts = micro_batches(visits, 2)
    assert [[int(v.item.pair_id[1:]) for v in part] for part in parts] == [[0, 1], [3, 4], [5], [2]]


def test_ties_are_kept_only_where_they_teach() -> None:
    tie = replace(item(1), frame_labels=(0.0,) * 9, frame_ties=(True,) * 9, clip_label=0.0, clip_tie=True)
    blank = replace(tie, pair_id="blank", frame_ties=(False,) * 9, clip_tie=False)
    for method in ("dense", "structural"):
        assert usable_items([tie, blank, item(2)], training(method)) == [item(2)]
        assert usable_items([tie, blank, item(2)], training(method, loss_type="tie_aware")) == [tie, item(2)]


def test_frames_that_look_alike_become_ties(project: Project, snapshot: LabelSnapshot, model: VideoModel) -> None:
    items = load_items(project, snapshot, training("dense"), "guided", model)
    reader = LatentReader()
    latents = reader.read(items[0])
    distance = (latents.a - latents.b).square().mean(dim=(0, 2, 3)).sqrt()
    middle = float(distance.median())
    masked = tie_similar_frames(items[:1], reader, middle)[0]
    assert masked.frame_ties == tuple(
        d < middle or t for d, t in zip(distance.tolist(), items[0].frame_ties, strict=True)
    )
    assert all(
        label == 0 for label, near in zip(masked.frame_labels, (distance < middle).tolist(), strict=True) if near
    )
    assert tie_similar_frames(items[:1], reader, 0.0)[0] == items[0]


def test_lead_frames_have_no_label_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.zeros(2, 4, 1, 1)
    b = torch.tensor([5.0, 0.0, 5.0, 0.0]).view(1, 4, 1, 1).expand(2, -1, -1, -1)  # the first one leads
    monkeypatch.setattr(LatentReader, "read", lambda self, item: PairLatents(a, a, b))
    masked = tie_similar_frames([item(0, frames=3)], LatentReader(), 1.0)[0]
    assert masked.frame_ties == (True, False, True)
