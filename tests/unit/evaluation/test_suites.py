"""Outside suites over the videos of an evaluation: one table, intervals, nothing asked twice."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.unit.outside.stand_ins import command

from densedpo.errors import ConfigError, MediaError, ProjectError
from densedpo.evaluation.suite_run import Clip, clips_of_evaluation, clips_of_folder, score_clips
from densedpo.evaluation.suites import SUITES, suite_of
from densedpo.outside.cache import ScoreCache
from densedpo.outside.environments import load_recipe
from densedpo.outside.pipe import Adapter
from densedpo.store.project import Project
from densedpo.store.tables import read_table, write_table

PROMPTS, SEEDS = 6, 2
# The size of the file stands for quality; calls are counted.
SUITE = """
NAMES = {names!r}
def load():
    def score(video, prompt):
        with open({count!r}, "a") as file:
            file.write("x")
        size = float(os.path.getsize(video))
        if size == 999:
            raise ValueError("cannot read it")
        return {{name: size + place for place, name in enumerate(NAMES)}}
    return score

serve(load, name={name!r}, scores=NAMES, prompted={prompted!r})
"""
NINE = ("alignment", "composition", "quality", "fidelity", "safety", "stability", "preservation", "dynamic", "physics")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An evaluation of a base and a run; the run's videos are larger by 10 and a little."""
    project = Project(tmp_path / "project")
    folder = project.evaluation("evaluation")
    rows = []
    for model, extra in (("base", 0), ("dense", 10)):
        (folder / "videos" / model).mkdir(parents=True)
        for prompt in range(PROMPTS):
            for seed in range(SEEDS):
                video = f"videos/{model}/{prompt}-{seed}.mp4"
                (folder / video).write_bytes(b"x" * (100 + extra + 3 * prompt + seed + (prompt % 2) * (extra > 0)))
                row = {"model": model, "prompt_id": f"p{prompt}", "prompt": f"prompt {prompt}", "seed": seed}
                rows.append({**row, "video": video})
    columns = [(name, pa.string()) for name in ("model", "prompt_id", "prompt", "video")]
    write_table(folder / "scores.parquet", rows, pa.schema([*columns, ("seed", pa.int64())]))
    return project


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ScoreCache]:
    with ScoreCache(tmp_path / "scores.db") as made:
        yield made


def body(tmp_path: Path, name: str = "mine", names: tuple[str, ...] = ("q",), prompted: tuple[str, ...] = ()) -> str:
    return SUITE.format(names=list(names), count=str(tmp_path / "count"), name=name, prompted=list(prompted))


def run(tmp_path: Path, project: Project, cache: ScoreCache, **how: Any) -> dict[str, Any]:
    clips = clips_of_evaluation(project, "evaluation")
    with Adapter(command(tmp_path, body(tmp_path, **how)), tmp_path / "log", start_timeout_s=60) as adapter:
        return score_clips(clips, adapter, cache, project.evaluation("evaluation"))


def asked(tmp_path: Path) -> int:
    return len((tmp_path / "count").read_text())


def test_every_video_is_in_the_table_with_its_numbers(tmp_path: Path, project: Project, cache: ScoreCache) -> None:
    said = run(tmp_path, project, cache)
    folder = project.evaluation("evaluation")
    rows = read_table(folder / "suite_mine.parquet")
    assert len(rows) == said["videos"] == 2 * PROMPTS * SEEDS
    assert all(row["q"] == (folder / row["video"]).stat().st_size for row in rows)
    assert json.loads((folder / "suite_mine.json").read_text()) == said


def test_differences_are_paired_and_have_intervals(tmp_path: Path, project: Project, cache: ScoreCache) -> None:
    said = run(tmp_path, project, cache)
    difference = said["differences"]["dense"]["q"]
    assert difference["mean"] == pytest.approx(10.5)
    # prompts differ by 15, the difference by 1: only a paired interval is this narrow
    assert 9.5 <= difference["low"] < difference["high"] <= 11.5
    assert said["scores"]["base"]["q"]["high"] - said["scores"]["base"]["q"]["low"] > 5
    assert said["tests"]["dense"]["q"]["wins"] == PROMPTS
    assert said["models"] == ["base", "dense"]


def test_repeating_asks_nothing_and_says_the_same(tmp_path: Path, project: Project, cache: ScoreCache) -> None:
    first = run(tmp_path, project, cache)
    # files of equal bytes are one video to a suite that needs no prompt
    different = len({path.read_bytes() for path in project.evaluations.rglob("*.mp4")})
    assert asked(tmp_path) == different < 2 * PROMPTS * SEEDS
    assert run(tmp_path, project, cache) == first
    assert asked(tmp_path) == different


def test_a_suite_that_needs_prompts_is_asked_for_each(tmp_path: Path, project: Project, cache: ScoreCache) -> None:
    run(tmp_path, project, cache, prompted=("q",))
    assert asked(tmp_path) == len(
        {(row["prompt"], (project.evaluation("evaluation") / row["video"]).read_bytes())
         for row in read_table(project.evaluation("evaluation") / "scores.parquet")}
    )  # fmt: skip


def test_a_changed_video_is_asked_again(tmp_path: Path, project: Project, cache: ScoreCache) -> None:
    run(tmp_path, project, cache)
    before = asked(tmp_path)
    (project.evaluation("evaluation") / "videos/base/0-0.mp4").write_bytes(b"y" * 500)
    assert run(tmp_path, project, cache)["means"]["base"]["q"] > 120
    assert asked(tmp_path) == before + 1


def test_a_failed_video_is_named_and_leaves_every_model(tmp_path: Path, project: Project, cache: ScoreCache) -> None:
    whole = run(tmp_path, project, cache)
    (project.evaluation("evaluation") / "videos/dense/5-1.mp4").write_bytes(b"x" * 999)
    (project.evaluation("evaluation") / "videos/base/4-0.mp4").unlink()
    said = run(tmp_path, project, cache)
    assert [failure["video"] for failure in said["failed"]] == ["videos/base/4-0.mp4", "videos/dense/5-1.mp4"]
    assert "cannot be read" in said["failed"][0]["reason"]
    assert "ValueError: cannot read it" in said["failed"][1]["reason"]
    assert said["compared"] == PROMPTS * SEEDS - 2
    # the mean of the other model is over the same videos
    assert said["means"]["base"]["q"] < whole["means"]["base"]["q"]
    rows = read_table(project.evaluation("evaluation") / "suite_mine.parquet")
    assert sum(row["q"] is None for row in rows) == 2
    before = asked(tmp_path)
    run(tmp_path, project, cache)
    assert asked(tmp_path) == before + 1  # what failed is asked again


def test_visionrewards_dimensions_become_the_papers(tmp_path: Path, project: Project, cache: ScoreCache) -> None:
    said = run(tmp_path, project, cache, name="visionreward", names=(*NINE, "overall"))
    row = read_table(project.evaluation("evaluation") / "suite_visionreward.parquet")[0]
    assert row["TA"] == row["alignment"]
    assert row["VQ"] == pytest.approx((row["composition"] + row["quality"] + row["fidelity"]) / 3)
    assert row["TC"] == pytest.approx((row["stability"] + row["physics"] + row["preservation"]) / 3)
    assert row["DD"] == row["dynamic"]
    assert said["score_info"]["DD"]["is_motion"]
    assert any("frozen" in note for note in said["notes"])


def test_vbench_says_that_the_paper_takes_five_seeds(tmp_path: Path, project: Project, cache: ScoreCache) -> None:
    names = tuple(SUITES["vbench"].infos)
    said = run(tmp_path, project, cache, name="vbench", names=names)
    assert "2 videos a prompt; the suite asks for 5 (sample.seeds)." in said["notes"]
    assert [name for name, info in said["score_info"].items() if info["is_motion"]] == ["dynamic_degree"]


def test_suites_and_recipes_agree_on_the_scores() -> None:
    assert all(name in load_recipe("vbench").scores for name in SUITES["vbench"].infos)
    assert set(SUITES["videoscore2"].infos) == set(load_recipe("videoscore2").scores.split(", from")[0].split(", "))
    assert suite_of("visionreward", ["overall"]).derived == {}, "another adapter of that name"
    assert suite_of("unknown", ["q"]).info("q").better == "neither"


def test_a_folder_of_strangers_videos(tmp_path: Path, cache: ScoreCache) -> None:
    folder = tmp_path / "films"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"x" * 7)
    (folder / "sub" / "b.mp4").write_bytes(b"x" * 9)
    (folder / "captions.csv").write_text("path,caption\na.mp4,a dog\n", encoding="utf-8")
    clips = clips_of_folder(folder, None)
    assert [(clip.video, clip.prompt) for clip in clips] == [("a.mp4", "a dog"), ("sub/b.mp4", "")]
    with Adapter(command(tmp_path, body(tmp_path)), tmp_path / "log", start_timeout_s=60) as adapter:
        said = score_clips(clips, adapter, cache, tmp_path / "out")
    assert said["means"] == {"videos": {"q": 8.0}}
    assert said["differences"] == {}


def test_a_suite_that_scores_only_by_prompts_needs_some(tmp_path: Path, cache: ScoreCache) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    with (
        Adapter(command(tmp_path, body(tmp_path, prompted=("q",))), tmp_path / "log", start_timeout_s=60) as adapter,
        pytest.raises(ConfigError, match="scores nothing without prompts; give --captions"),
    ):
        score_clips([Clip(tmp_path / "a.mp4", "videos", "p", "", 0, "a.mp4")], adapter, cache, tmp_path)


def test_nothing_that_can_be_scored_is_an_error(tmp_path: Path, cache: ScoreCache) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x" * 999)
    with (
        Adapter(command(tmp_path, body(tmp_path)), tmp_path / "log", start_timeout_s=60) as adapter,
        pytest.raises(MediaError, match="mine could score none of 1 videos; the first: ValueError: cannot read it"),
    ):
        score_clips([Clip(tmp_path / "a.mp4", "videos", "p", "", 0, "a.mp4")], adapter, cache, tmp_path)


def test_no_evaluation_and_one_of_a_folder_are_refused(project: Project) -> None:
    with pytest.raises(ProjectError, match="densedpo evaluate --name other"):
        clips_of_evaluation(project, "other")
    write_table(project.evaluation("films") / "scores.parquet", [{"path": "a"}], pa.schema([("path", pa.string())]))
    with pytest.raises(ProjectError, match="not an evaluation of models; give its folder of videos with --videos"):
        clips_of_evaluation(project, "films")


def test_the_verb(tmp_path: Path, project: Project) -> None:
    words = shlex.join(command(tmp_path, body(tmp_path)))
    line = [sys.executable, "-m", "densedpo", "score", "--project", str(project.root), "--command", words, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert ", +10.5 (+" in done.stderr
    assert "): higher" in done.stderr
    assert said["differences"]["dense"]["q"]["mean"] == pytest.approx(10.5)
    assert (project.evaluation("evaluation") / said["table"]).exists()
    wrong = subprocess.run([*line, "--name", "none"], capture_output=True, text=True, timeout=120, check=False)
    assert wrong.returncode == 1
    assert "not there yet" in wrong.stderr
