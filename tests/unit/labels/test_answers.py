from __future__ import annotations

import math
from typing import Any

import pytest

from densedpo.errors import LabelError
from densedpo.labels.answers import ANSWERS, WHOLE_CLIP, AnswerEvent, event_from


def values(**changes: Any) -> dict[str, Any]:
    right: dict[str, Any] = {
        "pair_id": "p",
        "segment": 0,
        "answer": "a",
        "outcome": "ok",
        "source": "person",
        "author": "ann",
        "segment_s": 1.0,
        "start_s": 0.0,
        "end_s": 1.0,
    }
    return {**right, **changes}


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_answer_is_accepted_and_usable(answer: str) -> None:
    assert event_from(values(answer=answer, segment=WHOLE_CLIP, confidence=1.0)).usable


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pair_id": ""}, "pair_id"),
        ({"pair_id": 3}, "pair_id"),
        ({"segment": -2}, "segment"),
        ({"segment": 1.0}, "segment"),
        ({"segment": True}, "segment"),
        ({"answer": "left"}, "answer"),
        ({"answer": None}, "answer"),
        ({"outcome": "refused"}, "answer"),
        ({"outcome": "tired"}, "outcome"),
        ({"source": "oracle"}, "source"),
        ({"author": ""}, "author"),
        ({"segment_s": 0.0}, "segment_s"),
        ({"segment_s": math.nan}, "segment_s"),
        ({"start_s": 1.0}, "end_s"),
        ({"start_s": -0.5}, "start_s"),
        ({"start_s": "0"}, "start_s"),
        ({"end_s": math.inf}, "end_s"),
        ({"trusted": 1}, "trusted"),
        ({"reason": None}, "reason"),
        ({"confidence": 1.5}, "confidence"),
        ({"confidence": math.nan}, "confidence"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(LabelError, match=f": {named} must be") as caught:
        event_from(values(**changes))
    assert "\n" not in str(caught.value)


def test_unusable_outcomes_never_count() -> None:
    assert not event_from(values(answer=None, outcome="truncated")).usable
    assert not event_from(values(trusted=False)).usable


def test_making_one_directly_is_checked_too() -> None:
    with pytest.raises(LabelError, match="end_s must be"):
        AnswerEvent("p", 0, "a", "ok", "person", "ann", 1.0, 1.0, 1.0)
