"""Judging through a service's batch files: all questions go up in files, the replies come back within a day.

``Batches.fill`` sends every question that has no reply yet, waits, and puts the replies where those of single questions
are kept. Then the ordinary stage runs on ``Batches.ask``, which answers from there and asks nobody. Whatever is under
way is on disk: a killed command goes on where it was, uploads nothing twice and starts no batch twice.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from densedpo.config import JudgeSettings
from densedpo.errors import LabelError, MediaError
from densedpo.keys import content_id
from densedpo.labels.judges.answerer import Answerer, Question, Reply
from densedpo.labels.judges.base import BudgetError, ServiceError
from densedpo.labels.judges.batch_part import Filling, Part, PartStore, request_line
from densedpo.labels.judges.batch_service import ENDED, BatchService, BatchStatus
from densedpo.labels.judges.ledger import Prices
from densedpo.labels.judges.replies import Replies
from densedpo.labels.judges.vlm import VlmJudge
from densedpo.labels.judges.work import Plan
from densedpo.observe import say, warn
from densedpo.store.project import Project

_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 60.0


class Direct(Answerer, Protocol):
    """The same service, asked one question at a time, which knows how its questions are kept and written."""

    def keys_of(self, question: Question) -> tuple[str, str]:
        """Return the keys that a whole reply, and one cut short, are kept under."""
        ...

    def known(self, question: Question) -> Reply | None:
        """Return the reply known from before, or None."""
        ...

    def body_of(self, question: Question) -> dict[str, Any]:
        """Return the body of the request."""
        ...


@dataclass
class BatchSummary:
    """Questions sent in batches, answered, come back without an answer; US dollars; why it ended early, if it did."""

    sent: int = 0
    answered: int = 0
    unanswered: int = 0
    cost: float = 0.0
    stopped: str = ""


class Batches:
    """An ``Answerer`` that knows the replies of batches; ``close`` it in the end."""

    def __init__(
        self,
        direct: Direct,
        settings: JudgeSettings,
        replies: Replies,
        folder: Path,
        first_wait_s: float | None = None,
    ) -> None:
        """Prepare to send batches to the service of ``settings``; ``folder`` holds what is under way."""
        self._direct, self._settings, self._replies = direct, settings, replies
        self._wait_s = _FIRST_WAIT_S if first_wait_s is None else first_wait_s
        self._service = BatchService(settings)
        self._parts = PartStore(folder / content_id(settings.base_url, settings.model))
        self._prices = Prices(settings.price_input, settings.price_output, settings.image_tokens)
        self.summary = BatchSummary()

    @property
    def model(self) -> str:
        """Return the service's name of the model."""
        return self._direct.model

    def ask(self, question: Question) -> Reply:
        """Return the reply that came back in a batch, or a failed one: it goes into the next batch.

        Raises:
            LabelError: if the store of replies cannot be read.
        """
        return self._direct.known(question) or Reply("failed", why="no answer in a batch yet")

    def close(self) -> None:
        """Close the connections; batches go on at the service."""
        self._service.close()

    def fill(self, questions: Iterable[Question]) -> None:
        """Get a reply to every question, as far as the service and the budget go.

        Raises:
            BudgetError: if not all could be sent; those that were are answered.
            ServiceError: if the service fails, or ended a batch before it was done; repeat to go on.
            ConfigError: if the service refuses key, model, request or batches.
            LabelError: if a question does not fit into a file, or what is on disk cannot be used.
        """
        parts = self._parts.open_parts()
        if parts:
            say(f"{len(parts)} batches of an earlier run are gone on with")
        stopped: LabelError | None = None
        try:
            for number, part in enumerate(parts):
                parts[number] = self._start(part)
            self._send(questions, parts)
        except (BudgetError, ServiceError) as error:
            stopped = error
        troubles = self._finish(parts)
        if troubles:
            raise ServiceError(f"judge.batch: {'; '.join(troubles)}; repeat the command to send those questions again")
        if stopped is not None:
            raise stopped

    def _send(self, questions: Iterable[Question], parts: list[Part]) -> None:
        """Put all questions without a reply into files and start them; each new part is added to ``parts``."""
        taken = {key for part in parts for key in part.keys}
        tried = False
        filling = self._empty()
        for question in questions:
            key, cut_key = self._direct.keys_of(question)
            if key in taken or self._direct.known(question) is not None:
                continue
            taken.add(key)
            if not tried:
                tried = True
                self._try(question)
                continue
            line = request_line(key, self._direct.body_of(question))
            most = self._prices.cost(self._prices.most(question))
            if not filling.fits(line):
                self._send_part(filling, parts)
                filling = self._empty()
            if not filling.fits(line):
                raise LabelError(
                    f"judge.batch_mb: one question takes {len(line) / 1e6:.2f} million characters; allow more than "
                    f"{self._settings.batch_mb:g} MB, or show fewer or smaller frames"
                )
            if not filling.affords(most):
                self._send_part(filling, parts)
                raise BudgetError(
                    f"judge.budget: ${filling.left:.4f} of ${self._settings.budget:g} were left for batches and the "
                    "next question could pass it; repeat the command when the batches are done, or raise the budget"
                )
            filling.add(key, cut_key, line, most)
        self._send_part(filling, parts)

    def _try(self, question: Question) -> None:
        """Ask one question alone: it shows whether the service takes such questions at all, and how it wants them."""
        reply = self._direct.ask(question)
        if reply.outcome == "failed":
            raise ServiceError(f"judge.batch: the first question failed ({reply.why}); nothing was sent in a batch")

    def _empty(self) -> Filling:
        budget = self._settings.budget
        left = math.inf if budget is None else budget - self._replies.spent()
        return Filling(self._settings.batch_mb * 1e6, left)

    def _send_part(self, filling: Filling, parts: list[Part]) -> None:
        if not filling.keys:
            return
        part = self._parts.add(filling, self._replies.reserve(filling.cost).result())
        self.summary.sent += len(part.keys)
        parts.append(part)
        parts[-1] = self._start(part)

    def _start(self, part: Part) -> Part:
        if part.batch_id is not None:
            return part
        if part.file_id is None:
            part = self._parts.uploaded(part, self._service.upload(self._parts.requests(part)))
        assert part.file_id is not None
        return self._parts.started(part, self._service.start(part.file_id, part.name))

    def _finish(self, parts: list[Part]) -> list[str]:
        """Wait for all parts that run, merge what they bring, and return what went wrong with some."""
        running = [part for part in parts if part.batch_id is not None]
        troubles, wait_s, before = [], self._wait_s, -1
        while running:
            done = 0
            for part in list(running):
                assert part.batch_id is not None
                status = self._service.look(part.batch_id)
                if status.status not in ENDED:
                    done += status.done
                    continue
                running.remove(part)
                left = self._merge(part, status)
                if status.status != "completed":
                    reason = f" ({status.why})" if status.why else ""
                    troubles.append(
                        f"batch {part.batch_id} {status.status}{reason}, {left} questions without an answer"
                    )
            if running:
                if done != before:
                    asked = sum(len(part.keys) for part in running)
                    say(f"batches: {len(running)} under way, {done} of their {asked} questions answered")
                before = done
                time.sleep(wait_s)
                wait_s = min(1.5 * wait_s, _LONGEST_WAIT_S)
        return troubles

    def _merge(self, part: Part, status: BatchStatus) -> int:
        """Keep the replies of a batch that has ended, book what it cost, forget it; return how many are missing."""
        missing, kept = set(part.keys), []
        for file_id in status.files:
            for key, reply in self._service.replies(file_id):
                if key in missing:
                    missing.discard(key)
                    # without a count of tokens: what was set aside
                    price = self._prices.cost(reply.tokens) if reply.tokens else part.reserved / len(part.keys)
                    kept.append((key, replace(reply, cost=price, calls=1)))
        cost = sum(reply.cost for _, reply in kept)
        self._replies.book(part.reservation, cost)
        written = [
            self._replies.keep(part.keys[key] if reply.outcome == "truncated" else key, self.model, reply)
            for key, reply in kept
        ]
        for future in written:
            future.result()
        if part.file_id is not None:
            self._service.forget(part.file_id)
        self._parts.remove(part)
        self.summary.answered += len(kept)
        self.summary.unanswered += len(missing)
        self.summary.cost += cost
        if missing and status.status == "completed":
            warn(f"batch {part.batch_id}: {len(missing)} of {len(part.keys)} questions came back without an answer")
        return len(missing)


def judge_through(batches: Batches, judge: VlmJudge, project: Project, plan: Plan) -> tuple[VlmJudge, BatchSummary]:
    """Have all that ``judge`` would ask for ``plan`` answered, and return the same judge, which now asks nobody.

    A budget or a service that ends it early is told in the summary: what was answered can be judged by all the same.

    Raises:
        ConfigError: if the service refuses key, model, request or batches.
        LabelError: if a question does not fit into a file, or what is on disk cannot be used.
    """
    with contextlib.closing(batches):
        try:
            batches.fill(questions_of(project, judge, plan))
        except (BudgetError, ServiceError) as error:
            batches.summary.stopped = str(error)
    return replace(judge, answerer=batches), batches.summary


def questions_of(project: Project, judge: VlmJudge, plan: Plan) -> Iterator[Question]:
    """Yield all that ``judge`` would ask for ``plan``; a pair that cannot be read is passed over, judging names it."""
    for work in plan.work:
        try:
            for _, shown in work.read(project):
                yield from judge.questions(shown)
        except MediaError:
            continue
