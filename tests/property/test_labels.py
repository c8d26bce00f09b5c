"""Laws of labels: consensus, snapshots' canonical form, and the store against a plain model."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from densedpo.labels.answers import ANSWERS, Answer, AnswerEvent, Source
from densedpo.labels.consensus import consensus
from densedpo.labels.snapshot import snapshot_rows
from densedpo.labels.store import LabelStore

PAIRS = [{"pair_id": name, "num_frames": 33, "fps": 8.0} for name in ("p1", "p2", "p3")]
SWAPPED: dict[Answer, Answer] = {
    "a": "b",
    "b": "a",
    "tie": "tie",
    "both_bad": "both_bad",
    "cannot_judge": "cannot_judge",
}


def made(pair_id: str, segment: int, answer: Answer, author: str, source: Source = "person") -> AnswerEvent:
    return AnswerEvent(pair_id, segment, answer, "ok", source, author, 1.0, 0.0, 1.0)


answers = st.sampled_from(ANSWERS)
events = st.lists(
    st.builds(
        made,
        st.sampled_from(["p1", "p2", "p3"]),
        st.integers(-1, 3),
        answers,
        st.sampled_from(["ann", "bob", "eve"]),
    ),
    min_size=1,
    max_size=25,
)


@given(answers, st.integers(1, 6))
def test_unanimous_answers_are_the_consensus(answer: Answer, count: int) -> None:
    assert consensus([answer] * count).answer == answer


@given(st.lists(answers, min_size=1, max_size=12))
def test_consensus_ignores_order(given_answers: list[Answer]) -> None:
    assert consensus(given_answers) == consensus(sorted(given_answers))


@given(st.lists(answers, min_size=1, max_size=12))
def test_consensus_of_swapped_answers_is_swapped(given_answers: list[Answer]) -> None:
    forward, backward = consensus(given_answers), consensus([SWAPPED[answer] for answer in given_answers])
    assert backward.answer == SWAPPED[forward.answer]
    assert backward.label == -forward.label


@given(events)
def test_swapping_sides_negates_the_snapshot(made_events: list[AnswerEvent]) -> None:
    swapped = [
        dataclasses.replace(event, answer=SWAPPED[event.answer]) for event in made_events if event.answer is not None
    ]
    forward, backward = snapshot_rows(PAIRS, made_events), snapshot_rows(PAIRS, swapped)
    assert len(forward) == len(backward)
    for row, mirrored in zip(forward, backward, strict=True):
        assert mirrored["pair_id"] == row["pair_id"]
        assert mirrored["votes"] == row["votes"]
        assert mirrored["segment_labels"] == [None if label is None else -label for label in row["segment_labels"]]
        assert mirrored["segment_answers"] == [answer and SWAPPED[answer] for answer in row["segment_answers"]]
        assert mirrored["clip_label"] == (None if row["clip_label"] is None else -row["clip_label"])
        assert mirrored["clip_answer"] == (row["clip_answer"] and SWAPPED[row["clip_answer"]])


@given(events.flatmap(lambda made_events: st.tuples(st.just(made_events), st.permutations(made_events))))
def test_order_of_answers_and_pairs_does_not_matter(orders: tuple[list[AnswerEvent], Sequence[AnswerEvent]]) -> None:
    forward, shuffled = orders
    assert snapshot_rows(PAIRS, forward) == snapshot_rows(PAIRS[::-1], list(shuffled))


Question = tuple[str, str, str, int]


class StoreMachine(RuleBasedStateMachine):
    """The store against a dictionary of the newest answer and a list of what was added."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "labels.db"
        self._store = LabelStore.open(self._path)
        self._newest: dict[Question, AnswerEvent] = {}
        self._history: list[AnswerEvent] = []

    @rule(
        batch=st.lists(
            st.builds(
                made,
                st.sampled_from(["p1", "p2"]),
                st.integers(-1, 1),
                answers,
                st.sampled_from(["ann", "bob"]),
                st.sampled_from(get_args(Source)[:2]),
            ),
            max_size=4,
        )
    )
    def append(self, batch: list[AnswerEvent]) -> None:
        added = 0
        for event in batch:
            question = (event.source, event.author, event.pair_id, event.segment)
            if self._newest.get(question) != event:
                # the newest answer also moves to the end of the order
                self._newest.pop(question, None)
                self._newest[question] = event
                self._history.append(event)
                added += 1
        assert self._store.append(batch) == added

    @rule()
    def repeat_the_last(self) -> None:
        assert self._store.append(list(self._newest.values())) == 0

    @rule()
    def reopen(self) -> None:
        self._store.close()
        self._store = LabelStore.open(self._path)

    @invariant()
    def store_equals_model(self) -> None:
        assert self._store.current() == list(self._newest.values())
        stored = self._store.events()
        assert [item.event for item in stored] == self._history
        assert [item.event_id for item in stored] == list(range(1, len(stored) + 1))

    def teardown(self) -> None:
        self._store.close()
        self._folder.cleanup()


def test_store_against_a_model_for_500_steps() -> None:
    run_state_machine_as_test(StoreMachine, settings=settings(max_examples=10, stateful_step_count=50, deadline=None))


posts = st.lists(st.tuples(st.integers(0, 7), answers), min_size=1, max_size=8, unique_by=lambda post: post[0])


@given(posts.flatmap(lambda made_posts: st.lists(st.sampled_from(made_posts), min_size=1, max_size=8)))
@example([(5, "tie"), (7, "tie"), (6, "b")])
@settings(max_examples=15, deadline=None)
def test_posts_in_any_order_and_any_number_end_with_the_newest(arrived: list[tuple[int, Answer]]) -> None:
    """A page's outbox may repeat itself and overtake itself; what was said last counts, and nothing said is lost."""
    with tempfile.TemporaryDirectory() as folder, LabelStore.open(Path(folder) / "labels.db") as store:
        for seq, answer in arrived:
            assert store.record("ann", f"key-{seq:05}", [made("p1", 0, answer, "ann")], seq) == 1
        newest = max(arrived, key=lambda post: post[0])
        assert [event.answer for event in store.current()] == [newest[1]]
        assert {event.event.answer for event in store.events()} == {answer for _, answer in arrived}
        events_before = len(store.events())
        for seq, answer in arrived:
            store.record("ann", f"key-{seq:05}", [made("p1", 0, answer, "ann")], seq)
        assert len(store.events()) == events_before
