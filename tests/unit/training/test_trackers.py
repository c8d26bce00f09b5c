"""Trackers by name: each is told every step, a resumed run goes on, and what is missing is said with its remedy.

Fakes stand in for packages that are not installed; where TensorBoard is, its files are read back.
"""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from densedpo.errors import ConfigError
from densedpo.training.trackers import make_trackers

CONFIG = {"beta": 500.0, "loss_type": ["sigmoid"], "ema_decay": None}


class FakeRun:
    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished += 1


class FakePackage(types.ModuleType):
    """What wandb and trackio have in common; nothing leaves this machine."""

    class Error(Exception):
        """Raised where wandb would."""

    def __init__(self, name: str, refuses: str = "") -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.runs: list[FakeRun] = []
        self.refuses = refuses

    def init(self, **given: Any) -> FakeRun:
        if self.refuses:
            raise self.Error(self.refuses)
        sys.stdout.write("* a banner\n")
        self.runs.append(FakeRun(given))
        return self.runs[-1]

    def finish(self) -> None:
        self.runs[-1].finish()


@pytest.fixture(params=["wandb", "trackio"])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakePackage:
    fake = FakePackage(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


def test_every_step_is_told_and_the_run_is_closed(
    package: FakePackage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = make_trackers([package.__name__], tmp_path, CONFIG)
    tracker.on_step({"step": 1, "loss": 0.7, "eval/loss": 0.6})
    tracker.log({"loss": 0.5}, 2)
    (run,) = package.runs
    assert run.given["config"] == CONFIG
    assert run.rows == [(1, {"loss": 0.7, "eval/loss": 0.6}), (2, {"loss": 0.5})]
    assert run.finished == 0
    tracker.on_end()
    assert run.finished == 1
    assert capsys.readouterr().out == ""  # standard output belongs to --json


def test_a_resumed_run_keeps_its_name_and_a_new_one_does_not(package: FakePackage, tmp_path: Path) -> None:
    def name(resumed_from: int) -> str:
        make_trackers([package.__name__], tmp_path, CONFIG, resumed_from=resumed_from).close()
        return str(package.runs[-1].given["id" if package.__name__ == "wandb" else "name"])

    first, again, later = name(0), name(50), name(0)
    assert first == again
    assert first != later
    assert all(run.given["resume"] == "allow" for run in package.runs)
    (tmp_path / "trackers.json").unlink()  # the tracker was not asked for before
    assert name(50).startswith(tmp_path.name)


def test_wandb_without_a_login_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakePackage("wandb", refuses="No API key\nconfigured."))
    with pytest.raises(ConfigError, match=r"wandb cannot start \(No API key configured.\); run `wandb login`, or set"):
        make_trackers(["wandb"], tmp_path, CONFIG)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_names_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("densedpo.training.trackers.find_spec", lambda asked: None)
    with pytest.raises(ConfigError, match=rf"report_to: {name} is not installed; pip install 'densedpo\[{name}\]'"):
        make_trackers([name], tmp_path, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'visdom' is unknown; choose from tensorboard, wandb, trackio"):
        make_trackers(["visdom"], tmp_path, CONFIG)


def test_no_tracker_leaves_nothing_behind(tmp_path: Path) -> None:
    tracker = make_trackers([], tmp_path, CONFIG)
    tracker.on_step({"step": 1, "loss": 0.7})
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_files_hold_the_curves_also_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is an extra: pip install 'densedpo[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = make_trackers(["tensorboard"], tmp_path, CONFIG)
    for step in (1, 2, 3):
        tracker.on_step({"step": step, "loss": 1.0 / step})
    tracker.close()
    tracker = make_trackers(["tensorboard"], tmp_path, CONFIG, resumed_from=2)
    tracker.on_step({"step": 3, "loss": 30.0})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 30.0)]
    assert "sigmoid" in json.dumps(events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode())
