"""The stage that shows pairs to a judge, segment by segment, and stores what it says.

Repeating it asks only what this judge, with these settings, has not answered yet. Labels of whole clips are derived
from the segments later (labels/consensus.py), so nothing is asked about whole clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from densedpo.clips.decode import Video, read_video
from densedpo.errors import ConfigError, MediaError
from densedpo.labels.alike import alike_segments
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.judges.base import Judge, Judgement, SegmentPair
from densedpo.labels.store import LabelStore
from densedpo.observe import track, warn
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table


@dataclass
class JudgeSummary:
    """Counts of one run: segments judged by answer and outcome, pairs set aside, US dollars spent.

    ``skipped`` segments were answered before; ``alike`` ones are ties that the judge was not asked about.
    """

    judged: int = 0
    skipped: int = 0
    alike: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    rejected: list[dict[str, str]] = field(default_factory=list)
    cost: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "answers": dict(self.answers), "outcomes": dict(self.outcomes)}


def judge_pairs(
    project: Project, judge: Judge, segment_s: float, *, force: bool = False, alike_below: float = 0.0
) -> JudgeSummary:
    """Have ``judge`` answer every segment of every pair and store the answers, one transaction a pair.

    Segments this judge has answered with the same settings are skipped, failed ones asked again; ``force`` asks all.
    Where no frame differs by ``alike_below`` 8-bit levels the answer is a tie, and the judge is spared.
    A pair whose files are damaged, or that is shorter than a segment, is named, counted and set aside.

    Raises:
        ProjectError: if there are no pairs yet.
        MediaError: if no pair at all could be used.
    """
    pairs = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    summary = JudgeSummary()
    with LabelStore.open(project.label_store) as store:
        done = set() if force else _answered(store, judge, segment_s)
        for pair in track(pairs, f"judging pairs ({judge.name})"):
            try:
                events = _judge_pair(project, judge, pair, segment_s, done, alike_below, summary)
            except (MediaError, ConfigError) as error:
                warn(f"pair {pair['pair_id']} set aside: {error}")
                summary.rejected.append({"pair_id": pair["pair_id"], "reason": str(error)})
                continue
            store.append(events)
    if pairs and len(summary.rejected) == len(pairs):
        raise MediaError(f"{project.pairs}: none of {len(pairs)} pairs can be judged; {summary.rejected[0]['reason']}")
    return summary


def _answered(store: LabelStore, judge: Judge, segment_s: float) -> set[tuple[str, int]]:
    return {
        (event.pair_id, event.segment)
        for event in store.current()
        if (event.source, event.author, event.settings_digest) == ("judge", judge.name, judge.settings_digest)
        and event.segment_s == segment_s
        and event.outcome != "failed"
    }


def _judge_pair(
    project: Project,
    judge: Judge,
    pair: Row,
    segment_s: float,
    done: set[tuple[str, int]],
    alike_below: float,
    summary: JudgeSummary,
) -> list[AnswerEvent]:
    grid = SegmentGrid(pair["num_frames"], pair["fps"], segment_s)
    wanted = [segment for segment in range(grid.num_segments) if (pair["pair_id"], segment) not in done]
    summary.skipped += grid.num_segments - len(wanted)
    if not wanted:
        return []
    alike = alike_segments(pair, grid, alike_below)
    a, b = _read_sides(project, pair)
    events = []
    for segment in wanted:
        frames = grid.frames_of(segment)
        shown = SegmentPair(a.frames[frames], b.frames[frames], grid.fps, pair["caption"])
        said = _alike(alike_below) if alike[segment] else judge.judge(shown)
        summary.alike += alike[segment]
        events.append(_event(judge, pair, grid, segment, said, summary))
    return events


def _alike(below: float) -> Judgement:
    return Judgement("tie", "ok", 1.0, f"no frame differs by {below:g} of 255 levels; not asked")


def _read_sides(project: Project, pair: Row) -> Sequence[Video]:
    sides = [read_video(project.pairs / pair["pair_id"] / f"{side}.mp4") for side in ("a", "b")]
    for side, video in zip(("a", "b"), sides, strict=True):
        expected = (pair["num_frames"], pair["height"], pair["width"])
        if video.frames.shape[:3] != expected:
            raise MediaError(
                f"{project.pairs / pair['pair_id']}/{side}.mp4: frames, height, width are {video.frames.shape[:3]}, "
                f"the pairs table says {expected}; make the pair again"
            )
    return sides


def _event(
    judge: Judge, pair: Row, grid: SegmentGrid, segment: int, said: Judgement, summary: JudgeSummary
) -> AnswerEvent:
    start_s, end_s = grid.bounds_s(segment)
    event = AnswerEvent(
        pair_id=pair["pair_id"],
        segment=segment,
        answer=said.answer,
        outcome=said.outcome,
        source="judge",
        author=judge.name,
        segment_s=grid.segment_s,
        start_s=start_s,
        end_s=end_s,
        confidence=said.confidence,
        reason=said.reason,
        raw=said.raw,
        settings_digest=judge.settings_digest,
    )
    summary.judged += 1
    summary.outcomes[said.outcome] += 1
    summary.cost += said.cost
    if said.answer is not None:
        summary.answers[said.answer] += 1
    return event
