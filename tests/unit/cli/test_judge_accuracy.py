"""From judges' and people's answers to weighted labels and a plan, by the commands alone."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.labels.conftest import PAIR_COLUMNS, event, pair_row

from densedpo import cli
from densedpo.keys import stream
from densedpo.labels.snapshot import latest_snapshot, load_snapshot
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project
from densedpo.store.tables import write_table

PAIRS, ANSWERED = 60, 30
NAMES = {1: "a", -1: "b", 0: "tie"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Judge m is the righter the surer it is, judge n guesses; people answered half of the pairs."""
    project = Project(tmp_path)
    write_table(project.pairs_table, [pair_row(f"p{n:03d}") for n in range(PAIRS)], PAIR_COLUMNS)
    rng, events = stream("test cli", "judges"), []
    for number in range(PAIRS * 4):
        pair_id, segment = f"p{number // 4:03d}", number % 4
        truth, sure = int(rng.choice([-1, 1])), float(rng.choice([0.6, 0.8, 1.0]))
        said = truth if rng.uniform() < sure - 0.05 else -truth
        judged: dict[str, Any] = {"source": "judge", "settings_digest": "d"}
        events.append(event(pair_id, segment, NAMES[said], author="m", confidence=sure, **judged))
        events.append(event(pair_id, segment, NAMES[int(rng.choice([-1, 1]))], author="n", confidence=0.9, **judged))
        if number // 4 < ANSWERED:
            events.append(event(pair_id, segment, NAMES[truth]))
    with LabelStore.open(project.label_store) as store:
        store.append(events)
    return project


def run(
    line: str, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Any, str]:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner keeps its own handlers
    monkeypatch.setattr(sys, "argv", [*f"densedpo {line} --json --project".split(), str(project.root)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    told = capsys.readouterr()
    return stopped.value.code, json.loads(told.out) if told.out else None, " ".join(told.err.split())


def test_from_answers_to_weights_and_a_plan(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found, told = run("label agreement --against people", project, capsys, monkeypatch)
    assert code == 0
    judges = {judge["judge"]: judge["table"]["segments"]["ties_skipped"] for judge in found["accuracy"]["judges"]}
    assert judges["m"]["low"] > 0.6 > judges["n"]["value"]
    assert judges["m"]["n"] == ANSWERED * 4
    assert "judges against people: 120 segments (120 preferences), 30 whole videos (0 asked)" in told
    code, _, told = run("label freeze --source judge", project, capsys, monkeypatch)
    assert code == 1 and "judges m and n, which are never mixed; name one author" in told
    code, found, told = run("label calibrate --judge m", project, capsys, monkeypatch)
    assert code == 0 and found["answers"] == ANSWERED * 4
    assert "m: fitted on 120 answers in 30 pairs of people" in told
    code, frozen, _ = run("label freeze --source judge --author m", project, capsys, monkeypatch)
    snapshot = load_snapshot(latest_snapshot(project))
    assert code == 0 and snapshot.id == frozen["id"]
    assert snapshot.metadata["calibration"] == found["digest"]
    weights = {abs(label) for row in snapshot.rows.values() for label in row.segment_labels if label}
    assert len(weights) > 1 and 0 < min(weights) < max(weights) <= 1
    code, found, told = run("label plan --judge m --accuracy 0.95", project, capsys, monkeypatch)
    assert code == 0 and found["to_ask"] == (PAIRS - ANSWERED) * 4
    assert found["needed"]["by_segment"]["value"] < found["needed"]["at_random"]["value"]
    assert "answers needed for 0.95, pair by pair, as the page asks:" in told


def test_a_reference_that_is_not_there_is_named(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found, told = run("label agreement --against gold", project, capsys, monkeypatch)
    assert code == 1 and found is None
    assert "no answers of 'gold'; there are 120 of ann (person), 240 of m (judge), 240 of n (judge)" in told
    code, _, told = run("miniworld judge --noise -1", project, capsys, monkeypatch)
    assert code == 2
