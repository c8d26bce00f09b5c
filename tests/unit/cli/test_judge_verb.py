"""``label judge --judge vlm`` from outside: one JSON object, a judge that is tested first, and clear ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fake_endpoint import FakeEndpoint, always_first, honest, obedient, steady
from tests.judged_pairs import SEGMENTS, make_project
from tests.unit.cli.result import Result
from tests.unit.labels.judges.doubles import Double, brighter

from densedpo.config import JudgeSettings
from densedpo.labels.judges.turn import judges_turn
from densedpo.labels.judges.vlm import VlmJudge
from densedpo.labels.store import LabelStore, current_answers
from densedpo.store.project import Project
from densedpo.store.shard import Shard

PAIRS = 6
ANSWERS = {"a", "b", "tie", "both_bad", "cannot_judge"}
OUTCOMES = {"ok", "refused", "truncated", "malformed", "failed"}


Judge = Callable[..., Result]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verb") / "project"
    make_project(root, PAIRS, flickers="b")
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.fixture
def judge(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Judge:
    from densedpo import cli

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner keeps its own handlers
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")

    def call(fake: FakeEndpoint | None, *arguments: object) -> Result:
        where: list[object] = [] if fake is None else ["--base-url", fake.url, "--model", "m"]
        words = ["label", "judge", "--judge", "vlm", "--project", root, *where, *arguments]
        monkeypatch.setattr(sys, "argv", ["densedpo", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return Result(int(stopped.value.code or 0), captured.out, captured.err)

    return call


def events(root: Path) -> Counter[tuple[str, int]]:
    with LabelStore.open(Project(root).labels_database) as store:
        return Counter((item.event.pair_id, item.event.segment) for item in store.events())


def test_a_judge_labels_everything_and_says_so(judge: Judge, root: Path) -> None:
    with FakeEndpoint(honest) as fake:
        result = judge(fake, "--json", "--price-input", 1, "--price-output", 2)
        assert result.code == 0, result.err
        found = result.value
        assert found["answers"] == {"a": 24, "b": 0, "tie": 0, "both_bad": 0, "cannot_judge": 0}
        assert set(found["outcomes"]) == OUTCOMES and found["outcomes"]["ok"] == 24
        tested = found["self_test"]
        assert tested["passed"] and tested["trusted"] and not tested["failed"] and not tested["kept"]
        assert {"probe schema", "probe images", "probe order", "same", "text"} <= {c["name"] for c in tested["checks"]}
        assert tested["probe"]["mode"] == "json_schema"
        assert found["calls"] == 2 * PAIRS * SEGMENTS
        assert fake.calls == found["calls"] + tested["calls"] + tested["probe"]["calls"]
        assert found["cost"] == pytest.approx(fake.cost(1, 2))
        assert found["estimate"]["requests"] == found["calls"]
        assert found["stopped"] == "" and found["rejected"] == []
        assert "requests" in result.err and "$" in result.err

        again = judge(fake, "--json").value
        assert (again["judged"], again["skipped"], again["calls"], again["cost"]) == (0, 24, 0, 0.0)
        assert set(again["answers"]) == ANSWERS and not any(again["answers"].values())
        assert again["self_test"]["kept"] and again["self_test"]["passed"]

        forced = judge(fake, "--json", "--force").value
        assert (forced["judged"], forced["calls"], forced["cached"]) == (24, 0, found["calls"])
        assert forced["answers"] == found["answers"]
    assert set(events(root).values()) == {1}
    assert fake.record.keys == {"/v1/chat/completions bearer sk-test"}


@pytest.mark.parametrize(("mind", "failed"), [(always_first, "probe order"), (obedient, "text")])
def test_a_judge_that_fails_is_refused_unless_it_is_allowed(judge: Judge, root: Path, mind: Any, failed: str) -> None:
    with FakeEndpoint(mind) as fake:
        refused = judge(fake, "--json")
        assert refused.code == 1
        assert failed in refused.value["self_test"]["failed"] and failed in refused.value["stopped"]
        assert not any(refused.value["answers"].values()) and refused.value["calls"] == 0
        assert f"error: {failed}: " in refused.err and "Traceback" not in refused.err
        assert current_answers(Project(root).labels_database) == []

        allowed = judge(fake, "--json", "--allow-untrusted")
        assert allowed.code == 0, allowed.err
        assert sum(allowed.value["answers"].values()) == 24
        assert allowed.value["self_test"]["trusted"] is False
    assert {event.trusted for event in current_answers(Project(root).labels_database)} == {False}


def test_an_estimate_sends_nothing(judge: Judge) -> None:
    with FakeEndpoint(honest) as fake:
        found = judge(fake, "--estimate", "--json", "--price-input", 1, "--orders", "one", "--layout", "grid").value
        assert fake.calls == 0
    assert found["estimate"]["requests"] == 24 and found["estimate"]["images"] == 48
    assert found["estimate"]["megabytes"] > 0 and found["estimate"]["cost"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--base-url"]),
        (["--base-url", "http://127.0.0.1:1/v1"], ["--model"]),
        (["--base-url", "ftp://x", "--model", "m"], ["judge", "base_url", "http://"]),
        (["--base-url", "http://x/v1", "--model", "m", "--budget", 1], ["price_input"]),
    ],
)
def test_what_is_missing_is_said_in_one_line(judge: Judge, arguments: list[object], words: list[str]) -> None:
    result = judge(None, *arguments, "--json")
    assert result.code == 1 and result.out == ""
    (error,) = (line for line in result.err.splitlines() if line.startswith("error:"))
    assert all(word in error for word in words), error


def test_a_wrong_key_and_nobody_there(judge: Judge) -> None:
    with FakeEndpoint(honest, key="sk-other") as fake:
        result = judge(fake, "--json")
    assert result.code == 1 and result.out == ""
    assert "OPENAI_API_KEY" in result.err and fake.url in result.err and "sk-test" not in result.err
    nobody = judge(fake, "--json", "--max-attempts", 1)
    assert nobody.code == 1 and "no connection" in nobody.err


def test_a_spent_budget_is_told_and_more_goes_on(judge: Judge, root: Path) -> None:
    prices = ["--price-input", 10, "--price-output", 10]
    with FakeEndpoint(honest) as fake:
        stopped = judge(fake, "--json", *prices, "--budget", 1.0)
        assert stopped.code == 1
        assert "budget" in stopped.value["stopped"] and stopped.value["cost"] <= 1.0
        assert fake.cost(10, 10) <= 1.0
        assert sum(events(root).values()) == stopped.value["judged"] < 24
        done = judge(fake, "--json", *prices, "--budget", 20)
        assert done.code == 0, done.err
        assert max(fake.record.whole.values()) == 1 or done.value["self_test"]["probe"]["calls"] > 0
    assert len(events(root)) == 24 and set(events(root).values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("during", "number", "code"), [("self-test", signal.SIGTERM, 143), ("judging", signal.SIGINT, 130)]
)
def test_a_signal_ends_it_soon_and_keeps_what_was_answered(
    root: Path, during: str, number: signal.Signals, code: int
) -> None:
    source = Path(__file__).parents[3] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "densedpo", "label", "judge", "--judge", "vlm", "--project", str(root)]

    def far_enough() -> bool:
        if during == "self-test":
            return fake.calls >= 6  # the probe is over
        return (root / "labels" / "labels.db").exists() and len(events(root)) >= 4

    with FakeEndpoint(steady, latency_s=0.05) as fake:
        asking = [*command, "--base-url", fake.url, "--model", "m", "--parallel", "2", "--allow-untrusted"]
        with subprocess.Popen(asking, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            until = time.monotonic() + 200
            while process.poll() is None and time.monotonic() < until and not far_enough():
                time.sleep(0.02)
            fake.plan = {"timeout": 1.0}  # what is under way now would take 30 s
            time.sleep(0.5)
            began = time.monotonic()
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        assert process.returncode == code, said.decode()
        assert b"repeat the command" in said and b"Traceback" not in said
        assert time.monotonic() - began < 20
        before = 0 if during == "self-test" else len(events(root))
        assert before == 0 if during == "self-test" else 4 <= before < 24
        fake.plan = {}
        subprocess.run(asking, check=True, capture_output=True, env=environment, timeout=200)
    assert len(events(root)) == 24 and set(events(root).values()) == {1}


def test_a_second_command_for_the_same_judge_pays_for_nothing(judge: Judge, root: Path) -> None:
    with FakeEndpoint(honest) as fake:
        first = VlmJudge(Double(brighter, model="m"), JudgeSettings())
        with judges_turn(Project(root), first, 1.0, "segments", Shard(1, 2)):
            result = judge(fake, "--json")
            assert (result.code, result.out) == (1, "") and len(result.err.splitlines()) == 2
            assert f"error: {root}: another process judges these pairs as vlm:m" in result.err
            assert "--shard 1/2" in result.err and not fake.calls
            assert judge(fake, "--estimate").code == 0
            assert judge(fake, "--json", "--shard", "2/2").code == 0
        assert judge(fake, "--json", "--shard", "1/2").value["judged"] == PAIRS * SEGMENTS // 2
