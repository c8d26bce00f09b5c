from __future__ import annotations

from tests.unit.labels.conftest import Fill, event

from densedpo.labels.status import status
from densedpo.store.project import Project


def test_before_the_first_answer(project: Project) -> None:
    found = status(project, 1.0)
    assert (found["pairs"], found["segments"], found["unlabelled_segments"]) == (3, 12, 12)
    assert (found["unlabelled_pairs"], found["events"], found["seconds_since_last"]) == (3, 0, None)
    assert found["authors"] == []
    assert not project.labels_database.exists()


def test_counts_by_source_and_author(fill: Fill) -> None:
    project = fill(
        [
            event("p1", 0, "a"),
            event("p1", 0, "tie"),
            event("p1", 1, "a"),
            event("p1", 0, "b", author="bob"),
            event("p2", 0, None, outcome="refused", source="judge", author="m"),
            event("p3", -1, "b"),
            event("gone", 0, "b"),
            event("p2", 0, "a", author="eve", trusted=False),
        ]
    )
    found = status(project, 1.0)
    assert (found["labelled_segments"], found["unlabelled_segments"], found["labelled_whole_clips"]) == (2, 10, 1)
    assert found["unlabelled_pairs"] == 1
    assert found["events"] == 8
    assert 0 <= found["seconds_since_last"] < 60
    by_author = {(row["source"], row["author"]): row for row in found["authors"]}
    assert by_author["person", "ann"]["answers"] == {"a": 1, "b": 2, "tie": 1}
    assert by_author["person", "ann"]["segments"] == 3
    assert by_author["person", "ann"]["whole_clips"] == 1
    assert by_author["judge", "m"]["outcomes"] == {"refused": 1}
    assert by_author["judge", "m"]["answers"] == {}
    assert by_author["person", "eve"]["untrusted"] == 1


def test_a_clip_shorter_than_a_segment_has_none(project: Project) -> None:
    assert status(project, 100.0)["segments"] == 0
