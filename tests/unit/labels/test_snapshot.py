from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from tests.unit.labels.conftest import Fill, event

from densedpo.errors import LabelError
from densedpo.labels.snapshot import freeze, latest_snapshot, load_snapshot
from densedpo.store.project import Project


def test_a_snapshot_is_read_as_it_was_frozen(fill: Fill) -> None:
    project = fill(
        [
            event("p1", 0, "a"),
            event("p1", 1, "both_bad"),
            event("p1", 2, None),
            event("p3", -1, "b"),
            event("p2", 3, "tie"),
        ]
    )
    frozen = freeze(project)
    loaded = load_snapshot(latest_snapshot(project))
    assert loaded.id == frozen.id
    assert loaded.segment_s == 1.0
    assert list(loaded.rows) == ["p1", "p2", "p3"]
    first = loaded.rows["p1"]
    assert first.segment_answers == ("a", "both_bad", None, None)
    assert first.segment_labels == (1.0, 0.0, None, None)
    assert (first.clip_answer, first.clip_label, first.votes) == ("a", 1.0, 2)
    assert loaded.rows["p3"].segment_labels == (None,) * 4
    assert loaded.rows["p3"].clip_label == -1.0
    assert loaded.metadata["source"] == "person"
    assert loaded.metadata["authors"] == ["ann"]
    assert loaded.metadata["events"] == 4
    assert (frozen.pairs, frozen.segments, frozen.non_tie_segments, frozen.non_tie_clips) == (3, 3, 1, 2)


def test_same_labels_same_id_and_bytes_whatever_the_history(fill: Fill) -> None:
    project = fill([event("p1", 0, "a"), event("p2", 0, "b")])
    first = freeze(project)
    content = first.path.read_bytes()
    first.path.unlink()
    fill([event("p1", 0, "tie"), event("p1", 0, "a"), event("p2", 0, "b")])
    second = freeze(project)
    assert second.id == first.id
    assert second.path.read_bytes() == content


def test_other_labels_other_id_and_the_latest_is_the_last_frozen(fill: Fill) -> None:
    project = fill([event("p1", 0, "a")])
    first = freeze(project)
    fill([event("p1", 0, "b")])
    second = freeze(project)
    assert first.id != second.id
    assert latest_snapshot(project) == second.path
    fill([event("p1", 0, "a")])
    assert freeze(project).id == first.id
    assert latest_snapshot(project) == first.path
    assert load_snapshot(second.path).rows["p1"].clip_label == -1.0


def test_sources_are_never_mixed_silently(fill: Fill) -> None:
    project = fill([event(answer="a"), event(source="judge", author="m", answer="b")])
    with pytest.raises(LabelError, match=r"judge and person.*name one"):
        freeze(project)
    assert load_snapshot(freeze(project, "judge").path).rows["p1"].clip_label == -1.0
    assert load_snapshot(freeze(project, "person").path).rows["p1"].clip_label == 1.0
    with pytest.raises(LabelError, match="no usable answers from simulated"):
        freeze(project, "simulated")
    with pytest.raises(LabelError, match="'oracle' is unknown"):
        freeze(project, "oracle")


def test_segment_lengths_are_never_mixed_silently(fill: Fill) -> None:
    project = fill([event(answer="a"), event(answer="b", segment=7, segment_s=0.5, start_s=3.5, end_s=4.125)])
    with pytest.raises(LabelError, match=r"0\.5 and 1 s"):
        freeze(project)
    assert load_snapshot(freeze(project, segment_s=0.5).path).rows["p1"].segment_labels == (None,) * 7 + (-1.0,)


def test_nothing_to_freeze(project: Project, fill: Fill) -> None:
    with pytest.raises(LabelError, match="label judge"):
        freeze(project)
    with pytest.raises(LabelError, match="no snapshot yet"):
        latest_snapshot(project)
    fill([event(answer=None, outcome="refused")])
    with pytest.raises(LabelError, match="no usable answers"):
        freeze(project)


def test_a_segment_outside_its_clip_is_named(fill: Fill) -> None:
    project = fill([event("p2", 4, "a")])
    with pytest.raises(LabelError, match=r"'p2'.*segment 4.*0 to 3"):
        freeze(project)


def test_labels_of_pairs_that_are_gone_are_left_out_with_a_warning(
    fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    project = fill([event("p1"), event("gone")])
    assert freeze(project).pairs == 1
    assert "1 labelled pair" in capsys.readouterr().err


def test_damage_is_noticed(fill: Fill) -> None:
    path = freeze(fill([event("p1", 0, "a"), event("p2", 0, "b")])).path
    content = path.read_bytes()
    for position in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            rows = load_snapshot(path).rows
        except LabelError:
            continue
        # a byte that Parquet does not read (padding, statistics) may change, a label may not
        assert rows["p1"].segment_labels == (1.0, None, None, None)
        assert rows["p2"].segment_labels == (-1.0, None, None, None)
    path.write_bytes(content[:-20])
    with pytest.raises(LabelError, match="does not match"):
        load_snapshot(path)


def test_an_edited_label_is_noticed(fill: Fill) -> None:
    path = freeze(fill([event("p1", 0, "a")])).path
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["clip_label"] = -1.0
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    with pytest.raises(LabelError, match="does not match"):
        load_snapshot(path)


def test_a_renamed_snapshot_is_noticed(fill: Fill) -> None:
    path = freeze(fill([event()])).path
    moved = path.rename(path.with_name("0123456789abcdef.parquet"))
    with pytest.raises(LabelError, match="does not match"):
        load_snapshot(moved)
    with pytest.raises(LabelError, match="no such snapshot"):
        load_snapshot(path)
