"""Judges against a reference: exact small cases, intervals that hold the truth, calibration error, position bias."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.unit.labels.conftest import Fill, event

from densedpo.errors import LabelError
from densedpo.intervals import cluster_bootstrap
from densedpo.keys import stream
from densedpo.labels.accuracy.calibration_error import calibration, equal_count_bins
from densedpo.labels.accuracy.position import answers_in_order, position
from densedpo.labels.accuracy.reference import majorities, reference
from densedpo.labels.accuracy.table import accuracy_of, judge_report, table_row
from densedpo.labels.accuracy.text import accuracy_lines
from densedpo.labels.agreement import agreement, lines
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent, Question
from densedpo.labels.gold import write_gold
from densedpo.labels.reliability import share


def judged(pair_id: str, segment: int, answer: str | None, **changes: Any) -> AnswerEvent:
    return event(pair_id, segment, answer, **{"source": "judge", "author": "m", **changes})


def against(events: list[AnswerEvent]) -> dict[str, Any]:
    return judge_report("m", [e for e in events if e.source == "judge"], reference(events, {}, "people"))


# People: p1 a a none b (a as a whole), p2 b none (b), p3 a; the judge says other things of some.
PEOPLE = [
    *(event("p1", number, answer) for number, answer in enumerate(("a", "a", "both_bad", "b"))),
    event("p2", 0, "b"),
    event("p2", 1, "tie"),
    event("p2", 2, "cannot_judge"),
    event("p3", 0, "a"),
]
MACHINE = [
    *(judged("p1", number, answer) for number, answer in enumerate(("a", "b", "tie", "tie"))),
    judged("p2", 0, "b"),
    judged("p2", 1, "a"),
    judged("p2", 2, "a"),
    judged("p3", 0, None, outcome="refused"),
]


def values(row: dict[str, Any]) -> dict[str, Any]:
    return {column: (found["value"], found["n"]) for column, found in row.items()}


def test_a_table_made_by_hand() -> None:
    found = against([*PEOPLE, *MACHINE])
    # both prefer: p1 0 (right), p1 1 (wrong), p2 0 (right); p1 3 is a judge's tie, p3 a refusal
    assert values(found["table"]["segments"]) == {
        "ties_skipped": (pytest.approx(2 / 3), 3),
        "non_tie": (pytest.approx(2 / 5), 5),
        "with_ties": (pytest.approx(3 / 6), 6),
    }
    # people: p1 a, p2 b, p3 a; the judge: p1 none, p2 a (segment 2 counts for it, though no person could judge that)
    assert values(found["table"]["clips_by_majority"]) == {
        "ties_skipped": (0.0, 1),
        "non_tie": (0.0, 3),
        "with_ties": (0.0, 2),
    }
    assert found["table"]["clips_asked"]["with_ties"]["undefined"] == "because there are no questions in common"
    assert found["confusion"]["segments"] == {
        "a": {"a": 1, "none": 0, "b": 1, "unanswered": 1},
        "none": {"a": 1, "none": 1, "b": 0, "unanswered": 0},
        "b": {"a": 0, "none": 1, "b": 1, "unanswered": 0},
    }
    assert found["unanswered"]["refused"]["value"] == pytest.approx(1 / 7)
    assert found["unanswered"]["cannot_judge"]["value"] == 0
    assert found["compared"] == 7


def test_whole_videos_asked_are_apart_from_majorities() -> None:
    people = [event("p1", 0, "a"), event("p1", WHOLE_CLIP, "b", end_s=4.0), event("p2", 0, "b"), event("p2", 1, "b")]
    machine = [
        judged("p1", 0, "a"),
        judged("p1", WHOLE_CLIP, "b", end_s=4.0),
        judged("p2", 0, "b"),
        judged("p2", WHOLE_CLIP, "a", end_s=4.0),
    ]
    found = against([*people, *machine])
    assert values(found["table"]["clips_by_majority"])["with_ties"] == (0.5, 2)  # p1 as a whole was answered b
    assert values(found["table"]["clips_asked"])["with_ties"] == (0.5, 2)
    assert found["confusion"]["clips_asked"]["b"] == {"a": 1, "none": 0, "b": 1, "unanswered": 0}
    assert values(found["table"]["segments"])["with_ties"] == (1.0, 2)


def test_majority_is_the_sign_of_the_sum() -> None:
    given = {("p", 0): 1, ("p", 1): 1, ("p", 2): -1, ("q", 0): -1, ("q", 1): 1, ("r", 0): 0, ("r", 1): -1}
    assert majorities(given) == {("p", WHOLE_CLIP): 1, ("q", WHOLE_CLIP): 0, ("r", WHOLE_CLIP): -1}


def test_references_are_people_gold_simulated_or_an_author(fill: Fill) -> None:
    project = fill([event("p1", 0, "a"), judged("p1", 0, "a"), judged("p1", 0, "b", author="n")])
    assert agreement(project, 1.0, "people")["accuracy"]["judges"][0]["table"]["segments"]["with_ties"]["value"] == 1
    named = agreement(project, 1.0, "n")["accuracy"]
    assert [judge["judge"] for judge in named["judges"]] == ["m"]
    assert named["judges"][0]["table"]["segments"]["with_ties"]["value"] == 0
    write_gold(project, [event("p1", 0, "b")])
    assert agreement(project, 1.0, "gold")["accuracy"]["judges"][1]["table"]["segments"]["with_ties"]["value"] == 1
    with pytest.raises(LabelError, match=r"no answers of 'simulated'; there are 1 of ann \(person\), 1 of m \(judge\)"):
        agreement(project, 1.0, "simulated")
    assert "accuracy" not in agreement(project, 1.0)


def test_a_reviewer_overrules_and_withdrawn_answers_are_gone() -> None:
    people = [event("p1", 0, "a"), event("p1", 0, "b", author="bea", task="review")]
    assert reference(people, {}, "people").segments == {("p1", 0): -1}
    found = accuracy_of([*people, judged("p1", 0, None, outcome="withdrawn")], reference(people, {}, "people"))
    assert found["judges"] == []


def simulated(
    accuracy: float, tie_share: float, pairs: int, seed: int
) -> tuple[dict[Question, int], dict[Question, int]]:
    """Return what a judge says that is right with this probability, and the truth; a pair's segments share luck."""
    rng = stream("test accuracy", "judge", seed)
    said, truth = {}, {}
    for number in range(pairs):
        luck = accuracy + (0.2 if rng.uniform() < 0.5 else -0.2)
        for segment in range(4):
            label = 0 if rng.uniform() < tie_share else int(rng.choice([-1, 1]))
            truth[f"p{number}", segment] = label
            side = label or int(rng.choice([-1, 1]))
            said[f"p{number}", segment] = side if rng.uniform() < luck else -side
    return said, truth


def test_intervals_hold_the_true_accuracy_about_as_often_as_they_say() -> None:
    held = 0
    for seed in range(60):
        said, truth = simulated(0.7, 0.2, 60, seed)
        found = table_row(said, truth, said.keys())["ties_skipped"]
        held += found["low"] <= 0.7 <= found["high"]
    assert 51 <= held <= 60  # of 95 % intervals


def test_a_wrong_accuracy_is_outside_the_interval() -> None:
    said, truth = simulated(0.7, 0.0, 400, 1)
    mirrored = {question: -label for question, label in said.items()}
    assert table_row(mirrored, truth, said.keys())["ties_skipped"]["high"] < 0.4


def test_thousands_of_pairs_take_the_normal_interval_which_is_the_bootstraps() -> None:
    rng = stream("test accuracy", "many")
    pairs = [f"p{number // 3}" for number in range(18_000)]
    hits = (rng.uniform(size=18_000) < np.repeat(rng.uniform(0.4, 1, size=6000), 3)).tolist()
    found, drawn = share(hits, pairs, "answers"), cluster_bootstrap([float(hit) for hit in hits], pairs, draws=500)
    assert drawn is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(drawn.mean)
    assert found.high - found.low == pytest.approx(drawn.high - drawn.low, rel=0.1)
    naive = 2 * 1.96 * np.sqrt(0.7 * 0.3 / 18_000)
    assert found.high - found.low > 1.03 * naive  # segments of a pair are no independent witnesses
    assert share([True] * 18_000, pairs, "answers").low < 1  # type: ignore[operator]


def test_equal_count_bins_never_split_a_value() -> None:
    rng = stream("test accuracy", "bins")
    bins = equal_count_bins(rng.uniform(size=1000), 10)
    assert np.bincount(bins).tolist() == [100] * 10
    discrete = rng.choice([0.5, 0.8, 0.9], size=300)
    for value in (0.5, 0.8, 0.9):
        assert len(set(equal_count_bins(discrete, 10)[discrete == value].tolist())) == 1
    assert equal_count_bins(np.array([]), 10).size == 0
    assert equal_count_bins(np.array([0.7]), 10).tolist() == [0]


def test_calibration_error_is_nought_where_shares_are_as_stated_and_what_was_planted_else() -> None:
    stated = [0.75] * 40 + [0.5] * 40
    right = [True, True, True, False] * 10 + [True, False] * 20
    pairs = [f"p{number // 4}" for number in range(80)]
    found = calibration(stated, right, pairs)
    assert found["ece"]["value"] == pytest.approx(0, abs=1e-12)
    assert [(row["stated"], row["right"]["value"], row["right"]["n"]) for row in found["reliability"]] == [
        (0.5, 0.5, 40),
        (0.75, 0.75, 40),
    ]
    boastful = calibration([0.95] * 40 + [0.7] * 40, right, pairs)
    assert boastful["ece"]["value"] == pytest.approx(0.2)
    empty = calibration([], [], [])
    assert empty["ece"]["undefined"] == "because there are no answers with a confidence"
    assert empty["ece_by_chance"] is None and empty["reliability"] == []


def test_calibration_error_of_judges_that_scatter() -> None:
    rng = stream("test accuracy", "ece")
    stated = rng.uniform(0.5, 1, size=2000)
    pairs = [f"p{number // 4}" for number in range(2000)]
    fair = calibration(stated.tolist(), (rng.uniform(size=2000) < stated).tolist(), pairs)
    assert fair["ece"]["value"] < 1.7 * fair["ece_by_chance"] < 0.06
    rng = stream("test accuracy", "ece again")
    sure = calibration(stated.tolist(), (rng.uniform(size=2000) < stated - 0.2).tolist(), pairs)
    assert sure["ece"]["low"] < 0.2 < sure["ece"]["high"]
    assert sure["ece"]["low"] > 3 * sure["ece_by_chance"]


def asked(pair_id: str, segment: int, first: str, second: str) -> AnswerEvent:
    """Return a judge's event that was asked with a first and with b first."""
    raw = json.dumps({"asked": [{"first": "a", "answer": first}, {"first": "b", "answer": second}]})
    return judged(pair_id, segment, first if first == second else "tie", raw=raw)


def test_position_bias_by_hand() -> None:
    events = [asked("p1", 0, "a", "a"), asked("p1", 1, "a", "b"), asked("p2", 0, "b", "a"), asked("p2", 1, "a", "tie")]
    found = position(events, {("p1", 0): 1, ("p1", 1): 1, ("p2", 0): -1, ("p2", 1): 0})
    # preferences in order: a/first, a/second, a/first, b/first, b/second, a/second, a/first
    assert found["first_rate"]["value"] == pytest.approx(4 / 7)
    assert found["same_in_both_orders"]["value"] == 1 / 4
    assert found["first_when_torn"]["value"] == 1 / 2
    assert found["one_order"]["value"] == pytest.approx(4 / 6)


def test_a_judge_that_always_takes_the_first_is_seen_in_one_order_and_in_both() -> None:
    torn = position([asked(f"p{n}", 0, "a", "b") for n in range(30)], {})
    assert torn["first_rate"]["value"] == 1 and torn["first_rate"]["low"] > 0.85
    assert torn["first_when_torn"]["value"] == 1 and torn["same_in_both_orders"]["value"] == 0
    once = [judged(f"p{n}", 0, "ab"[n % 2], shown_first="ab"[n % 2]) for n in range(30)]
    assert position(once, {})["first_rate"]["value"] == 1
    unknown = position([judged("p1", 0, "a")], {})
    assert unknown["first_rate"]["undefined"] == "because there are no preferences with a known order of sides"
    assert answers_in_order(judged("p1", 0, "a", raw="no JSON {")) == []
    assert answers_in_order(judged("p1", 0, "a", raw="[1]")) == []


def test_the_report_reads_as_a_table(fill: Fill) -> None:
    project = fill([*PEOPLE, *MACHINE])
    found = agreement(project, 1.0, "people")
    json.dumps(found, allow_nan=False)
    told = accuracy_lines(found["accuracy"])
    assert told == lines(found)[-len(told) :]
    assert told[0] == "judges against people: 7 segments (5 preferences), 3 whole videos (0 asked)"
    assert told[2].startswith("m  segments             0.667 (")
    assert any(line.startswith("m: refused: 0.143 (") for line in told)
    nobody = agreement(fill([]), 1.0, "m")["accuracy"]
    assert accuracy_lines(nobody)[-1] == "no judge has answered yet; run `densedpo label judge`"
