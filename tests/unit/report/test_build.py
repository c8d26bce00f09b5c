"""The report folder: what is in it, for whole and for half-finished projects, and that no data become markup."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.report.project_maker import add_clips, add_evaluation, add_pairs, add_run, make_project

from densedpo.errors import LabelError, ProjectError
from densedpo.report import media
from densedpo.report.build import build_report
from densedpo.store.files import read_json, write_json
from densedpo.store.project import Project
from densedpo.store.tables import read_table, write_table

SECTIONS = ("summary", "audit", "judges", "pairs", "training", "evaluation", "study-1", "provenance")
EMPTY = {"models": [{"name": "base"}], "prompts": [], "seeds": [], "scores": {}, "differences": {}, "score_info": {}}
PAYLOAD = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">'


class Page(HTMLParser):
    """Counts what a browser would act on."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def with_class(self, name: str) -> int:
        return sum(name in str(attributes.get("class")).split() for _, attributes in self.tags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("report") / "hostile & <b>bold</b>"
    captions = dict.fromkeys(range(3), PAYLOAD)
    project = make_project(root, pairs=3, runs=("dense", "<i>run"), captions=captions, prompt=PAYLOAD)
    build_report(project)
    return project


def test_every_section_player_and_figure_is_there(whole: Project) -> None:
    page = Page(whole.report / "index.html")
    assert [name for name in page.ids if name in SECTIONS] == list(SECTIONS)
    assert page.with_class("player") == 6 + 6 + 4  # pairs, samples by hash, best and worst of two runs
    assert page.with_class("segment") == 6 * 4
    assert page.with_class("missing") == 0
    assert "brightness" in page.text
    figures = json.loads(page.text[page.text.index('[{"id"') :].strip())
    assert {figure["id"] for figure in figures} <= set(page.ids)
    trained = {"audit-segments", "train-errors-0", "train-errors-1", "train-margins", "judge-confidence"}
    evaluated = {"differences-0", "plane-0-0", "curves-0", "properties-0", "study-bars-0-0", "study-bars-0-2"}
    assert trained | evaluated <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_everything_the_page_asks_for_lies_in_its_folder(whole: Project) -> None:
    page = Page(whole.report / "index.html")
    asked = [video[key] for video in page.all("video") for key in ("poster", "data-src")]
    asked += [script["src"] for script in page.all("script") if "src" in script]
    asked += [link["href"] for link in page.all("link") if link["rel"] == "stylesheet"]
    assert len(asked) > 50
    for relative in asked:
        assert relative is not None
        assert (whole.report / relative).resolve().is_relative_to(whole.report.resolve())
        assert (whole.report / relative).is_file(), relative


def test_no_data_become_markup_and_no_script_or_style_is_inline(whole: Project) -> None:
    page = Page(whole.report / "index.html")
    assert page.all("img") == []
    assert page.all("i") == []
    assert all("src" in script or script["type"] == "application/json" for script in page.all("script"))
    assert page.all("style") == []
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    assert PAYLOAD in page.text
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src 'self' file:;" in policy


def test_the_numbers_for_machines_are_those_of_the_project(whole: Project) -> None:
    numbers = read_json(whole.report / "report.json")
    summary = read_json(whole.evaluation("held-out") / "summary.json")
    assert numbers["schema_version"] == 2
    assert numbers["audit"] == read_json(whole.audit_file)
    assert numbers["evaluations"]["held-out"]["differences"] == summary["differences"]
    assert numbers["pairs"]["by_mode"] == {"guided": 3, "independent": 3}
    assert sum(numbers["pairs"]["answers"].values()) == 6 * 4
    assert len(numbers["pairs"]["shown"]) == 6
    assert set(numbers["runs"]) == {"dense", "<i>run"}


def test_a_second_report_takes_over_the_videos_and_says_the_same(
    whole: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_json(whole.report / "report.json")
    files = {path.name: path.read_bytes() for path in (whole.report / "media").iterdir()}

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("nothing changed, so nothing is encoded again")

    monkeypatch.setattr(media, "write_video", refuse)
    build_report(whole)
    after = read_json(whole.report / "report.json")
    assert {**before, "written": ""} == {**after, "written": ""}
    assert {path.name: path.read_bytes() for path in (whole.report / "media").iterdir()} == files


def commands(project: Project) -> list[str]:
    page = Page(build_report(project))
    assert [name for name in page.ids if name in SECTIONS] == [
        name for name in SECTIONS if name not in ("judges", "study-1")
    ]
    return [line.strip() for line in page.text.splitlines() if "densedpo " in line and "report" not in line]


def test_an_empty_project_says_how_to_go_on(tmp_path: Path) -> None:
    found = "\n".join(commands(Project(tmp_path)))
    for command in ("clips add", "pairs make", "label audit", "train", "evaluate"):
        assert f"densedpo {command}" in found


def test_clips_alone_and_pairs_without_labels_are_shown(tmp_path: Path) -> None:
    project = Project(tmp_path)
    add_clips(project, 2, {})
    assert "starts from 2 video clips" in (build_report(project)).read_text(encoding="utf-8")
    add_pairs(project, 2, {})
    page = Page(build_report(project))
    assert page.with_class("player") == 4
    assert page.with_class("answer-unlabelled") == 4 * 4 + 1  # every segment, and the legend
    assert "densedpo label freeze" in page.text


def test_a_run_or_an_evaluation_alone_is_shown(tmp_path: Path) -> None:
    project = Project(tmp_path)
    add_run(project, "dense", steps=30)
    add_evaluation(project, [], prompts=2)
    page = Page(build_report(project))
    assert "One run, dense, over 30 steps." in page.text
    assert page.with_class("player") == 4
    assert "differences-0" not in page.ids


def test_a_damaged_or_missing_video_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project(tmp_path)
    add_pairs(project, 3, {})
    first, second = (row["pair_id"] for row in read_table(project.pairs_table)[:2])
    (project.pairs / first / "a.mp4").write_bytes(b"not a video")
    (project.pairs / second / "b.mp4").unlink()
    page = Page(build_report(project))
    assert page.with_class("player") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert f"{first}/a.mp4" in said
    assert f"{second}/b.mp4: no such video" in said


def test_a_path_that_leads_outside_is_never_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project(tmp_path / "project")
    add_evaluation(project, [], prompts=1)
    folder = project.evaluation("held-out")
    table = folder / "scores.parquet"
    rows = read_table(table)
    shutil.copy(folder / rows[0]["video"], tmp_path / "secret.mp4")
    rows[0]["video"] = "../../../secret.mp4"
    write_table(table, rows, pq.read_schema(table))
    page = Page(build_report(project))
    assert page.with_class("player") == len(rows) - 1
    assert "leads outside" in " ".join(capsys.readouterr().err.split())


def test_unusable_files_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no such folder"):
        build_report(Project(tmp_path / "nowhere"))
    project = Project(tmp_path)
    write_json(project.evaluation("broken") / "summary.json", {"models": []})
    with pytest.raises(ProjectError, match="densedpo evaluate"):
        build_report(project)
    shutil.rmtree(project.evaluations)
    write_json(project.evaluation("broken") / "study.json", {"questions": []})
    with pytest.raises(ProjectError, match="densedpo study results"):
        build_report(project)
    shutil.rmtree(project.evaluations)
    write_json(project.evaluation("whole") / "summary.json", EMPTY)
    write_table(project.evaluation("whole") / "scores.parquet", [], pa.schema([("model", pa.string())]))
    write_json(project.evaluation("whole") / "suite_vbench.json", {"suite": "vbench"})
    with pytest.raises(ProjectError, match="densedpo score"):
        build_report(project)
    shutil.rmtree(project.evaluations)
    write_json(project.accuracy_file, {"judges": [{}]})
    with pytest.raises(ProjectError, match="densedpo label agreement"):
        build_report(project)
    project.accuracy_file.unlink()
    write_json(project.snapshots / "latest.json", {"id": "gone"})
    with pytest.raises(LabelError, match="densedpo label freeze"):
        build_report(project)
    assert not project.report.exists()
    assert list(tmp_path.glob(".tmp-*")) == []
