"""Pairs from TRL-style rows: what is read, what is kept, and that a bad row never stops the rest."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.unit.clips.makers import REAL_CLIPS, moving, write_foreign
from torch import Tensor

from densedpo.clips.add import add_clips
from densedpo.clips.decode import read_video
from densedpo.clips.encode import write_video
from densedpo.config import ClipSettings, parse_settings
from densedpo.errors import ConfigError, LabelError, ProjectError, TrainingError
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.sampling import to_video
from densedpo.observe import read_jsonl
from densedpo.store.files import write_json
from densedpo.store.project import Project
from densedpo.training.data import LatentReader, PairItem, labels_of, split_by_source, usable_items
from densedpo.training.row_format import COLUMNS, parse_row
from densedpo.training.rows import dataset_from_rows

Row = dict[str, Any]
FPS = 8.0
# the tiny model takes 33 frames at 8 fps: four segments of a second, nine latent frames
SEGMENTS, LATENT_FRAMES = 4, 9


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four little videos of the model's own length, a short one and a tiny one."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("good", "bad", "other", "real"):
        write_video(folder / f"{name}.mp4", moving(33, 32, 32, name), FPS)
    write_video(folder / "short.mp4", moving(17, 32, 32, "short"), FPS)
    write_video(folder / "tiny.mp4", moving(4, 32, 32, "tiny"), FPS)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def row(videos: Path, **changes: Any) -> Row:
    plain = {"prompt": "a red disc", "chosen": str(videos / "good.mp4"), "rejected": str(videos / "bad.mp4")}
    return {name: value for name, value in {**plain, **changes}.items() if value is not ...}


def one(rows: Any, model: VideoModel, cache: Path, **settings: Any) -> PairItem:
    found = dataset_from_rows(rows, model, cache, **settings)
    assert not found.left_out
    assert len(found) == 1
    return found[0]


def latents_of(model: VideoModel, video: Path) -> Tensor:
    return model.encode_video(to_video(read_video(video).frames)[None])[0]


def test_a_plain_row_prefers_chosen_everywhere(model: VideoModel, videos: Path, cache: Path) -> None:
    item = one([row(videos)], model, cache)
    assert (item.caption, item.num_segments, item.eta) == ("a red disc", SEGMENTS, 1.0)
    assert item.frame_labels == (1.0,) * LATENT_FRAMES and not any(item.frame_ties)
    assert (item.clip_label, item.clip_tie) == (1.0, False)
    latents = LatentReader().read(item)  # checks the digest too
    assert tuple(latents.a.shape) == item.latent_shape == model.latent_shape(33, 32, 32)
    # the foreign reader and our own decode the same frames; the one rounding of colours that may differ is small
    assert torch.allclose(latents.a, latents_of(model, videos / "good.mp4"), atol=0.02)
    assert torch.allclose(latents.b, latents_of(model, videos / "bad.mp4"), atol=0.02)
    assert not torch.allclose(latents.a, latents.b, atol=0.1)
    assert torch.equal(latents.clip, latents.a)
    assert usable_items([item], parse_settings({}).train) == [item]


def test_the_real_clip_has_latents_of_its_own(model: VideoModel, videos: Path, cache: Path) -> None:
    plain, with_clip = dataset_from_rows(
        [row(videos), row(videos, clip=str(videos / "real.mp4"), eta=0.7)], model, cache
    )
    latents = LatentReader().read(with_clip)
    assert torch.allclose(latents.clip, latents_of(model, videos / "real.mp4"), atol=0.02)
    assert torch.equal(latents.a, LatentReader().read(plain).a)
    assert with_clip.eta == 0.7
    assert len({plain.pair_id, with_clip.pair_id}) == len({plain.clip_id, with_clip.clip_id}) == 2


def test_pairs_of_one_real_clip_stay_on_one_side_of_the_split(model: VideoModel, videos: Path, cache: Path) -> None:
    clip = str(videos / "real.mp4")
    rows = [row(videos, clip=clip), row(videos, clip=clip, chosen=str(videos / "other.mp4")), row(videos)]
    items = dataset_from_rows(rows, model, cache)
    assert items[0].source_sha256 == items[1].source_sha256 != items[2].source_sha256
    for share in (0.3, 0.5, 0.7):
        learning, held_out = split_by_source(items, share)
        assert (items[0] in learning) == (items[1] in learning)
        assert len(learning) + len(held_out) == 3


@pytest.mark.parametrize(
    ("labels", "segments", "ties"),
    [
        ([1, -1, 0, None], [1, -1, 0, 0], [0, 0, 1, 0]),
        (["a", "b", "tie", None], [1, -1, 0, 0], [0, 0, 1, 0]),
        (["A", "both_bad", "null", "-0.5"], [1, 0, 0, -0.5], [0, 1, 0, 0]),
        (np.array([0.25, -0.25, 1.0, -1.0], dtype=np.float32), [0.25, -0.25, 1, -1], [0, 0, 0, 0]),
        ('[1, "b", null, 0]', [1, -1, 0, 0], [0, 0, 0, 1]),
        ("a, b; tie,", [1, -1, 0, 0], [0, 0, 1, 0]),
    ],
)
def test_segment_labels_reach_their_latent_frames(
    model: VideoModel, videos: Path, cache: Path, labels: Any, segments: list[float], ties: list[int]
) -> None:
    item = one([row(videos, segment_labels=labels)], model, cache)
    # of nine latent frames the first holds frame 0, the others four each: two and one more a segment of eight frames
    inside = {0: (0, 1), 1: (3,), 2: (5,), 3: (7, 8)}
    for segment, frames in inside.items():
        assert [item.frame_labels[frame] for frame in frames] == [segments[segment]] * len(frames)
        assert [item.frame_ties[frame] for frame in frames] == [bool(ties[segment])] * len(frames)
    assert item.clip_label == 1.0
    assert labels_of([item], torch.device("cpu")).frames.shape == (1, LATENT_FRAMES)


def test_nan_in_an_optional_cell_means_not_given(model: VideoModel, videos: Path, cache: Path) -> None:
    empty = {"segment_labels": math.nan, "clip": math.nan, "eta": math.nan, "id": ""}
    assert one([row(videos, **empty)], model, cache) == one([row(videos)], model, cache)


BAD: list[tuple[str, Row, str]] = [
    ("no prompt", {"prompt": ...}, "no prompt"),
    ("empty prompt", {"prompt": "  \n"}, "no prompt"),
    ("messages", {"prompt": [{"role": "user", "content": "x"}]}, "prompt must be a text"),
    ("long prompt", {"prompt": "x" * 10_001}, "1 to 10000 characters"),
    ("two missing", {"chosen": ..., "rejected": None}, "no chosen, no rejected"),
    ("bytes for a path", {"chosen": {"bytes": b"", "path": "x"}}, "chosen must be the path"),
    ("missing file", {"rejected": "gone.mp4"}, "gone.mp4: cannot be read"),
    ("a folder", {"chosen": "."}, "not a regular file"),
    ("no path", {"chosen": "a\0b.mp4"}, "not a path"),
    ("no path either", {"chosen": "\ud800.mp4"}, "not a path"),
    ("not a video", {"rejected": "text.mp4"}, "not a known video format"),
    ("cut short", {"rejected": "cut.mp4"}, "cut short"),
    ("same video", {"rejected": "good.mp4"}, "same video"),
    ("different lengths", {"rejected": "short.mp4"}, "different lengths: chosen 33, rejected 17 frames at 8 fps"),
    ("clip of another length", {"clip": "short.mp4"}, "chosen 33, rejected 33, clip 17"),
    ("too short", {"chosen": "tiny.mp4"}, "too short: lasts 0.50 s, a segment 1 s"),
    ("too few labels", {"segment_labels": [1, 1]}, "has 2 values, expected 4: 33 frames at 8 fps"),
    ("no labels", {"segment_labels": []}, "has 0 values, expected 4"),
    ("out of range", {"segment_labels": [1, 1.5, 0, 0]}, r"segment_labels\[1\] must be .* got 1.5"),
    ("a non-number", {"segment_labels": [1, math.nan, 0, 0]}, r"segment_labels\[1\]"),
    ("another word", {"segment_labels": ["a", "b", "c", "tie"]}, r"segment_labels\[2\].*'c'"),
    ("true", {"segment_labels": [True, 1, 1, 1]}, r"segment_labels\[0\]"),
    ("nested", {"segment_labels": [[1], 1, 1, 1]}, r"segment_labels\[0\]"),
    ("huge", {"segment_labels": [10**400, 1, 1, 1]}, r"segment_labels\[0\]"),
    ("broken JSON", {"segment_labels": "[1, 1"}, "must be a list"),
    ("a number", {"segment_labels": 1.0}, "must be a list"),
    ("by name", {"segment_labels": {"0": 1}}, "must be a list"),
    ("eta above 1", {"eta": 1.5}, "eta must be .* got 1.5"),
    ("eta zero", {"eta": "0"}, "eta must be"),
    ("odd id", {"id": "a\nb"}, "id must be"),
    ("id of another kind", {"id": [1]}, "id must be"),
]


@pytest.fixture(scope="module")
def warm(model: VideoModel, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the plain row already."""
    folder = tmp_path_factory.mktemp("warm") / "cache"
    dataset_from_rows([row(videos)], model, folder)
    (videos / "text.mp4").write_text("no video at all\n" * 20)
    (videos / "cut.mp4").write_bytes((videos / "good.mp4").read_bytes()[:-500])
    return folder


@pytest.mark.parametrize(("changes", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_row_is_left_out_with_its_reason(
    model: VideoModel, videos: Path, warm: Path, capsys: pytest.CaptureFixture[str], changes: Row, reason: str
) -> None:
    changes = {name: str(videos) if value == "." else value for name, value in changes.items()}
    found = dataset_from_rows([row(videos, **changes), row(videos)], model, warm, root=videos)
    assert len(found) == 1 and found[0].caption == "a red disc"
    assert [left.row for left in found.left_out] == [1]
    assert re.search(reason, found.left_out[0].reason)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 1 and "row 1 left out" in warnings[0]


@pytest.mark.parametrize("wrong", [None, 3, "prompt", ["a", "b"], {None: ["x"], "prompt": "y"}])
def test_what_is_no_row_is_left_out(model: VideoModel, videos: Path, warm: Path, wrong: Any) -> None:
    found = dataset_from_rows([row(videos), wrong], model, warm)
    assert (len(found), found.left_out[0].row) == (1, 2)


def test_a_fifo_cannot_hang_the_call(model: VideoModel, videos: Path, warm: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    found = dataset_from_rows([row(videos), row(videos, rejected=tmp_path / "pipe.mp4")], model, warm)
    assert "not a regular file" in found.left_out[0].reason


def test_an_id_counts_once(model: VideoModel, videos: Path, warm: Path) -> None:
    rows = [
        row(videos, id="x"),
        row(videos, id="x"),
        row(videos, id=7),
        row(videos, id="7"),
        row(videos),
        row(videos),
        row(videos, prompt="a blue disc"),
    ]
    found = dataset_from_rows(rows, model, warm)
    assert [left.row for left in found.left_out] == [2, 4, 6]
    assert all("an earlier row" in left.reason for left in found.left_out)
    assert [item.pair_id for item in found[:2]] == ["x", "7"]
    assert len({item.pair_id for item in found}) == 4


def test_nothing_usable_is_an_error(model: VideoModel, videos: Path, warm: Path) -> None:
    with pytest.raises(TrainingError, match=r"none of 2 rows can be used; the first: .*gone\.mp4"):
        dataset_from_rows([row(videos, chosen="gone.mp4"), row(videos, prompt=None)], model, warm)
    with pytest.raises(TrainingError, match="no rows"):
        dataset_from_rows([], model, warm)


def test_settings_that_fit_no_row_are_an_error(model: VideoModel, videos: Path, warm: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one mapping a pair, got a single one with train, test"):
        dataset_from_rows({"train": [row(videos)], "test": []}, model, warm)
    for segment_s in (0.0, 0.01, 10.0, math.nan):
        with pytest.raises(ConfigError, match="segment"):
            dataset_from_rows([row(videos)], model, warm, segment_s=segment_s)
    (tmp_path / "file").touch()
    with pytest.raises(ProjectError, match="cache folder"):
        dataset_from_rows([row(videos)], model, tmp_path / "file")


def test_misspelled_columns_are_named(
    model: VideoModel, videos: Path, warm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset_from_rows([row(videos, segment_label=[1, 1, 1, 1])], model, warm)
    assert "columns not used: segment_label;" in capsys.readouterr().err


def test_a_second_call_decodes_and_encodes_nothing(
    model: VideoModel, videos: Path, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataset_from_rows([row(videos)], model, warm)
    before = {path: path.stat().st_mtime_ns for path in warm.rglob("*")}

    def never(*_: Any) -> None:
        raise AssertionError("a file was decoded or encoded again")

    monkeypatch.setattr("densedpo.training.rows.FrameReader.scan", never)
    monkeypatch.setattr(type(model), "encode_video", never)
    assert dataset_from_rows([row(videos)], model, warm) == first
    labelled = one([row(videos, prompt="other", segment_labels=[0, 0, 0, 1])], model, warm)  # neither is in the key
    assert labelled.latents_path == first[0].latents_path
    assert {path: path.stat().st_mtime_ns for path in warm.rglob("*")} == before


def test_a_longer_segment_finds_the_kept_latents_too_short(model: VideoModel, videos: Path, cache: Path) -> None:
    rows = [row(videos), row(videos, chosen=str(videos / "short.mp4"), rejected=str(videos / "short2.mp4"))]
    write_video(videos / "short2.mp4", moving(17, 32, 32, "short2"), FPS)
    assert [item.num_segments for item in dataset_from_rows(rows, model, cache)] == [4, 2]
    found = dataset_from_rows(rows, model, cache, segment_s=3.0)
    assert [item.num_segments for item in found] == [1]
    assert "shorter than one segment of 3 s" in found.left_out[0].reason


@pytest.mark.parametrize("damage", ["row.json", "latents.safetensors"])
def test_damaged_latents_are_made_again(model: VideoModel, videos: Path, cache: Path, damage: str) -> None:
    item = one([row(videos)], model, cache)
    file = item.latents_path.parent / damage
    file.write_bytes(file.read_bytes()[:40])
    assert one([row(videos)], model, cache) == item
    LatentReader().read(item)


def test_other_bytes_under_the_same_name_are_another_pair(model: VideoModel, videos: Path, cache: Path) -> None:
    mine = videos / "mine.mp4"
    mine.write_bytes((videos / "other.mp4").read_bytes())
    first = one([row(videos, chosen=mine)], model, cache)
    mine.write_bytes((videos / "real.mp4").read_bytes())
    second = one([row(videos, chosen=mine)], model, cache)
    assert first.pair_id != second.pair_id and first.latents_path != second.latents_path
    assert LatentReader().read(first).a.shape == LatentReader().read(second).a.shape


def test_another_model_has_latents_of_its_own(
    model: VideoModel, videos: Path, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = one([row(videos)], model, warm)
    monkeypatch.setattr(model, "fingerprint", "0123456789abcdef")
    assert one([row(videos)], model, warm).latents_path != mine.latents_path


def test_a_second_process_may_be_first(
    model: VideoModel, videos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rivals: list[PairItem] = []

    def overtaken(path: Path, value: Any) -> None:
        write_json(path, value)
        monkeypatch.setattr("densedpo.training.rows.write_json", write_json)
        # what another process would do between our writing and our renaming
        rival = cache.parent / "rival"
        rivals.append(one([row(videos)], model, rival))
        rivals[0].latents_path.parent.replace(cache / rivals[0].latents_path.parent.name)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr("densedpo.training.rows.write_json", overtaken)
    item = one([row(videos)], model, cache)
    assert replace(item, latents_path=rivals[0].latents_path) == rivals[0]
    LatentReader().read(item)
    assert not list(cache.glob(".tmp-*"))


def test_a_full_disk_is_not_a_bad_row(
    model: VideoModel, videos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("densedpo.training.rows.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        dataset_from_rows([row(videos)], model, cache)
    assert not list(cache.iterdir())


def test_a_foreign_rate_and_size_come_out_as_in_clips_add(model: VideoModel, cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    # 4.125 s, exactly the model's length, in another shape and rate
    write_foreign(source / "wide.mp4", moving(99, 64, 96, "wide"), fps=24)
    write_foreign(tmp_path / "ntsc.mp4", moving(130, 48, 64, "ntsc"), fps=Fraction(30000, 1001))
    project = Project(tmp_path / "project")
    (source / "wide.txt").write_text("wide")
    add_clips(project, [source], None, model.geometry, ClipSettings(), 1.0)
    (clip,) = project.clips.glob("*/clip.mp4")
    item = one([{"prompt": "w", "chosen": source / "wide.mp4", "rejected": tmp_path / "ntsc.mp4"}], model, cache)
    expected = latents_of(model, clip)
    # the clip was encoded once more by clips add
    assert (LatentReader().read(item).a - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert item.num_segments == SEGMENTS


def test_only_the_start_of_a_long_video_is_used(
    model: VideoModel, videos: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the long one starts with the frames of the other
    frames = moving(80, 32, 32, "long")
    write_video(tmp_path / "long.mp4", frames, FPS)
    write_video(tmp_path / "start.mp4", frames[:33], FPS)
    item = one([{"prompt": "x", "chosen": tmp_path / "long.mp4", "rejected": videos / "bad.mp4"}], model, cache)
    assert torch.allclose(LatentReader().read(item).a, latents_of(model, tmp_path / "start.mp4"), atol=0.05)
    assert "more than 4.125 s, of which only the start is used: 1" in capsys.readouterr().err


def test_names_may_hold_any_letters(model: VideoModel, videos: Path, cache: Path, tmp_path: Path) -> None:
    odd = tmp_path / "Möwe 鷗\n[bold].mp4"
    odd.write_bytes((videos / "good.mp4").read_bytes())
    item = one([row(videos, prompt="Eine Möwe\nüber dem Meer", chosen=odd, id="Möwe-鷗")], model, cache)
    assert (item.caption, item.pair_id) == ("Eine Möwe über dem Meer", "Möwe-鷗")
    assert LatentReader().read(item).a.shape[1] == LATENT_FRAMES


def write_file(path: Path, rows: list[Row]) -> Path:
    if path.suffix == ".jsonl":
        lines = [json.dumps(values, ensure_ascii=False) for values in rows]
        path.write_text("\n\n".join(lines) + "\n", encoding="utf-8-sig")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(
                values | {"segment_labels": json.dumps(values["segment_labels"]) if values["segment_labels"] else ""}
                for values in rows
            )
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_come_from_files_too(model: VideoModel, videos: Path, warm: Path, kind: str) -> None:
    plain: Row = {"prompt": 'größer, "röter"', "chosen": "good.mp4", "rejected": "bad.mp4", "segment_labels": None}
    labelled = plain | {"prompt": "x", "segment_labels": [1.0, None, -1.0, 0.0]}
    rows = [plain, labelled, plain | {"chosen": "gone.mp4"}]
    found = dataset_from_rows(str(write_file(videos / f"rows.{kind}", rows)), model, warm)
    assert [left.row for left in found.left_out] == [3]
    assert list(found) == list(dataset_from_rows(rows, model, warm, root=videos))
    assert found[0].caption == 'größer, "röter"'
    assert found[1].frame_labels[7] == 0 and found[1].frame_ties[7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", "[]", "no such file of rows"),
        ("gone.jsonl", None, "no such file of rows"),
        ("rows.jsonl", '{"prompt": "x"}\n{"prompt"', "line 2 is not JSON"),
        ("deep.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("rows.csv", 'prompt,chosen\n"x', "is not CSV"),
        ("rows.parquet", "x", "not readable as Parquet"),
    ],
)
def test_an_unreadable_file_of_rows_is_an_error(
    model: VideoModel, warm: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ProjectError, match=message):
        dataset_from_rows(tmp_path / name, model, warm)


class LikeDatasets:
    """What of a ``datasets.Dataset`` is used: a length, and rows that all have every column."""

    def __init__(self, rows: list[Row]) -> None:
        names = list(dict.fromkeys(name for values in rows for name in values))
        self.rows = [{name: values.get(name) for name in names} for values in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def test_any_iterable_of_mappings_will_do(model: VideoModel, videos: Path, warm: Path) -> None:
    rows = [row(videos), row(videos, prompt="x", segment_labels=["a", "b", "tie", "a"])]
    expected = dataset_from_rows(rows, model, warm)
    assert len(expected) == 2
    assert dataset_from_rows(LikeDatasets(rows), model, warm) == expected
    assert dataset_from_rows((dict(values) for values in rows), model, warm) == expected


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="the folder of real clips is not there")
def test_real_files_become_pairs(model: VideoModel, cache: Path) -> None:
    rows = [
        {"prompt": "a lift", "chosen": "nasa_13013.mp4", "rejected": "av1_video.mkv", "segment_labels": ["a"] * 4},
        {"prompt": "a pattern", "chosen": "h265_video.mp4", "rejected": "h264_10bits.mp4"},
    ]
    lift, pattern = dataset_from_rows(rows, model, cache, root=REAL_CLIPS)
    assert (lift.num_segments, pattern.num_segments) == (4, 1)
    assert lift.latent_shape[1] == 9 and pattern.latent_shape[1] == 3
    for item in (lift, pattern):
        assert tuple(LatentReader().read(item).b.shape) == item.latent_shape
        assert set(load_file(item.latents_path)) == {"a", "b", "clip"}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(COLUMNS), ANYTHING) | ANYTHING)
def test_a_row_of_anything_is_checked_or_refused(values: Any) -> None:
    try:
        found = parse_row(values, Path("somewhere"))
    except LabelError as error:
        assert "got" in str(error) or "has" in str(error)
        return
    assert found.prompt and 0 < found.eta <= 1
    assert all(label is None or -1 <= label <= 1 for label in found.segment_labels or ())


@given(st.lists(st.none() | st.floats(-1, 1) | st.sampled_from(["a", "b", "tie"]), min_size=1, max_size=6))
def test_labels_say_the_same_in_a_list_and_in_a_csv(labels: list[Any]) -> None:
    plain = {"prompt": "x", "chosen": "c.mp4", "rejected": "r.mp4"}
    listed = parse_row(plain | {"segment_labels": labels}, Path()).segment_labels
    as_text = ", ".join("null" if label is None else str(label) for label in labels)
    for text in (as_text, json.dumps(labels)):
        assert parse_row(plain | {"segment_labels": text}, Path()).segment_labels == listed


@pytest.mark.slow
def test_the_example_runs_and_goes_on(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[3] / "examples" / "train_from_rows.py"
    folders = [str(tmp_path / "videos"), "--output", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1] / "src")}
    for _ in range(2):  # the second time finds videos, latents and the finished run
        command = [sys.executable, str(script), *folders, "--steps", "4"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    assert "32 pairs from rows, 0 of them encoded now, 0 rows left out" in done.stderr
    assert len(read_jsonl(tmp_path / "run" / "metrics.jsonl")) == 4
    assert list((tmp_path / "run").rglob("pytorch_lora_weights.safetensors"))


@pytest.mark.slow
def test_the_code_of_the_guide_runs(labelled_project: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    guide = Path(__file__).resolve().parents[3] / "docs" / "guides" / "python-training.md"
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", guide.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
    for said, here in {
        'load_model("miniature")': f"load_model({str(tiny_model_folder)!r}, device='cpu')",
        "max_steps=150": "max_steps=2",
        'Path("my-project")': f"Path({str(labelled_project)!r})",
    }.items():
        assert said in code
        code = code.replace(said, here)
    (tmp_path / "v").mkdir()
    for name in ("17-good", "17-bad", "18-good", "18-bad"):
        write_video(tmp_path / "v" / f"{name}.mp4", moving(33, 32, 32, name), FPS)
    code += f"model = load_model({str(tiny_model_folder)!r}, device='cpu')\n"
    code += "trainer = DenseDPOTrainer(model, config.model_copy(update={'output_dir': Path('runs/2')}), pairs)\n"
    code += "print(len(pairs), trainer.train().steps)\n"  # pairs of the project train as well
    environment = {**os.environ, "PYTHONPATH": str(guide.parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("runs/first")
    assert done.stdout.splitlines()[-1].endswith(" 2")
