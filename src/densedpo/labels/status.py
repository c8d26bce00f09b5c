"""How far labelling is: counts of pairs, segments, answers and outcomes, by source and author."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from densedpo.errors import ConfigError
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table


def status(project: Project, segment_s: float) -> dict[str, Any]:
    """Return counts as plain values for JSON.

    ``labelled_segments`` and ``unlabelled_segments`` count segments of the pairs table on the grid of ``segment_s``
    seconds, by anyone's usable answer; ``authors`` has one entry per (source, author, segment length) over what counts
    now, and ``untrusted_answers`` are those of it that never become labels; ``events`` counts the whole history;
    ``seconds_since_last`` is None before the first answer.
    """
    pairs = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    segments = {(pair["pair_id"], segment) for pair in pairs for segment in range(_num_segments(pair, segment_s))}
    current: list[AnswerEvent] = []
    history, last_s = 0, None
    if project.label_store_url or project.labels_database.exists():
        with LabelStore.open(project.label_store) as store:
            current = store.current()
            stored = store.events()
            history, last_s = len(stored), max((item.created_s for item in stored), default=None)
    usable = [event for event in current if event.usable]
    labelled = {(event.pair_id, event.segment) for event in usable if event.segment_s == segment_s} & segments
    whole = {event.pair_id for event in usable if event.segment == WHOLE_CLIP} & {pair["pair_id"] for pair in pairs}
    return {
        "schema_version": 1,
        "pairs": len(pairs),
        "segment_s": segment_s,
        "segments": len(segments),
        "labelled_segments": len(labelled),
        "unlabelled_segments": len(segments) - len(labelled),
        "labelled_whole_clips": len(whole),
        "unlabelled_pairs": len(pairs) - len({pair_id for pair_id, _ in labelled} | whole),
        "untrusted_answers": sum(not event.trusted for event in current),
        "events": history,
        "seconds_since_last": None if last_s is None else max(0.0, time.time() - last_s),
        "authors": _by_author(current),
    }


def _by_author(current: list[AnswerEvent]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, float], list[AnswerEvent]] = {}
    for event in current:
        groups.setdefault((event.source, event.author, event.segment_s), []).append(event)
    return [
        {
            "source": source,
            "author": author,
            "segment_s": segment_s,
            "segments": sum(event.segment != WHOLE_CLIP for event in events),
            "whole_clips": sum(event.segment == WHOLE_CLIP for event in events),
            "untrusted": sum(not event.trusted for event in events),
            "answers": dict(sorted(Counter(event.answer for event in events if event.answer is not None).items())),
            "outcomes": dict(sorted(Counter(event.outcome for event in events).items())),
        }
        for (source, author, segment_s), events in sorted(groups.items())
    ]


def _num_segments(pair: Row, segment_s: float) -> int:
    try:
        return SegmentGrid(pair["num_frames"], pair["fps"], segment_s).num_segments
    except ConfigError:
        # shorter than one segment: there is nothing to label
        return 0
