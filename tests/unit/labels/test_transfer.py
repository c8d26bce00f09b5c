from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.labels.conftest import PAIR_COLUMNS, Fill, event

from densedpo.errors import LabelError
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.gold import load_gold
from densedpo.labels.store import LabelStore, current_answers
from densedpo.labels.transfer import ExportFormat, export_labels, import_labels
from densedpo.store.project import Project
from densedpo.store.tables import read_table, write_table

EVERYTHING = [
    event("p2", 3, "b", confidence=0.1, reason='a "quoted", line\nand\u2028another', raw="{}"),
    event("p1", -1, "both_bad", author="bob", start_s=0.0, end_s=4.125, trusted=False),
    event("p1", 0, None, outcome="refused", source="judge", author="m", settings_digest="abc"),
    event("p1", 0, "cannot_judge", source="simulated", author="s", confidence=1.0),
    event("p3", 7, "tie", segment_s=0.5, start_s=3.5, end_s=4.125),
    event("p3", 1, "tie", tags="limbs,blur", note="<b>\n=1+1", dwell_s=2.5, shown_first="b", offered=True),
    event("p3", 1, "a", task="repeat", shown_first="a"),
    event("p3", 2, None, outcome="withdrawn", task="review"),
]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(**changes: Any) -> dict[str, Any]:
    return {"pair_id": "p1", "segment": 0, "answer": "a", **changes}


@pytest.mark.parametrize(("form", "suffix"), [("jsonl", "jsonl"), ("parquet", "parquet"), ("label_studio", "json")])
def test_export_import_export_is_identical(fill: Fill, tmp_path: Path, form: ExportFormat, suffix: str) -> None:
    project = fill(EVERYTHING)
    first = tmp_path / f"first.{suffix}"
    assert export_labels(project, first, form) == len(EVERYTHING)
    other = Project(tmp_path / "other")
    write_table(other.pairs_table, read_table(project.pairs_table), PAIR_COLUMNS)
    assert import_labels(other, first, segment_s=9.0).added == len(EVERYTHING)
    second = tmp_path / f"second.{suffix}"
    export_labels(other, second, form)
    assert second.read_bytes() == first.read_bytes()
    assert sorted(current_answers(other.labels_database), key=repr) == sorted(EVERYTHING, key=repr)


def test_repeating_an_import_adds_nothing(project: Project, tmp_path: Path) -> None:
    file = lines(tmp_path / "in.jsonl", row(), row(segment=1, answer="tie"))
    assert import_labels(project, file, 1.0).added == 2
    again = import_labels(project, file, 1.0)
    assert (again.rows, again.added, again.unchanged) == (2, 0, 2)


def test_minimal_rows_are_completed_from_the_grid(project: Project, tmp_path: Path) -> None:
    import_labels(project, lines(tmp_path / "in.jsonl", row(segment=3), row(segment=-1, author="bob")), 1.0)
    last, whole = current_answers(project.labels_database)
    assert (last.source, last.author, last.segment_s, last.start_s, last.end_s) == ("person", "import", 1.0, 3.0, 4.125)
    assert (whole.author, whole.start_s, whole.end_s) == ("bob", 0.0, 4.125)


def test_csv_and_parquet_with_the_needed_columns(project: Project, tmp_path: Path) -> None:
    text = tmp_path / "in.csv"
    text.write_text(
        '\ufeffpair_id,segment,answer,author,confidence,reason\r\np1,0,a,ann,0.5,"two\nlines"\r\np1,-1,tie,,,\r\n'
    )
    assert import_labels(project, text, 1.0).added == 2
    first, whole = current_answers(project.labels_database)
    assert (first.author, first.confidence, first.reason) == ("ann", 0.5, "two\nlines")
    assert (whole.author, whole.confidence, whole.answer) == ("import", None, "tie")
    table = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist([row(answer="b", author="eve")]), table)
    assert import_labels(project, table, 1.0).added == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row(pair_id="nope")], r"in\.jsonl: unknown pair 'nope' \(line 2\)"),
        ([row(pair_id=f"x{n}") for n in range(8)], r"'x0' \(line 1\).*'x4' \(line 5\) and 3 more"),
        ([row(pair_id=["p1"])], r"unknown pair"),
        ([row(), row(segment=4)], r"line 2: segment 4 is outside pair 'p1', which has 0 to 3"),
        ([row(segment=-2)], r"line 1: .*segment must be"),
        ([row(segment="0")], r"line 1: .*segment must be"),
        ([row(segment=10**30)], r"line 1: segment 1000000"),
        ([row(answer="left")], r"line 1: .*answer must be one of a, b, tie.*'left'"),
        ([row(answer=None)], r"line 1: .*answer must be"),
        ([row(outcome="refused")], r"line 1: .*answer must be none"),
        ([row(comment="x")], r"line 1: unknown column 'comment'"),
        ([{"pair_id": "p1", "segment": 0}], r"line 1: no column 'answer'"),
        ([row(confidence=float("nan"))], r"line 1: .*confidence must be"),
        ([row(segment_s=100.0)], r"line 1: .*shorter than one segment"),
        ([row(segment_s="1")], r"line 1: .*segment_s must be"),
        ([row(end_s=0.0)], r"line 1: .*end_s must be"),
        ([[1, 2]], r"line 1: expected an object"),
        ([], r"no answers in it"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_taken(
    project: Project, tmp_path: Path, rows: list[Any], message: str
) -> None:
    file = lines(tmp_path / "in.jsonl", *rows)
    with pytest.raises(LabelError, match=message) as caught:
        import_labels(project, file, 1.0)
    assert "\n" not in str(caught.value)
    assert current_answers(project.labels_database) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.jsonl", b'{"pair_id": "p1"', "line 1 is not JSON"),
        ("in.jsonl", b"\xff\xfe\x00", "not UTF-8"),
        ("in.parquet", b"PAR1 no", "not readable as Parquet"),
        ("in.csv", b"pair_id,segment,answer\np1,0\n", "line 2: more or fewer cells"),
        ("in.csv", b"pair_id,segment,answer\np1,zero,a\n", "line 2: .*segment must be.*'zero'"),
        ("in.csv", b"pair_id,segment,answer\np1,0,\n", "line 2: .*answer must be one of"),
        ("in.csv", b'pair_id,segment,answer\np1,0,"a', "line 2 is not CSV"),
        ("in.txt", b"", "unknown kind of file"),
    ],
)
def test_unreadable_files_are_named(project: Project, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(LabelError, match=message):
        import_labels(project, file, 1.0)
    with pytest.raises(LabelError, match="no such file"):
        import_labels(project, tmp_path / "absent.csv", 1.0)


def test_videoalign_export(fill: Fill, tmp_path: Path) -> None:
    events: list[AnswerEvent] = [
        event("p1", -1, "both_bad"),
        event("p2", 0, "b"),
        event("p2", 1, "b"),
        event("p2", 2, "a"),
        event("p3", -1, "cannot_judge"),
    ]
    project = fill(events)
    path = tmp_path / "out.csv"
    assert export_labels(project, path, "videoalign") == 2
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(found["path_A"], found["Overall"]) for found in rows] == [
        ("pairs/p1/a.mp4", "same"),
        ("pairs/p2/a.mp4", "B"),
    ]
    assert (rows[0]["prompt"], rows[0]["num_frames_B"], rows[0]["fps_A"]) == ("caption of p1", "33", "8.0")


def test_videoalign_never_mixes_sources(fill: Fill, tmp_path: Path) -> None:
    project = fill([event(answer="a"), event(source="judge", author="m", answer="b")])
    with pytest.raises(LabelError, match="never mixed"):
        export_labels(project, tmp_path / "out.csv", "videoalign")
    assert export_labels(project, tmp_path / "out.csv", "videoalign", source="judge") == 1


def test_nothing_to_export(project: Project, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no answers to export"):
        export_labels(project, tmp_path / "out.jsonl", "jsonl")


def test_an_export_does_not_depend_on_the_order_of_answering(project: Project, tmp_path: Path) -> None:
    exported = []
    for name, events in (("forward", EVERYTHING), ("backward", EVERYTHING[::-1])):
        other = Project(tmp_path / name)
        write_table(other.pairs_table, read_table(project.pairs_table), PAIR_COLUMNS)
        with LabelStore.open(other.labels_database) as store:
            store.append(events)
        export_labels(other, tmp_path / f"{name}.jsonl", "jsonl")
        exported.append((tmp_path / f"{name}.jsonl").read_text())
    assert exported[0] == exported[1]


def twin_of(project: Project, folder: Path) -> Project:
    other = Project(folder)
    write_table(other.pairs_table, read_table(project.pairs_table), PAIR_COLUMNS)
    return other


def test_a_dataset_folder_comes_back_whole(fill: Fill, tmp_path: Path) -> None:
    project = fill(EVERYTHING)
    first, second = tmp_path / "dataset", tmp_path / "again"
    assert export_labels(project, first, "datasets") == len(EVERYTHING)
    other = twin_of(project, tmp_path / "other")
    assert import_labels(other, first, 9.0).added == len(EVERYTHING)
    export_labels(other, second, "datasets")
    files = [path.relative_to(first) for path in sorted(first.rglob("*")) if path.is_file()]
    assert [str(path) for path in files] == ["README.md", "data/answers.parquet", "data/pairs.parquet"]
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)
    assert {row["pair_id"] for row in read_table(first / "data" / "pairs.parquet")} == {"p1", "p2", "p3"}
    export_labels(project, first, "datasets")  # in place of an older one, but of nothing else
    with pytest.raises(LabelError, match="something else is there"):
        export_labels(project, tmp_path, "datasets")
    with pytest.raises(LabelError, match="not a dataset of answers"):
        import_labels(other, tmp_path, 1.0)


def test_label_studio_sees_people_as_annotations_and_judges_as_predictions(fill: Fill, tmp_path: Path) -> None:
    export_labels(fill(EVERYTHING), tmp_path / "out.json", "label_studio")
    tasks = {task["data"]["pair_id"]: task for task in json.loads((tmp_path / "out.json").read_text())}
    assert [given["completed_by"] for given in tasks["p1"]["annotations"]] == [{"email": "bob"}]
    assert [given["model_version"] for given in tasks["p1"]["predictions"]] == ["m", "s"]
    result = tasks["p2"]["annotations"][0]["result"][0]
    assert (result["type"], result["from_name"]) == ("choices", "segment-3")
    assert result["value"] == {"choices": ["b"], "start": 3.0, "end": 4.0}


def test_label_studio_answers_made_elsewhere_come_in(project: Project, tmp_path: Path) -> None:
    def choice(part: str, chosen: str) -> dict[str, Any]:
        return {"from_name": part, "to_name": "v", "type": "choices", "value": {"choices": [chosen]}}

    annotation = {"completed_by": 7, "result": [choice("segment-2", "tie"), choice("clip", "a")]}
    prediction = {"model_version": "m", "result": [choice("segment-0", "b")]}
    task = {"data": {"pair_id": "p1"}, "annotations": [annotation], "predictions": [prediction]}
    file = tmp_path / "in.json"
    file.write_text(json.dumps([task]))
    assert import_labels(project, file, 1.0).added == 3
    found = {(item.source, item.author, item.segment): item.answer for item in current_answers(project.labels_database)}
    assert found == {("person", "7", 2): "tie", ("person", "7", -1): "a", ("judge", "m", 0): "b"}


@pytest.mark.parametrize(
    "content",
    ["{}", "[1]", '[{"data": {}}]', '[{"data": {"pair_id": "p1"}, "annotations": [{"result": [{"from_name": "x"}]}]}]',
     '[{"data": {"pair_id": "p1"}, "annotations": 3}]', "[", '[{"data": {"pair_id": "p1"}, "annotations": [{"result": '
     '[{"from_name": "segment-0", "value": {"choices": ["left"]}}]}]}]'],
)  # fmt: skip
def test_what_is_no_label_studio_export_is_named(project: Project, tmp_path: Path, content: str) -> None:
    file = tmp_path / "in.json"
    file.write_text(content)
    with pytest.raises(LabelError, match=r"in\.json"):
        import_labels(project, file, 1.0)
    assert current_answers(project.labels_database) == []


def test_videoalign_goes_out_and_comes_in(fill: Fill, tmp_path: Path) -> None:
    answers = {"p1": "a", "p2": "b", "p3": "tie"}
    project = fill([event(pair, -1, answer, start_s=0.0, end_s=4.125) for pair, answer in answers.items()])
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    export_labels(project, first, "videoalign")
    other = twin_of(project, tmp_path / "other")
    assert import_labels(other, first, 1.0, "ann").added == 3
    assert {item.pair_id: item.answer for item in current_answers(other.labels_database)} == answers
    export_labels(other, second, "videoalign")
    assert second.read_bytes() == first.read_bytes()
    swapped = tmp_path / "swapped.csv"
    swapped.write_text("path_A,path_B,prompt,Overall\npairs/p1/b.mp4,pairs/p1/a.mp4,x,A\n")
    third = twin_of(project, tmp_path / "third")
    import_labels(third, swapped, 1.0)
    assert [item.answer for item in current_answers(third.labels_database)] == ["b"]
    for wrong in ("pairs/p1/a.mp4,pairs/p2/b.mp4,x,A", "pairs/p1/a.mp4,pairs/p1/b.mp4,x,left", "a,b,x,A"):
        swapped.write_text(f"path_A,path_B,prompt,Overall\n{wrong}\n")
        with pytest.raises(LabelError, match=r"line 2: not a row of the VideoAlign CSV"):
            import_labels(third, swapped, 1.0)


def test_known_answers_are_kept_apart(project: Project, tmp_path: Path) -> None:
    odd = "seen\u2028twice"  # a line break to str.splitlines, not to JSON
    file = lines(tmp_path / "gold.jsonl", row(note=odd), row(segment=1, answer="tie"))
    assert import_labels(project, file, 1.0, gold=True).added == 2
    assert load_gold(project, 1.0) == {"p1": {0: "a", 1: "tie"}}
    assert load_gold(project, 0.5) == {}
    assert current_answers(project.labels_database) == []
    project.gold_file.write_text("{}\n")
    with pytest.raises(LabelError, match=r"gold\.jsonl: line 1: .*pair_id"):
        load_gold(project, 1.0)
