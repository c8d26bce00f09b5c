"""``densedpo label plan``: where people are worth their time, and how much of it is needed.

Ranks the segments that a judge labels by how little its label can be believed (doubt.py), leaves out what people
answered already and what looks alike, writes ``labels/plan.parquet``, which the labelling page can follow
(``serve.order: plan``), and estimates how accurate labels become on the way (curve.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from densedpo.config import LabelSettings
from densedpo.errors import ConfigError, LabelError
from densedpo.labels.accuracy.calibration import Calibration, load_calibration
from densedpo.labels.accuracy.reference import Reference, judge_among, reference
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.gold import load_gold
from densedpo.labels.planning.curve import Outlook, needed, points
from densedpo.labels.planning.doubt import Belief, beliefs
from densedpo.labels.planning.known import known_labels
from densedpo.labels.planning.order import orders, questions_of, write_plan
from densedpo.labels.quality import Gold
from densedpo.labels.store import current_answers
from densedpo.store.project import Project
from densedpo.store.tables import read_table

LEAST_KNOWN = 50
ASSUMES = (
    "labels are those of the judge as they would be frozen, and of people where they answered; a label of the judge is "
    "right as often as others of its belief were where people answered; people are right as often as they say the same "
    "twice, always if they were never asked twice; segments that look alike are left out"
)
_UNASKED = Belief(None, 0.0, "the judge was not asked")


def plan(project: Project, settings: LabelSettings, judge: str | None, against: str, wanted: float) -> dict[str, Any]:
    """Rank, write ``labels/plan.parquet`` and return the estimates as plain values for JSON.

    Args:
        project: the project.
        settings: segment length, what counts as alike, how a judge's labels are weighed.
        judge: whose labels people's would replace; may be left out where only one judge has answered.
        against: who is right: people, gold, simulated or an author. What they answered is not asked again.
        wanted: the accuracy with ties to be reached, in (0, 1].

    Raises:
        LabelError: if no judge, or several and none was named, have answered.
        ConfigError: if the wanted accuracy is not in (0, 1].
    """
    if not 0 < wanted <= 1:
        raise ConfigError(f"accuracy must be above 0 and at most 1, got {wanted:g}")
    pairs = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    events = [event for event in current_answers(project.label_store) if event.segment_s == settings.segment_s]
    judges = [event for event in events if event.source == "judge"]
    name = judge_among(judges, judge)
    truth = _truth(events, load_gold(project, settings.segment_s), against)
    calibrations = _calibrations(project, judges, settings.segment_s)
    believed = beliefs(name, judges, calibrations, settings.confidence)
    questions, alike = questions_of(pairs, settings)
    unanswered = [question for question in questions if question not in truth.segments]
    doubted = [believed.get(question, _UNASKED) for question in unanswered]
    by_segment, by_pair = orders(unanswered, np.array([item.belief for item in doubted], dtype=np.float64))
    file = write_plan(project, name, unanswered, by_pair, doubted)
    people_right, said_twice = _people_right(events)
    known = known_labels(name, judges, calibrations, settings.confidence, truth)
    found: dict[str, Any] = {
        "schema_version": 1,
        "judge": name,
        "against": against,
        "segment_s": settings.segment_s,
        "calibrated": sorted(calibrations),
        "segments": {"all": len(questions) + alike, "alike": alike, "answered": len(questions) - len(unanswered)},
        "to_ask": len(unanswered),
        "why": dict(Counter(item.why for item in doubted).most_common()),
        "people_right": people_right,
        "people_asked_twice": said_twice,
        "known": len(known.belief),
        "wanted": wanted,
        "file": str(file),
        "assumes": ASSUMES,
    }
    if len(known.belief) < LEAST_KNOWN:
        why = f"because only {len(known.belief)} of its labels have an answer of {against}; {LEAST_KNOWN} are needed"
        return {**found, "undefined": why, "needed": None, "curve": None}
    belief = np.array([-1.0 if item.label is None else item.belief for item in doubted], dtype=np.float64)
    outlook = Outlook(belief, len(questions) - len(unanswered), people_right, known.curves(name))
    ways = {"by_segment": by_segment, "by_pair": by_pair, "at_random": None}
    accuracies = {how: outlook.accuracies(order) for how, order in ways.items()}
    return {
        **found,
        "undefined": None,
        "needed": {how: needed(values, outlook.steps, wanted) for how, values in accuracies.items()},
        "curve": {how: points(values, outlook.steps) for how, values in accuracies.items()},
    }


def _truth(events: Sequence[AnswerEvent], gold: Gold, against: str) -> Reference:
    """Return the reference; a ranking alone needs nobody's answers."""
    try:
        return reference(events, gold, against)
    except LabelError:
        return Reference(against, (), {}, {}, 0)


def _calibrations(project: Project, judges: Sequence[AnswerEvent], segment_s: float) -> dict[str, Calibration]:
    loaded = {author: load_calibration(project, author, segment_s) for author in {event.author for event in judges}}
    return {author: calibration for author, calibration in loaded.items() if calibration is not None}


def _people_right(events: Sequence[AnswerEvent]) -> tuple[float, int]:
    """Return how often people say the same when asked again, and how many answers say so; 1 where there are none."""
    people = [event for event in events if event.source == "person" and event.answer is not None]
    before = {(event.author, event.pair_id, event.segment): event.answer for event in people if event.task == "work"}
    again = [event for event in people if event.task == "repeat"]
    known = [event for event in again if (event.author, event.pair_id, event.segment) in before]
    same = [event.answer == before[event.author, event.pair_id, event.segment] for event in known]
    return (sum(same) / len(same) if same else 1.0), len(same)
