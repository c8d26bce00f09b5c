"""The stage that shows pairs to a judge, segment by segment, and stores what it says.

Repeating it asks only what this judge, with these settings, has not answered yet. What the judge could not answer for
reasons outside it (a service that failed) is never stored, so that it is asked again. Labels of whole clips are derived
from the segments later (labels/consensus.py), unless the whole clip is what is asked about, as a baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from densedpo.errors import MediaError
from densedpo.labels.answers import ANSWERS, AnswerEvent, Outcome, Question
from densedpo.labels.judges.base import BudgetError, Judge, Judgement, ServiceError
from densedpo.labels.judges.crew import Crew, Done
from densedpo.labels.judges.work import Ask, Plan, plan_work
from densedpo.labels.store import LabelStore
from densedpo.observe import track, warn
from densedpo.store.project import Project
from densedpo.store.shard import Shard
from densedpo.store.tables import read_table

_ALL = Shard()
_SHOWN_OUTCOMES: tuple[Outcome, ...] = ("ok", "refused", "truncated", "malformed", "failed")


@dataclass
class JudgeSummary:
    """Counts of one run: segments judged by answer and outcome, requests, pairs set aside, US dollars spent.

    ``skipped`` segments were answered before; ``alike`` ones are ties that the judge was not asked about. ``calls`` and
    ``cached`` are the judge's: requests sent, and replies known from before. ``failure`` says why the last segment that
    got no answer has none, ``stopped`` why a run ended early.
    """

    judged: int = 0
    skipped: int = 0
    alike: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    cached: int = 0
    cost: float = 0.0
    rejected: list[dict[str, str]] = field(default_factory=list)
    failure: str = ""
    stopped: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with every answer and outcome counted."""
        answers = {answer: self.answers[answer] for answer in ANSWERS}
        outcomes = {outcome: self.outcomes[outcome] for outcome in _SHOWN_OUTCOMES}
        return {**asdict(self), "answers": answers, "outcomes": outcomes}


def plan_judging(
    project: Project,
    judge: Judge,
    segment_s: float,
    *,
    force: bool = False,
    alike_below: float = 0.0,
    ask: Ask = "segments",
    shard: Shard = _ALL,
) -> Plan:
    """Return what ``judge_pairs`` would do.

    Raises:
        ProjectError: if there are no pairs yet.
        LabelError: if the label store cannot be read.
    """
    pairs = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    with LabelStore.open(project.label_store) as store:
        done = set() if force else _answered(store, judge, segment_s)
    mine = [pair for place, pair in enumerate(pairs) if shard.takes(place)]
    return plan_work(mine, segment_s, done, alike_below, ask)


def judge_pairs(
    project: Project,
    judge: Judge,
    segment_s: float,
    *,
    force: bool = False,
    alike_below: float = 0.0,
    ask: Ask = "segments",
    shard: Shard = _ALL,
    trusted: bool = True,
    interrupt: Callable[[], None] = lambda: None,
) -> JudgeSummary:
    """Have ``judge`` answer every segment of every pair and store the answers as they come.

    Segments this judge has answered with the same settings are skipped, failed ones asked again; ``force`` asks all.
    Where no frame differs by ``alike_below`` 8-bit levels the answer is a tie, and the judge is spared.
    A pair whose files are damaged, or that is shorter than a segment, is named, counted and set aside.
    A spent budget or a service that is down ends the run early, with all that was answered stored.

    Args:
        project: holds the pairs and the answers.
        judge: asked about as many segments at a time as it allows.
        segment_s: length of a segment.
        force: ask again what is answered.
        alike_below: as ``alike_segments``.
        ask: about each segment, or about each clip as a whole.
        shard: the part of the pairs that is judged here.
        trusted: whether the answers count; others are kept but never become labels.
        interrupt: makes questions that are under way end at once; called when the run is broken off.

    Raises:
        ProjectError: if there are no pairs yet.
        MediaError: if no pair at all could be used.
        LabelError: if answers cannot be stored.
        ConfigError: if the judge's settings turn out to be wrong.
    """
    plan = plan_judging(project, judge, segment_s, force=force, alike_below=alike_below, ask=ask, shard=shard)
    summary = JudgeSummary(skipped=plan.skipped)
    spared = Judgement("tie", "ok", 1.0, f"no frame differs by {alike_below:g} of 255 levels; not asked")
    with LabelStore.open(project.label_store) as store:
        crew = Crew(project, judge, plan.work, spared)

        def keep(batch: Sequence[Done]) -> Iterator[Done]:
            store.append(_event(judge, done, trusted) for done in batch if _is_answer(done))
            for done in batch:
                _count(done, summary)
            return iter(batch)

        for pair_id, reason in plan.unfit:
            _set_aside(pair_id, reason, summary)
        stored = (done for batch in crew for done in keep(batch))
        try:
            for _ in track(stored, f"judging ({judge.name})", total=plan.segments, note=lambda: _money(summary)):
                continue
        except BaseException:
            interrupt()
            raise
        finally:
            keep(crew.stop())
    if isinstance(crew.error, BudgetError | ServiceError):
        summary.stopped = str(crew.error)
    elif crew.error is not None:
        raise crew.error
    if summary.outcomes["failed"]:
        count = summary.outcomes["failed"]
        warn(f"{count} segments got no answer, the last because of: {summary.failure}; repeat the command to ask again")
    if plan.pairs and len(summary.rejected) == plan.pairs:
        raise MediaError(f"{project.pairs}: none of {plan.pairs} pairs can be judged; {summary.rejected[0]['reason']}")
    return summary


def _answered(store: LabelStore, judge: Judge, segment_s: float) -> set[Question]:
    return {
        (event.pair_id, event.segment)
        for event in store.current()
        if (event.source, event.author, event.settings_digest) == ("judge", judge.name, judge.settings_digest)
        and event.segment_s == segment_s
        and event.outcome != "failed"
    }


def _is_answer(done: Done) -> bool:
    """Say whether the judge said something: a failed call is no answer, and must not replace one."""
    return done.said is not None and done.said.outcome != "failed"


def _event(judge: Judge, done: Done, trusted: bool) -> AnswerEvent:
    assert done.said is not None
    start_s, end_s = done.work.bounds_s(done.segment)
    return AnswerEvent(
        pair_id=done.work.pair_id,
        segment=done.segment,
        answer=done.said.answer,
        outcome=done.said.outcome,
        source="judge",
        author=judge.name,
        segment_s=done.work.grid.segment_s,
        start_s=start_s,
        end_s=end_s,
        confidence=done.said.confidence,
        reason=done.said.reason,
        raw=done.said.raw,
        settings_digest=judge.settings_digest,
        trusted=trusted,
    )


def _count(done: Done, summary: JudgeSummary) -> None:
    if done.said is None:
        _set_aside(done.work.pair_id, str(done.error), summary)
        return
    summary.alike += done.segment in done.work.alike
    summary.judged += 1
    summary.outcomes[done.said.outcome] += 1
    if done.said.outcome == "failed":
        summary.failure = done.said.reason
    if done.said.answer is not None:
        summary.answers[done.said.answer] += 1
    summary.calls += done.said.calls
    summary.cached += done.said.cached
    summary.cost += done.said.cost


def _set_aside(pair_id: str, reason: str, summary: JudgeSummary) -> None:
    warn(f"pair {pair_id} set aside: {reason}")
    summary.rejected.append({"pair_id": pair_id, "reason": reason})


def _money(summary: JudgeSummary) -> str:
    return f"${summary.cost:.2f} so far" if summary.cost else ""
