"""A judge spread over Ray actors is the judge itself: same name, same answers, one writer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from densedpo.errors import ConfigError
from densedpo.labels.judges.metric import MetricJudge
from densedpo.labels.judges.run import judge_pairs
from densedpo.labels.store import LabelStore
from densedpo.scale.judging import RayJudge
from densedpo.store.project import Project

# In a process of its own: Ray's threads and warnings would outlive a test. And in a network of its own, which has the
# loopback alone: Ray listens on every interface there is.
ALONE = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
SCRIPT = """
import fcntl, json, os, socket, struct, sys, time

UP = struct.pack("16sh", b"lo", 0x41)  # IFF_UP | IFF_RUNNING
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
    fcntl.ioctl(plug, 0x8914, UP + bytes(22))  # SIOCSIFFLAGS
assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()

from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from densedpo.errors import LabelError
from densedpo.labels.judges.base import Judgement, SegmentPair, ServiceError
from densedpo.labels.judges.metric import MetricJudge
from densedpo.labels.judges.run import judge_pairs
from densedpo.scale.judging import RayJudge
from densedpo.store.project import Project

project, marks = Project(Path(sys.argv[1])), Path(sys.argv[2])


class Odd(MetricJudge):
    def judge(self, pair):
        mark = marks / "died"
        if pair.caption == "die" or (pair.caption == "die once" and not mark.exists()):
            mark.touch()
            os._exit(9)
        if pair.caption == "raise":
            raise LabelError("the judge refuses this")
        (marks / f"used-{os.getpid()}").touch()
        return super().judge(pair)


@contextmanager
def seat():
    (marks / f"made-{os.getpid()}").touch()
    yield Odd()
    (marks / f"ended-{os.getpid()}").touch()


frames = np.zeros((4, 16, 16, 3), dtype=np.uint8)
said = {}
with RayJudge(seat, 2) as judge:
    said["name"], said["digest"], said["parallel"] = judge.name, judge.settings_digest, judge.parallel
    summary = judge_pairs(project, judge, 1.0)
    said["judged"], said["answers"] = summary.judged, summary.as_dict()["answers"]
    said["again"] = judge_pairs(project, judge, 1.0).judged
    try:
        judge.judge(SegmentPair(frames, frames, 4.0, "raise"))
    except LabelError as error:
        said["raised"] = [type(error).__name__, str(error)]
    said["after death"] = judge.judge(SegmentPair(frames, frames, 4.0, "die once")).answer
    said["one frame"] = judge.judge_in_order(SegmentPair(frames[:1], frames[:1], 4.0)).answer
    try:
        judge.judge(SegmentPair(frames, frames, 4.0, "die"))
    except ServiceError as error:
        said["dead"] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def spread(pairs_project_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Path]:
    """What the script said, the project it judged, and the marks its actors left."""
    folder = tmp_path_factory.mktemp("ray")
    project = Path(shutil.copytree(pairs_project_template, folder / "project"))
    marks = folder / "marks"
    marks.mkdir()
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], check=False).returncode:
        pytest.skip("no network of its own for Ray here: needs util-linux's unshare and the right to use it")
    line = [*ALONE, sys.executable, str(folder / "script.py"), str(project), str(marks)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, project, marks


@pytest.mark.slow
def test_the_answers_are_those_of_the_judge_itself(
    spread: tuple[dict[str, Any], Path, Path], pairs_project: Path
) -> None:
    said, judged, _ = spread
    own = judge_pairs(Project(pairs_project), MetricJudge(), 1.0)
    assert said["name"] == "metric"
    assert said["digest"] == MetricJudge().settings_digest
    assert said["judged"] == own.judged
    assert said["answers"] == own.as_dict()["answers"]

    def stored(folder: Path) -> dict[tuple[str, int], str | None]:
        with LabelStore.open(Project(folder).label_store) as store:
            return {(event.pair_id, event.segment): event.answer for event in store.current()}

    assert stored(judged) == stored(pairs_project)


@pytest.mark.slow
def test_every_actor_has_a_judge_of_its_own_and_works(spread: tuple[dict[str, Any], Path, Path]) -> None:
    said, _, marks = spread
    assert said["parallel"] == 4
    assert len(list(marks.glob("used-*"))) >= 2
    assert len(list(marks.glob("made-*"))) >= 3  # two, and the one that was started again


@pytest.mark.slow
def test_a_repetition_asks_nothing(spread: tuple[dict[str, Any], Path, Path]) -> None:
    assert spread[0]["again"] == 0


@pytest.mark.slow
def test_a_dead_actor_is_replaced_and_one_that_dies_again_stops_the_run(
    spread: tuple[dict[str, Any], Path, Path],
) -> None:
    said = spread[0]
    assert said["after death"] == "tie"
    assert said["one frame"] == "cannot_judge"
    assert "an actor of the judge died" in said["dead"]
    assert "repeat the command" in said["dead"]
    assert "\n" not in said["dead"]


@pytest.mark.slow
def test_errors_of_the_judge_arrive_as_they_are(spread: tuple[dict[str, Any], Path, Path]) -> None:
    assert spread[0]["raised"] == ["LabelError", "the judge refuses this"]


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'densedpo\[ray\]'"):
        RayJudge(_nothing, 1)


def _nothing() -> Any:
    raise AssertionError


def test_a_service_is_not_spread(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "densedpo", "label", "judge", "--project", str(tmp_path), "--judge", "vlm"]
    done = subprocess.run([*line, "--engine", "ray"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "a service is asked by one process" in done.stderr
