"""Judging through batch files against a service on this machine: limits, resume, what goes wrong, and the budget."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fake_batches import FakeBatches, serving
from tests.judged_pairs import SEGMENTS, make_project
from tests.unit.labels.judges.doubles import noise_pair

from densedpo.config import JudgeSettings
from densedpo.errors import ConfigError, LabelError
from densedpo.labels.judges import batch, batch_part
from densedpo.labels.judges.answerer import Question
from densedpo.labels.judges.base import BudgetError, ServiceError
from densedpo.labels.judges.batch import Batches
from densedpo.labels.judges.batch_service import BatchService
from densedpo.labels.judges.endpoint import Endpoint
from densedpo.labels.judges.replies import Replies
from densedpo.labels.judges.vlm import VlmJudge

PAIRS = [noise_pair(seed=seed) for seed in range(6)]


@pytest.fixture
def service() -> Iterator[FakeBatches]:
    with serving(FakeBatches()) as running:
        yield running


@contextmanager
def opened(service: FakeBatches, folder: Path, **more: Any) -> Iterator[tuple[Batches, VlmJudge]]:
    settings = JudgeSettings(base_url=service.url, model="m", timeout_s=5, max_attempts=2, **more)
    with Replies(folder / "replies.db") as replies, Endpoint(settings, replies, backoff_s=0.01) as endpoint:
        batches = Batches(endpoint, settings, replies, folder / "batches", first_wait_s=0.01)
        try:
            yield batches, VlmJudge(batches, settings)
        finally:
            batches.close()


def asked_by(judge: VlmJudge) -> list[Question]:
    return [question for pair in PAIRS for question in judge.questions(pair)]


def test_all_questions_go_in_one_batch_and_judging_asks_nobody(service: FakeBatches, tmp_path: Path) -> None:
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
        assert (service.asked_alone, service.asked_in_batches, len(service.batches)) == (1, 11, 1)
        assert (batches.summary.sent, batches.summary.answered, batches.summary.unanswered) == (11, 11, 0)
        before = service.calls.total()
        said = [judge.judge(pair) for pair in PAIRS]
        assert {judgement.outcome for judgement in said} == {"ok"}
        assert [judgement.cached for judgement in said] == [2] * 6
        assert service.calls.total() == before
    # nothing is left on the disk or at the service but its output
    assert list((tmp_path / "batches").rglob("*.json*")) == []
    assert "file-1" not in service.files


def test_a_batch_says_what_single_questions_say(service: FakeBatches, tmp_path: Path) -> None:
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
        from_batch = [judge.judge(pair).answer for pair in PAIRS]
    settings = JudgeSettings(base_url=service.url, model="m")
    with Replies(tmp_path / "others.db") as replies, Endpoint(settings, replies) as endpoint:
        assert [VlmJudge(endpoint, settings).judge(pair).answer for pair in PAIRS] == from_batch
        assert VlmJudge(endpoint, settings).settings_digest == judge.settings_digest


def test_repeating_sends_nothing(service: FakeBatches, tmp_path: Path) -> None:
    for _ in range(2):
        with opened(service, tmp_path) as (batches, judge):
            batches.fill(asked_by(judge))
    assert (service.asked_alone, service.asked_in_batches) == (1, 11)


def test_files_keep_to_the_bytes_and_rows(
    service: FakeBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(service, tmp_path, batch_mb=0.06) as (batches, judge):
        batches.fill(asked_by(judge))
    assert len(service.batches) > 1
    assert max(service.sizes) <= 60_000
    assert service.asked_in_batches == 11
    monkeypatch.setattr(batch_part, "MOST_ROWS", 4)
    with opened(service, tmp_path / "rows") as (batches, judge):
        batches.fill(asked_by(judge))
    assert [len(rows) for rows in service.rows_of_files[-3:]] == [4, 4, 3]
    with (
        opened(service, tmp_path / "tiny", batch_mb=0.001) as (batches, judge),
        pytest.raises(LabelError, match="batch_mb"),
    ):
        batches.fill(asked_by(judge))


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("moment", ["upload", "start", "look", "replies", "keep"])
def test_a_killed_run_goes_on(
    service: FakeBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def killed(*args: object, **more: object) -> None:
        raise _KilledError

    with monkeypatch.context() as patch:
        owner = Replies if moment == "keep" else BatchService
        with pytest.raises(_KilledError), opened(service, tmp_path) as (batches, judge):
            batches.fill(asked_by(judge)[:1])  # the single first question
            patch.setattr(owner, moment, killed)
            batches.fill(asked_by(judge))
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
        assert {judge.judge(pair).outcome for pair in PAIRS} == {"ok"}
    uploads = [row["custom_id"] for rows in service.rows_of_files for row in rows]
    assert len(uploads) == len(set(uploads)) == len(service.rows_of_files[0])
    assert len(service.batches) == 1


def test_a_batch_whose_start_nobody_heard_of_is_found(service: FakeBatches, tmp_path: Path) -> None:
    service.trouble["POST batches"] = ["lost", "500"]
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
    assert len(service.batches) == 1
    assert batches.summary.answered == 11


def test_without_looking_it_would_be_paid_for_twice(
    service: FakeBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchService, "find", lambda *_: None)
    service.trouble["POST batches"] = ["lost"]
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
    assert len(service.batches) == 2


def test_troubles_that_pass_are_survived(service: FakeBatches, tmp_path: Path) -> None:
    service.trouble = {
        "POST files": ["500"],
        "GET batches": ["500", "500"],
        "GET files": ["500"],
        "DELETE files": ["404"],
    }
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
    assert (len(service.batches), batches.summary.answered) == (1, 11)


def test_rows_that_failed_are_sent_again(service: FakeBatches, tmp_path: Path) -> None:
    service.script = ["holes"]
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
        assert (batches.summary.answered, batches.summary.unanswered) == (7, 4)
        said = [judge.judge(pair) for pair in PAIRS]
        assert {item.outcome for item in said} == {"ok", "failed"}
        assert all(item.answer is None for item in said if item.outcome == "failed")
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
        assert {judge.judge(pair).outcome for pair in PAIRS} == {"ok"}
    assert len(service.rows_of_files[-1]) == 3  # one of the four was the single first question


@pytest.mark.parametrize(("end", "answered"), [("expired", 5), ("failed", 0), ("cancelled", 11)])
def test_batches_that_end_early(service: FakeBatches, tmp_path: Path, end: str, answered: int) -> None:
    service.script = [end]
    with opened(service, tmp_path) as (batches, judge):
        with pytest.raises(ServiceError, match=f"batch-1 {end}.*{11 - answered} questions without"):
            batches.fill(asked_by(judge))
        assert batches.summary.answered == answered
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
        assert {judge.judge(pair).outcome for pair in PAIRS} == {"ok"}


def test_the_budget_holds(service: FakeBatches, tmp_path: Path) -> None:
    prices: dict[str, Any] = {"price_input": 100.0, "price_output": 100.0, "max_output_tokens": 16}
    runs, spent = 0, [0.0]
    with opened(service, tmp_path, budget=4.5, **prices) as (batches, judge):
        with pytest.raises(BudgetError, match=r"judge\.budget"):
            batches.fill(asked_by(judge))
        assert 0 < batches.summary.answered < 11
    with Replies(tmp_path / "replies.db") as replies:
        spent.append(replies.spent())
        charged = (service.asked_alone + batches.summary.answered) * 1020 * 100 / 1e6
        assert replies.spent() == pytest.approx(charged)
        assert charged <= 4.5
    while runs < 30:
        runs += 1
        with opened(service, tmp_path, budget=4.5, **prices) as (batches, judge):
            try:
                batches.fill(asked_by(judge))
                break
            except BudgetError:
                continue
    # as what is booked is less than what is set aside, repeating goes further
    assert runs < 30 and service.asked_alone + service.asked_in_batches == 12


def test_services_without_batches_are_named(service: FakeBatches, tmp_path: Path) -> None:
    service.trouble["POST files"] = ["404"]
    with opened(service, tmp_path) as (batches, judge), pytest.raises(ConfigError, match=r"judge\.batch: .*status 404"):
        batches.fill(asked_by(judge))


def test_the_first_question_learns_how_a_service_is_asked(service: FakeBatches, tmp_path: Path) -> None:
    service.new_limit_name = True
    with opened(service, tmp_path) as (batches, judge):
        batches.fill(asked_by(judge))
    assert batches.summary.answered == 11
    assert all("max_completion_tokens" in row["body"] for row in service.rows_of_files[0])


def test_a_service_that_is_down_gets_no_batch(service: FakeBatches, tmp_path: Path) -> None:
    service.trouble["POST chat"] = ["500", "500"]
    with opened(service, tmp_path) as (batches, judge), pytest.raises(ServiceError, match="first question failed"):
        batches.fill(asked_by(judge))
    assert service.rows_of_files == []


def test_damaged_state_is_named(service: FakeBatches, tmp_path: Path) -> None:
    with opened(service, tmp_path) as (batches, judge):
        folder = batches._parts._folder
        folder.mkdir(parents=True)
        (folder / "1.json").write_text(json.dumps({"name": "1"}))
        with pytest.raises(LabelError, match=r"1\.json"):
            batches.fill(asked_by(judge))


def test_the_verb_judges_through_batches(
    service: FakeBatches, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from densedpo import cli

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(batch, "_FIRST_WAIT_S", 0.01)
    project = make_project(tmp_path, 2)
    line = f"densedpo label judge --judge vlm --base-url {service.url} --model m --batch --allow-untrusted --json"

    def judged() -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [*line.split(), "--project", str(project.root)])
        with pytest.raises(SystemExit):
            cli.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    first = judged()
    assert first["stopped"] == "" and first["judged"] == 2 * SEGMENTS
    assert first["batch"]["sent"] == first["batch"]["answered"] == service.asked_in_batches == 2 * 2 * SEGMENTS - 1
    assert first["answers"]["a"] + first["answers"]["b"] > 0 and first["outcomes"]["failed"] == 0
    again = judged()
    assert (again["judged"], again["skipped"], again["batch"]["sent"]) == (0, 2 * SEGMENTS, 0)
