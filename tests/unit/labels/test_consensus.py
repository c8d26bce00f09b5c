from __future__ import annotations

import pytest
from tests.unit.labels.conftest import event

from densedpo.labels.answers import ANSWERS, Answer
from densedpo.labels.consensus import by_question, consensus, of_pair


@pytest.mark.parametrize(
    ("answers", "answer", "label"),
    [
        (["a"], "a", 1),
        (["b", "b", "a"], "b", -1),
        (["a", "b"], "tie", 0),
        (["a", "tie"], "tie", 0),
        (["a", "a", "b", "tie"], "a", 1),
        (["both_bad", "both_bad", "a"], "both_bad", 0),
        (["a", "both_bad"], "tie", 0),
        (["a", "cannot_judge"], "a", 1),
        (["cannot_judge", "cannot_judge", "b"], "b", -1),
        (["cannot_judge"], "cannot_judge", 0),
    ],
)
def test_majority(answers: list[Answer], answer: str, label: int) -> None:
    found = consensus(answers)
    assert (found.answer, found.label) == (answer, label)
    assert sum(found.votes.values()) == len(answers)


@pytest.mark.parametrize("answer", ANSWERS)
def test_unanimous(answer: Answer) -> None:
    assert consensus([answer] * 3).answer == answer


def test_unusable_answers_do_not_vote() -> None:
    events = [event(answer="a"), event(author="bob", answer=None), event(author="eve", answer="b", trusted=False)]
    assert by_question(events)["p1", 0].answer == "a"


def test_mixed_sources_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        by_question([event(), event(source="judge")])


def test_clip_label_is_the_sign_of_the_segments() -> None:
    found = by_question([event(segment=0, answer="b"), event(segment=1, answer="b"), event(segment=3, answer="a")])
    labels = of_pair(found, "p1", 4)
    assert [item.label if item else None for item in labels.segments] == [-1, -1, None, 1]
    assert labels.clip is not None
    assert (labels.clip.answer, labels.clip.label) == ("b", -1)
    assert labels.votes == 3


def test_opposite_segments_cancel_to_a_tie() -> None:
    labels = of_pair(by_question([event(segment=0, answer="b"), event(segment=1, answer="a")]), "p1", 2)
    assert labels.clip is not None
    assert (labels.clip.answer, labels.clip.label) == ("tie", 0)


def test_answers_about_the_whole_clip_win_over_segments() -> None:
    labels = of_pair(by_question([event(segment=0, answer="b"), event(segment=-1, answer="a")]), "p1", 1)
    assert labels.clip is not None
    assert labels.clip.label == 1
    assert labels.votes == 2


def test_no_answer_is_unlabelled_not_tie() -> None:
    labels = of_pair({}, "p1", 3)
    assert labels.segments == (None, None, None)
    assert labels.clip is None
