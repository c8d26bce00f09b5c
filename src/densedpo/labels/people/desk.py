"""What a signed-in person can do, without HTTP: be given pairs, answer, submit, look back.

Stands between the page's forms and the queue and store. Everything here is checked against who asks: a task is found by
its id *and* its owner.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sql

from densedpo.config_labels import ServeSettings
from densedpo.errors import LabelError
from densedpo.labels.answers import WHOLE_CLIP, Answer, AnswerEvent, Side
from densedpo.labels.people import forms
from densedpo.labels.people.asks import Asked, Card
from densedpo.labels.people.assign import Assigner
from densedpo.labels.people.cards import event_of, others_answers, own_answers, shown_answer, shown_first
from densedpo.labels.people.media import opaque_id
from densedpo.labels.people.progress import own_progress, team_progress
from densedpo.labels.people.roster import Person, Roster
from densedpo.labels.queue import Claim, Queue
from densedpo.labels.store import LabelStore, read_current


class UnknownTaskError(LabelError):
    """No such task, or it is somebody else's."""


@dataclass(frozen=True)
class Shape:
    """Picture size of a pair's videos in px, and how much its sides differ in each frame (8-bit levels), if known."""

    height: int
    width: int
    differences: Sequence[float] | None


class Desk:
    """The work of people on one project."""

    def __init__(
        self,
        store: LabelStore,
        queue: Queue,
        roster: Roster,
        assigner: Assigner,
        pairs: Mapping[str, Card],
        shape: Callable[[str], Shape],
        settings: ServeSettings,
        asked: Asked,
        secret: bytes,
    ) -> None:
        """Put the parts together; ``shape`` says how the videos of a pair look, ``asked`` what people are asked."""
        self._store = store
        self._queue = queue
        self._roster = roster
        self._assigner = assigner
        self._pairs = pairs
        self._shape = shape
        self._settings = settings
        self._asked = asked
        self._secret = secret

    def me(self, person: Person) -> forms.Me:
        """Return who this is and how far they are."""
        done, held, left, spent_s = own_progress(self._store.database, person.name)
        team_done, team_total = team_progress(self._store.database, self._settings.overlap)
        stage: forms.Stage = "work"
        if not person.instructed:
            stage = "instructions"
        elif self._assigner.must_qualify(person):
            stage = "qualification"
        elif held + left == 0:
            stage = "done"
        remaining = held + left
        pace_s = statistics.median(spent_s) if spent_s else None
        return forms.Me(
            annotator=person.name,
            role=person.role,
            stage=stage,
            settings=forms.PageSettings(
                show_caption=self._settings.show_caption,
                segment_s=self._asked.segment_s,
                tie_offer=self._settings.offer_ties_below > 0,
                whole=self._settings.whole_clip,
                questions=list(self._asked.questions),
            ),
            progress=forms.Progress(
                done=done,
                total=done + remaining,
                seconds_left=None if pace_s is None else pace_s * remaining,
                team_done=team_done,
                team_total=team_total,
            ),
        )

    def next_tasks(self, person: Person, count: int, after: str | None) -> list[forms.TaskShown]:
        """Return up to ``count`` tasks in hand: those held already first, then newly claimed ones."""
        claims = [claim for claim in self._queue.held(person.name) if claim.task_id != after][:count]
        claims = [claim for claim in claims if claim.pair_id in self._pairs]
        while len(claims) < count and (claim := self._assigner.take(person)) is not None:
            if claim.pair_id in self._pairs:
                claims.append(claim)
        return [self._show(claim) for claim in claims]

    def task(self, person: Person, task_id: str) -> forms.TaskShown:
        """Return one of this person's own tasks, to look at or to change.

        Raises:
            UnknownTaskError: if it is not theirs.
        """
        return self._show(self.claim(person, task_id))

    def claim(self, person: Person, task_id: str) -> Claim:
        """Return one of this person's own claims.

        Raises:
            UnknownTaskError: if it is not theirs.
        """
        claim = self._queue.find(task_id, person.name)
        if claim is None or claim.pair_id not in self._pairs:
            raise UnknownTaskError("no such task")
        return claim

    def answer(self, person: Person, post: forms.AnswersPost) -> forms.Stored:
        """Store answers; durable on return.

        Raises:
            UnknownTaskError: if the task is not theirs.
            LabelError: if a part was not asked about, or the answer is none of those offered.
        """
        claim = self.claim(person, post.task_id)
        card = self._pairs[claim.pair_id]
        for given in post.answers:
            self._asked.check(card, given)
        asked = self._asked
        events = [event_of(claim, given, asked.span(card, given.segment), asked.digest) for given in post.answers]
        stored = self._store.record(person.name, post.key, events, post.seq)
        return forms.Stored(stored=stored, complete=not self._missing(claim))

    def submit(self, person: Person, task_id: str) -> forms.Submitted:
        """Call a task done.

        Raises:
            UnknownTaskError: if it is not theirs.
            LabelError: naming the segments that have no answer.
        """
        claim = self.claim(person, task_id)
        missing = self._missing(claim)
        if missing:
            named = ", ".join("the whole clip" if segment == WHOLE_CLIP else str(segment) for segment in missing)
            raise LabelError(f"no answer yet for segment {named}")
        state = self._queue.submit(task_id, person.name, self._disagree)
        feedback = []
        if claim.task == "qualification":
            feedback = self._feedback(claim)
            self._assigner.finish_qualification(person, self._store)
        return forms.Submitted(complete=True, surplus=state == "surplus", feedback=feedback)

    def history(self, person: Person, limit: int) -> list[forms.PastTask]:
        """Return this person's tasks, the newest first."""
        past = []
        for claim in self._queue.history(person.name, limit):
            if claim.pair_id not in self._pairs:
                continue
            wanted = self._wanted(claim)
            at = datetime.fromtimestamp(claim.submitted_s or claim.created_s, UTC)
            past.append(
                forms.PastTask(
                    task_id=claim.task_id,
                    caption=self._caption(claim),
                    answered=len(wanted) - len(self._missing(claim)),
                    total=len(wanted),
                    submitted=claim.submitted,
                    at=at.isoformat(timespec="seconds"),
                    kind=_kind(claim),
                )
            )
        return past

    def _show(self, claim: Claim) -> forms.TaskShown:
        card = self._pairs[claim.pair_id]
        shape = self._shape(claim.pair_id)
        events = self._store.current_of(claim.pair_id)
        first = shown_first(claim)
        second: Side = "b" if first == "a" else "a"
        media = {
            "first": "/media/" + opaque_id(self._secret, claim.task_id, claim.annotator, claim.pair_id, first),
            "second": "/media/" + opaque_id(self._secret, claim.task_id, claim.annotator, claim.pair_id, second),
        }
        others = {}
        if claim.task == "review":
            others = others_answers(
                claim, events, self._grid_s(claim), lambda event: event.source == "person" and event.task == "work"
            )
        return forms.TaskShown(
            task_id=claim.task_id,
            lease_s=self._queue.lease_s,
            kind=_kind(claim),
            submitted=claim.submitted,
            caption=self._caption(claim),
            fps=card.fps,
            num_frames=card.num_frames,
            width=shape.width,
            height=shape.height,
            segments=self._asked.shown(card, shape.differences),
            media=media,
            answers=own_answers(claim, events, self._grid_s(claim)),
            others=[forms.OtherAnswers(segment=segment, answers=said) for segment, said in others.items()],
            whole=self._settings.whole_clip,
        )

    def _caption(self, claim: Claim) -> str | None:
        return self._pairs[claim.pair_id].caption if self._settings.show_caption else None

    def _wanted(self, claim: Claim) -> list[int]:
        return self._asked.wanted(self._pairs[claim.pair_id])

    def _answered(self, claim: Claim) -> list[forms.OneAnswer]:
        return own_answers(claim, self._store.current_of(claim.pair_id), self._grid_s(claim))

    def _grid_s(self, claim: Claim) -> float:
        return self._asked.span(self._pairs[claim.pair_id], 0).segment_s

    def _missing(self, claim: Claim) -> list[int]:
        there = {given.segment for given in self._answered(claim)}
        return [segment for segment in self._wanted(claim) if segment not in there]

    def _feedback(self, claim: Claim) -> list[forms.Feedback]:
        gold, first = self._assigner.gold[claim.pair_id], shown_first(claim)
        given = {one.segment: one.answer for one in self._answered(claim)}
        said = []
        for segment, answer in sorted(gold.items()):
            if segment in given:
                expected = shown_answer(answer, first)
                correct = given[segment] == expected
                why = "as expected" if correct else f"expected here: {expected.replace('_', ' ')}"
                said.append(forms.Feedback(segment=segment, expected=expected, correct=correct, why=why))
        return said

    def _disagree(self, connection: sql.Connection, pair_id: str) -> bool:
        if self._asked.segment_s is None:
            return False  # where questions are asked, everybody's opinion stands: nobody reviews it
        events = [stored.event for stored in read_current(connection, pair_id)]
        return disagreeing([event for event in events if event.segment_s == self._asked.segment_s])


def disagreeing(events: Sequence[AnswerEvent]) -> bool:
    """Say whether two people answered one segment of a pair differently; ``cannot_judge`` contradicts nobody."""
    said: dict[int, set[Answer]] = {}
    for event in events:
        if event.source == "person" and event.task == "work" and event.answer not in (None, "cannot_judge"):
            assert event.answer is not None
            said.setdefault(event.segment, set()).add(event.answer)
    return any(len(answers) > 1 for answers in said.values())


def _kind(claim: Claim) -> forms.Kind:
    return "review" if claim.task == "review" else "work"
