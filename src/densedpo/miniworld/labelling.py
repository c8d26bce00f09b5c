"""Simulated annotators label a project's pairs: each segment and each whole clip, by quality alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from densedpo.clips.decode import read_video
from densedpo.keys import content_id
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.store import LabelStore
from densedpo.miniworld.annotators import SimulatedAnnotator
from densedpo.miniworld.examiner import Examination, examine
from densedpo.observe import track
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table


def label_pairs(project: Project, annotator: SimulatedAnnotator, segment_s: float) -> dict[str, Any]:
    """Have ``annotator`` answer every segment and whole clip not answered yet; return counts of answers."""
    pairs = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    digest = content_id("annotator", vars(annotator), segment_s)
    counts: Counter[str] = Counter()
    with LabelStore.open(project.label_store) as store:
        done = {event.pair_id for event in store.current() if event.settings_digest == digest}
        for pair in track([p for p in pairs if p["pair_id"] not in done], "simulated annotators"):
            events = _answers(project, pair, annotator, segment_s, digest)
            store.append(events)
            counts.update(str(event.answer) for event in events if event.segment != WHOLE_CLIP)
    return {"pairs": len(pairs), "already_there": len(done), "answers": dict(counts)}


def _answers(
    project: Project, pair: Row, annotator: SimulatedAnnotator, segment_s: float, digest: str
) -> list[AnswerEvent]:
    grid = SegmentGrid(pair["num_frames"], pair["fps"], segment_s)
    sides: list[Examination] = []
    for side in ("a", "b"):
        video = read_video(project.pairs / pair["pair_id"] / f"{side}.mp4")
        sides.append(examine(video.frames, pair["caption"], video.fps))
    questions = [(s, grid.frames_of(s), grid.bounds_s(s)) for s in range(grid.num_segments)]
    questions.append((WHOLE_CLIP, slice(0, pair["num_frames"]), (0.0, grid.duration_s)))
    return [
        AnswerEvent(
            pair_id=pair["pair_id"],
            segment=segment,
            answer=annotator.answer(sides[0].badness(frames), sides[1].badness(frames), pair["pair_id"], segment),
            outcome="ok",
            source="simulated",
            author=annotator.name,
            segment_s=segment_s,
            start_s=start_s,
            end_s=end_s,
            settings_digest=digest,
        )
        for segment, frames, (start_s, end_s) in questions
    ]
