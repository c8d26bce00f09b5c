"""Where people are worth their time: what is doubted, in which order, and how many answers reach an accuracy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.labels.conftest import PAIR_COLUMNS, Fill, event, pair_row

from densedpo.config import LabelSettings, parse_settings
from densedpo.errors import ConfigError, LabelError
from densedpo.keys import stream
from densedpo.labels.accuracy.calibration import Calibration, Curve, load_calibration
from densedpo.labels.accuracy.fit import calibrate_judge
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.order import work_order
from densedpo.labels.planning.curve import Known, Outlook, needed, points
from densedpo.labels.planning.doubt import Belief, beliefs
from densedpo.labels.planning.order import orders
from densedpo.labels.planning.plan import plan
from densedpo.labels.planning.text import plan_lines
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project
from densedpo.store.tables import read_table, write_table

SETTINGS = LabelSettings()


def judged(pair_id: str, segment: int, answer: str | None, confidence: float | None, **changes: Any) -> AnswerEvent:
    known = {"source": "judge", "author": "m", "confidence": confidence, "settings_digest": "d"}
    return event(pair_id, segment, answer, **{**known, **changes})


def told(item: Belief) -> tuple[int | None, float, str]:
    return item.label, round(item.belief, 9), item.why


def test_belief_is_what_is_stated_and_less_where_judges_disagree() -> None:
    torn = json.dumps({"asked": [{"first": "a", "answer": "a"}, {"first": "b", "answer": "b"}]})
    events = [
        judged("p1", 0, "a", 0.9),
        judged("p1", 1, "a", 0.9),
        judged("p1", 1, "b", 0.6, author="n"),
        judged("p1", 2, "a", 0.6),
        judged("p1", 2, "a", 0.6, author="n"),
        judged("p1", 3, None, None, outcome="refused"),
        judged("p2", 0, "cannot_judge", 0.9),
        judged("p2", 1, "tie", 0.0, raw=torn),
        judged("p2", 2, "a", None, trusted=False),
        judged("p2", 3, "b", 0.7, author="n"),  # the judge itself was not asked
    ]
    found = beliefs("m", events, {}, "calibrated")
    assert told(found["p1", 0]) == (1, 0.9, "uncertain")
    # 0.9 for a against 0.6 for b: a 0.9 x 0.2, b 0.05 x 0.6, none 0.05 x 0.2
    assert told(found["p1", 1]) == (1, round(0.18 / 0.22, 9), "judges disagree")
    assert found["p1", 2].belief == pytest.approx(0.36 / (0.36 + 2 * 0.04))
    assert told(found["p1", 3]) == (None, 0.0, "refused")
    assert told(found["p2", 0]) == (None, 0.0, "cannot judge")
    assert told(found["p2", 1]) == (0, 0.0, "its orders disagree")
    assert told(found["p2", 2]) == (None, 0.0, "untrusted")
    assert ("p2", 3) not in found


def test_belief_is_of_the_label_as_it_would_be_frozen() -> None:
    right, none = Curve((0.0, 1.0), (0.0, 1.0)), Curve((0.0, 1.0), (0.7, 0.1))
    fitted = Calibration("m", 1.0, "people", ("d",), 0.5, right, Curve((0.0,), (0.8,)), none, right, 9, 9, {})
    events = [judged("p1", 0, "a", 0.9), judged("p1", 1, "b", 0.25), judged("p1", 2, "tie", 0.3)]
    found = beliefs("m", events, {"m": fitted}, "calibrated")
    assert told(found["p1", 0]) == (1, 0.9, "uncertain")
    assert told(found["p1", 1]) == (0, 0.55, "its preference is weak")
    assert told(found["p1", 2]) == (0, 0.8, "uncertain")
    kept = beliefs("m", events, {"m": fitted}, "weights")["p1", 1]
    assert told(kept) == (-1, 0.25, "uncertain")


def test_the_curve_is_what_one_would_count() -> None:
    curve = Curve((0.0, 1.0), (0.0, 1.0))
    outlook = Outlook(np.array([0.9, 0.5, -1.0, 0.7]), 6, 0.8, [curve])
    assert outlook.steps.tolist() == [0, 1, 2, 3, 4]
    found = outlook.accuracies(np.array([2, 1, 3, 0]))
    assert found[0].tolist() == pytest.approx(
        [(6 * 0.8 + right) / 10 for right in (2.1, 0.8 + 2.1, 1.6 + 1.6, 2.4 + 0.9, 3.2)]
    )
    at_random = outlook.accuracies(None)
    assert at_random[0].tolist() == pytest.approx([(4.8 + n * 0.8 + (4 - n) * 2.1 / 4) / 10 for n in range(5)])
    assert needed(found, outlook.steps, 0.76)["value"] == 1
    assert needed(at_random, outlook.steps, 0.76)["value"] == 3
    assert needed(found, outlook.steps, 0.69)["value"] == 0
    assert needed(found, outlook.steps, 0.9) == {
        "value": None,
        "low": None,
        "high": None,
        "undefined": "because labels would be right in 0.810 at most",
    }
    assert [point["answers"] for point in points(found, outlook.steps)] == [0, 1, 2, 3, 4]
    many = Outlook(stream("test plan", "many").uniform(size=100_000), 0, 1.0, [curve])
    assert len(many.steps) == 2001 and many.accuracies(None).shape == (1, 2001)


def test_an_interval_is_open_where_some_draws_never_reach() -> None:
    draws = np.array([[0.5, 0.9]] + [[0.5, 0.9]] * 50 + [[0.5, 0.7]] * 50)
    assert needed(draws, np.array([0, 10]), 0.8) == {"value": 10, "low": 10, "high": None, "undefined": None}


def test_segments_come_by_belief_and_pairs_stay_together() -> None:
    questions = [("p1", 0), ("p1", 1), ("p2", 0), ("p2", 1), ("p3", 0)]
    by_segment, by_pair = orders(questions, np.array([0.9, 0.1, 0.4, 0.3, 0.95]))
    assert by_segment.tolist() == [1, 3, 2, 0, 4]
    assert by_pair.tolist() == [2, 3, 0, 1, 4]  # means 0.5, 0.35, 0.95
    alike, _ = orders([(f"p{n}", 0) for n in range(50)], np.zeros(50))
    assert alike.tolist() != sorted(alike.tolist()) and sorted(alike.tolist()) == list(range(50))
    assert [found.tolist() for found in orders([], np.array([]))] == [[], []]


def filled(project: Project, pairs: int, answered: int, *, informative: bool) -> dict[tuple[str, int], tuple[int, int]]:
    """Store a judge's answers to all pairs and people's to some; return (judge's label, truth) by question."""
    write_table(project.pairs_table, [pair_row(f"p{n:04d}") for n in range(pairs)], PAIR_COLUMNS)
    rng = stream("test plan", "answers", pairs, informative)
    names, events, both = {1: "a", -1: "b", 0: "tie"}, [], {}
    for number in range(pairs * 4):
        pair_id, segment = f"p{number // 4:04d}", number % 4
        truth = int(rng.choice([-1, 0, 1], p=[0.4, 0.2, 0.4]))
        confidence = float(rng.uniform(0.4, 1))
        right = rng.uniform() < (confidence - 0.1 if informative else 0.6)
        said = truth if right else int(rng.choice([label for label in names if label != truth]))
        both[pair_id, segment] = (said, truth)
        events.append(judged(pair_id, segment, names[said], confidence))
        if number // 4 < answered:
            events.append(event(pair_id, segment, names[truth]))
    with LabelStore.open(project.label_store) as store:
        store.append(events)
    return both


@pytest.mark.parametrize("informative", [True, False])
def test_the_estimate_is_what_people_really_reach(project: Project, informative: bool) -> None:
    both = filled(project, 250, 100, informative=informative)
    found = plan(project, SETTINGS, None, "people", 0.9)
    json.dumps(found, allow_nan=False)
    assert (found["to_ask"], found["segments"]["answered"], found["known"]) == (600, 400, 400)
    rows = read_table(project.labels / "plan.parquet")
    asked = sorted((row["belief"], row["pair_id"], row["segment"]) for row in rows)
    for place, how in ((3, "by_segment"), (5, "by_segment")):
        point = found["curve"][how][place]
        answered = {(pair_id, segment) for _, pair_id, segment in asked[: point["answers"]]}
        open_ones = {(pair_id, segment) for _, pair_id, segment in asked}
        truly = sum(q in answered or q not in open_ones or said == truth for q, (said, truth) in both.items()) / 1000
        assert point["low"] - 0.02 < truly < point["high"] + 0.02
    by_segment, at_random = (found["needed"][how]["value"] for how in ("by_segment", "at_random"))
    by_pair = found["needed"]["by_pair"]["value"]
    if informative:
        assert by_segment < 0.85 * at_random and by_segment <= by_pair <= at_random
    else:
        assert by_segment > 0.9 * at_random
    assert found["needed"]["by_segment"]["low"] <= by_segment <= found["needed"]["by_segment"]["high"]
    assert any(line.startswith(f"answers needed for 0.9, at random: {at_random} (") for line in plan_lines(found))


def test_a_twin_that_ranks_the_other_way_needs_more_than_chance(project: Project) -> None:
    filled(project, 200, 100, informative=True)
    belief = stream("test plan", "twin").uniform(0.4, 1, size=400)
    known = Known(belief, stream("test plan", "right").uniform(size=400) < belief - 0.1, np.arange(400) // 4)
    outlook = Outlook(belief, 0, 1.0, known.curves("m"))
    order = np.argsort(belief)
    way, twin = (needed(outlook.accuracies(chosen), outlook.steps, 0.9)["value"] for chosen in (order, order[::-1]))
    assert way < needed(outlook.accuracies(None), outlook.steps, 0.9)["value"] < twin


def test_beliefs_are_not_compared_with_the_answers_they_were_fitted_to(project: Project) -> None:
    """A judge whose confidence says nothing, calibrated on few answers: what it seems to know there is chance."""
    both = filled(project, 250, 30, informative=False)
    calibrate_judge(project, "m", "people", 1.0)
    found = plan(project, SETTINGS, None, "people", 0.9)
    points_of = [[point["value"] for point in found["curve"][how]] for how in ("by_segment", "at_random")]
    honest = max(one - other for one, other in zip(*points_of, strict=True))
    fitted = load_calibration(project, "m", 1.0)
    assert fitted is not None
    with LabelStore.open(project.label_store) as store:
        events = [e for e in store.current() if e.source == "judge"]
    naive = beliefs("m", events, {"m": fitted}, "calibrated")
    known = sorted(q for q in both if q[0] < "p0030")
    right = np.array([naive[q].label == both[q][1] for q in known], dtype=bool)
    twin = Known(np.array([naive[q].belief for q in known]), right, np.arange(len(known)) // 4)
    belief = np.array([naive[q].belief for q in sorted(both) if q not in known])
    outlook = Outlook(belief, len(known), 1.0, twin.curves("m")[:1])
    flattered = outlook.accuracies(np.argsort(belief))[0] - outlook.accuracies(None)[0]
    assert float(flattered.max()) > honest + 0.01


def test_what_is_answered_or_alike_is_left_out_and_the_page_follows(project: Project, fill: Fill) -> None:
    differences = {"p1": [0.0] * 8 + [0.5] * 25, "p2": None, "p3": None}
    rows = [{**pair_row(name), "frame_difference": values} for name, values in differences.items()]
    write_table(project.pairs_table, rows, PAIR_COLUMNS.append(pa.field("frame_difference", pa.list_(pa.float64()))))
    fill([judged(pair, segment, "a", sure) for pair, sure in (("p1", 0.9), ("p2", 0.6)) for segment in range(4)])
    fill([event("p2", 0, "a")])
    found = plan(project, SETTINGS, "m", "people", 0.9)
    assert found["segments"] == {"all": 12, "alike": 1, "answered": 1}
    assert found["why"] == {"uncertain": 6, "the judge was not asked": 4}
    assert found["undefined"] == "because only 1 of its labels have an answer of people; 50 are needed"
    assert plan_lines(found)[-1].startswith("accuracy over answers: undefined because only 1")
    listed = read_table(project.labels / "plan.parquet")
    assert [(row["pair_id"], row["pair_rank"]) for row in listed[::4]] == [("p3", 0), ("p2", 1), ("p1", 2)]
    settings = parse_settings({"serve": {"order": "plan"}})
    with LabelStore.open(project.label_store) as store:
        assert work_order(project, ["p0", "p1", "p2", "p3"], store, settings) == ["p3", "p2", "p1", "p0"]


def test_errors_say_what_to_do(project: Project, fill: Fill) -> None:
    settings = parse_settings({"serve": {"order": "plan"}})
    with LabelStore.open(project.label_store) as store, pytest.raises(LabelError, match="run `densedpo label plan`"):
        work_order(project, ["p1"], store, settings)
    with pytest.raises(LabelError, match="no judge has answered"):
        plan(project, SETTINGS, None, "people", 0.9)
    fill([judged("p1", 0, "a", 0.9), judged("p1", 0, "a", 0.9, author="n")])
    with pytest.raises(LabelError, match="several judges have answered: m, n; name one with --judge"):
        plan(project, SETTINGS, None, "people", 0.9)
    with pytest.raises(LabelError, match="judge 'x' has given no answers to go by; there are those of m, n"):
        plan(project, SETTINGS, "x", "people", 0.9)
    with pytest.raises(ConfigError, match="at most 1"):
        plan(project, SETTINGS, "m", "people", 90)
