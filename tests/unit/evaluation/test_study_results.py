"""What people prefer, against tables made by hand; who measured badly is left out; exports hold every answer."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.study_room import MODELS, NAME, make_evaluation, open_room

from densedpo.config_study import StudySettings
from densedpo.errors import ProjectError
from densedpo.evaluation.study.export import SCHEMA, Form, export_study
from densedpo.evaluation.study.plan import Item, Plan, Take, plan_items, write_plan
from densedpo.evaluation.study.questions import QUESTIONS
from densedpo.evaluation.study.rates import net_win
from densedpo.evaluation.study.results import lines, results_of, study_results
from densedpo.evaluation.study.votes import Answers, answers_of
from densedpo.keys import stream
from densedpo.labels.answers import Answer, AnswerEvent, Side, Task
from densedpo.labels.store import LabelStore, StoredEvent
from densedpo.store.project import Project

PROMPTS = {f"p{number:03d}": f"text {number}" for number in range(20)}
CODES = [question.code for question in QUESTIONS]


def plan_of(models: Sequence[str] = ("base", "dense"), prompts: int = 20, **chosen: int) -> Plan:
    names = dict(list(PROMPTS.items())[:prompts])
    samples = {
        (model, prompt, seed): Take(model, seed, f"{model}/{prompt}-{seed}.mp4", f"{model}{prompt}{seed}")
        for model, prompt, seed in product(models, names, range(2))
    }
    settings = StudySettings(**{"same_model_every": 0, "control_every": 0, **chosen})
    items = plan_items(samples, names, models, QUESTIONS, settings)
    return Plan(NAME, tuple(models), QUESTIONS, {item.item_id: item for item in items}, {})


def said(
    item: Item,
    answers: Sequence[Answer | None],
    person: str = "ann",
    task: Task = "work",
    dwell_s: float = 2.0,
    first: Side | None = None,
) -> list[AnswerEvent]:
    """Return one person's answers to an item; by default the sides are shown in an order drawn by item and person."""
    shown: Side = first or ("a" if stream("test", "side", item.item_id, person).integers(2) else "b")
    return [
        AnswerEvent(
            item.item_id, place, answer, "ok", "person", person, 4.0, 0.0, 4.0,
            task=task, dwell_s=dwell_s, shown_first=shown,
        )
        for place, answer in enumerate(answers)
        if answer is not None
    ]  # fmt: skip


def gather(plan: Plan, events: Sequence[AnswerEvent]) -> Answers:
    return answers_of(plan, [StoredEvent(place + 1, 0, 1000.0 + place, event) for place, event in enumerate(events)])


def question(found: dict[str, Any], code: str, pairing: int = 0) -> dict[str, Any]:
    row: dict[str, Any] = next(row for row in found["pairings"][pairing]["questions"] if row["question"] == code)
    return row


def test_counts_shares_and_net_win_of_a_table_made_by_hand() -> None:
    plan = plan_of()
    events = []
    for place, item in enumerate(plan.items.values()):
        quality: Answer = "b" if place < 12 else "tie" if place < 17 else "a"
        events += said(item, ["tie", quality, "cannot_judge" if place == 0 else "b", None])
    found = results_of(gather(plan, events))
    assert (found["models"], found["people"], found["prompts"], found["answers"]) == (["base", "dense"], 1, 20, 60)
    assert (found["pairings"][0]["a"], found["pairings"][0]["b"]) == ("dense", "base")
    row = question(found, "visual_quality")
    assert [row[name] for name in ("win", "tie", "lose", "cannot_judge")] == [12, 5, 3, 0]
    assert [row["shares"][name]["mean"] for name in ("win", "tie", "lose")] == pytest.approx([0.6, 0.25, 0.15])
    assert row["net_win"]["mean"] == pytest.approx(0.45)
    assert row["net_win"]["count"] == 20
    assert 0 < row["net_win"]["low"] < 0.45 < row["net_win"]["high"] < 1
    assert row["half_width"] == pytest.approx((row["net_win"]["high"] - row["net_win"]["low"]) / 2)
    assert row["by_prompt"] == {"wins": 12, "ties": 5, "losses": 3}
    assert row["p"] == pytest.approx(2 * (1 + 15 + 105 + 455) / 2**15)  # P(X <= 3) of 15 fair coins
    assert row["p_holm"] >= row["p"]
    assert row["preferred"] == "dense"
    assert question(found, "text_alignment")["preferred"] is None
    held = question(found, "temporal_consistency")
    assert (held["win"], held["cannot_judge"], held["prompts"]) == (19, 1, 19)
    assert question(found, "dynamic_degree")["net_win"] is None
    assert any("dense against base" in line for line in lines(found))


def test_the_order_of_models_mirrors_the_table() -> None:
    rng = stream("test", "mirror")
    tables = []
    answers: list[Answer] = ["a", "b", "tie"]
    given = {prompt: answers[rng.choice(3, p=[0.2, 0.5, 0.3])] for prompt in PROMPTS}
    for models in (("base", "dense"), ("dense", "base")):
        plan = plan_of(models)
        events = [event for item in plan.items.values() for event in said(item, [given[item.prompt_id]])]
        tables.append(question(results_of(gather(plan, events), keep_flagged=True), "text_alignment"))
    one, other = tables
    assert (one["win"], one["tie"], one["lose"]) == (other["lose"], other["tie"], other["win"])
    assert one["net_win"]["low"] == pytest.approx(-other["net_win"]["high"], abs=0.02)
    assert one["p"] == other["p"]
    assert one["preferred"] == other["preferred"]


def test_unanimous_answers_are_not_certain() -> None:
    prompts = [f"p{number}" for number in range(10)]
    wins, ties, losses = (net_win([value] * 10, prompts) for value in (1, 0, -1))
    assert wins and ties and losses
    assert (wins.mean, wins.high) == (1, 1)
    assert 0.3 < wins.low < 0.6
    assert (losses.low, losses.high) == (-1, -wins.low)
    assert ties.low == -ties.high == pytest.approx((wins.low + 1) / 2 - 1)
    assert net_win([1, -1], ["one", "one"]) is None


def test_people_of_one_prompt_are_no_independent_witnesses() -> None:
    rng = stream("test", "people of a prompt")
    values = np.repeat(rng.choice([-1, 1], 20, p=[0.4, 0.6]), 8).tolist()
    prompts = np.repeat([f"p{number}" for number in range(20)], 8).tolist()
    clustered, naive = net_win(values, prompts), net_win(values, [str(place) for place in range(160)])
    assert clustered and naive
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


@pytest.mark.parametrize("prompts", [10, 40])
def test_equal_models_are_told_apart_no_oftener_than_said(prompts: int) -> None:
    rng, covered = stream("test", "equal models", prompts), 0
    names = np.repeat([f"p{number}" for number in range(prompts)], 3).tolist()
    for _ in range(500):
        # some prompts suit one model, so that people of a prompt agree
        chances = 0.35 + rng.uniform(-0.3, 0.3, (prompts, 1))
        draws = rng.uniform(size=(prompts, 3))
        values = np.where(draws < chances, 1, np.where(draws < 0.7, -1, 0))
        found = net_win(values.ravel().tolist(), names)
        assert found
        covered += found.low <= 0 <= found.high
    assert covered >= 0.93 * 500


def test_agreement_stands_beside_every_rate() -> None:
    plan = plan_of()
    events = []
    for place, item in enumerate(plan.items.values()):
        one: Answer = "a" if place % 2 else "b"
        other: Answer = one if place < 15 else "tie"
        events += said(item, [one]) + said(item, [other], "bob")
    row = question(results_of(gather(plan, events)), "text_alignment")
    assert row["people"] == 2
    assert row["agreement"]["raw"]["value"] == pytest.approx(0.75)
    assert 0.4 < row["agreement"]["alpha_nominal"]["value"] < row["agreement"]["alpha_ordinal"]["value"] < 1
    alone = question(results_of(gather(plan, said(next(iter(plan.items.values())), ["a"]))), "text_alignment")
    assert alone["agreement"]["raw"]["value"] is None
    assert "fewer than two people" in alone["agreement"]["raw"]["undefined"]


def test_measuring_answers_are_no_votes_and_careless_people_are_left_out() -> None:
    plan = plan_of(control_every=2)
    controls, work = plan.of("same_video"), plan.of("models")
    events = []
    for item in controls:
        events += said(item, ["tie"] * 4, "good", "gold") + said(item, ["a", "b", "a", "b"], "careless", "gold")
    for item in work:
        events += said(item, ["b"] * 4, "good") + said(item, ["a"] * 4, "careless")
        events += said(item, ["b"] * 4, "good", "repeat")
        events += said(item, ["b"] * 4, "hasty", dwell_s=0.1)
        events += said(item, ["a"] * 4, "onesided", first="a")
    found = results_of(gather(plan, events))
    flags = {rater["person"]: rater["flags"] for rater in found["raters"]}
    assert flags["good"] == []
    assert "controls" in flags["careless"]
    assert "too fast" in flags["hasty"]
    assert "one-sided" in flags["onesided"]
    assert set(found["left_out"]) == {"careless", "hasty", "onesided"}
    row = question(found, "visual_quality")
    assert (row["win"], row["lose"], row["people"]) == (20, 0, 1)
    kept = question(results_of(gather(plan, events), keep_flagged=True), "visual_quality")
    assert (kept["win"], kept["lose"], kept["people"]) == (40, 40, 4)
    assert found["controls"]["same_video"]["answers"] == 2 * 4 * len(controls)
    assert found["controls"]["same_video"]["ties"]["value"] == 0.5
    good = next(rater for rater in found["raters"] if rater["person"] == "good")
    assert good["self_consistency"]["value"] == 1
    assert good["item_s"]["value"] == 8.0
    assert good["with_others"]["value"] == pytest.approx(1 / 3)


def test_who_finds_models_alike_is_not_left_out() -> None:
    plan = plan_of()
    events = [event for item in plan.items.values() for event in said(item, ["tie"] * 4)]
    found = results_of(gather(plan, events))
    assert (found["raters"][0]["tie_rate"]["value"], found["raters"][0]["flags"]) == (1, [])
    assert question(found, "visual_quality")["tie"] == 20


def test_four_quick_answers_after_watching_are_not_fast() -> None:
    plan = plan_of()
    events = []
    for item in plan.items.values():
        one, *rest = said(item, ["tie", "a", "b", "a"], dwell_s=0.2)
        events += [AnswerEvent(**{**vars(one), "dwell_s": 5.0}), *rest]
    assert results_of(gather(plan, events))["raters"][0]["flags"] == []


def test_a_model_against_itself_is_reported_apart() -> None:
    plan = plan_of(same_model_every=2)
    events = [event for item in plan.of("same_model") for event in said(item, ["a"] * 4)]
    found = results_of(gather(plan, events), keep_flagged=True)
    assert found["answers"] == 0
    assert found["controls"]["same_model"]["net_win"]["low"] > 0
    assert "does not" in found["controls"]["same_model"]["sentence"]
    events = [e for n, item in enumerate(plan.of("same_model")) for e in said(item, ["a" if n % 2 else "b"] * 4)]
    assert "as it should be" in results_of(gather(plan, events))["controls"]["same_model"]["sentence"]


def test_three_models_are_ranked() -> None:
    plan = plan_of(("base", "dense", "vanilla"))
    rank, events = {"base": 0, "vanilla": 1, "dense": 2}, []
    for place, item in enumerate(plan.items.values()):
        better: Answer = "a" if rank[item.a.model] > rank[item.b.model] else "b"
        surprising: Answer = "b" if better == "a" else "a"
        events += said(item, [surprising if place % 7 == 0 else better] * 4)
    found = results_of(gather(plan, events), keep_flagged=True)
    assert [(pairing["a"], pairing["b"]) for pairing in found["pairings"]] == [
        ("dense", "base"),
        ("vanilla", "base"),
        ("vanilla", "dense"),
    ]
    ranked = found["bradley_terry"]["visual_quality"]
    assert ranked["order"] == ["dense", "vanilla", "base"]
    assert "dense > vanilla > base." in ranked["sentence"]
    assert ranked["strengths"]["base"]["mean"] == 0
    assert ranked["strengths"]["dense"]["low"] > 0
    lost = next(row for row in found["pairings"][2]["questions"] if row["question"] == "visual_quality")
    assert lost["preferred"] == "dense"
    some = [event for event in events if set(plan.items[event.pair_id].pairing) == {"base", "dense"}]
    assert results_of(gather(plan, some), keep_flagged=True)["bradley_terry"]["visual_quality"]["connected"] is False
    assert results_of(gather(plan_of(), []))["bradley_terry"] is None
    alike = [event for item in plan.items.values() for event in said(item, ["tie"] * 4)]
    told = results_of(gather(plan, alike))["bradley_terry"]["visual_quality"]["sentence"]
    assert told.count(" ≈ ") == 2
    assert ">" not in told


def test_answers_about_other_videos_count_for_nothing() -> None:
    plan = plan_of()
    gone, *kept = plan.items.values()
    later = Plan(NAME, plan.models, QUESTIONS, {item.item_id: item for item in kept}, {gone.item_id: gone})
    found = results_of(gather(later, [*said(gone, ["a"] * 4), *said(kept[0], ["b"] * 4)]))
    assert (found["answers"], found["answers_about_other_videos"]) == (4, 4)


@pytest.fixture
def answered(tmp_path: Path) -> Project:
    """A project whose study has two people's answers."""
    project = make_evaluation(tmp_path / "project", prompts=4)
    plan = plan_of(MODELS, 4)
    write_plan(project.evaluation(NAME), plan)
    with LabelStore.open(project.evaluation(NAME) / "study.db") as store:
        for item in plan.items.values():
            store.append(said(item, ["a", "b", "tie", "cannot_judge"]) + said(item, ["b", "b", "b", "b"], "=bob"))
    return project


def test_results_are_written_and_the_same_again(answered: Project) -> None:
    found = study_results(answered, NAME)
    file = answered.evaluation(NAME) / "study.json"
    assert json.loads(file.read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    before = file.read_bytes()
    study_results(answered, NAME)
    assert file.read_bytes() == before
    assert found["schema_version"] == 1


def test_exports_hold_every_answer_with_the_models_names(answered: Project, tmp_path: Path) -> None:
    forms: tuple[Form, ...] = ("csv", "jsonl", "parquet")
    for form in forms:
        assert export_study(answered, NAME, tmp_path / f"out.{form}", form) == 32
    text = (tmp_path / "out.csv").read_text(encoding="utf-8")
    from_csv = list(csv.DictReader(text.splitlines()))
    from_lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    from_table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert from_lines == from_table
    assert [row["preferred"] for row in from_csv] == [row["preferred"] for row in from_lines]
    assert list(from_lines[0]) == SCHEMA.names
    first = [row for row in from_lines if row["item_id"] == from_lines[0]["item_id"] and row["person"] == "ann"]
    assert [row["preferred"] for row in first] == [*MODELS, "tie", "cannot_judge"]
    assert [row["question"] for row in first] == CODES


def test_a_study_that_was_not_begun(tmp_path: Path) -> None:
    project = make_evaluation(tmp_path, prompts=1, seeds=1)
    with pytest.raises(ProjectError, match="densedpo study serve --evaluation held-out"):
        study_results(project, NAME)


def test_an_open_study_without_answers_has_results(tmp_path: Path) -> None:
    project = make_evaluation(tmp_path, prompts=1)
    office, _ = open_room(project)
    office.close()
    found = study_results(project, NAME)
    assert (found["answers"], found["power"]) == (0, None)
    assert any("no answers yet" in line for line in lines(found))
