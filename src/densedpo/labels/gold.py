"""Answers known to be right: what people are measured by, kept apart from everybody's answers."""

from __future__ import annotations

import json
from collections.abc import Iterable

from densedpo.errors import LabelError, ProjectError
from densedpo.labels.answers import Answer, AnswerEvent, event_from
from densedpo.store.files import write_text
from densedpo.store.project import Project
from densedpo.store.rows import read_rows


def write_gold(project: Project, events: Iterable[AnswerEvent]) -> int:
    """Keep the usable answers among ``events`` as the known ones, in place of earlier ones; return how many."""
    known = {(event.pair_id, event.segment_s, event.segment): event for event in events if event.usable}
    lines = [
        json.dumps(vars(known[question]), ensure_ascii=False, allow_nan=False) + "\n" for question in sorted(known)
    ]
    write_text(project.gold_file, "".join(lines))
    return len(lines)


def load_gold(project: Project, segment_s: float) -> dict[str, dict[int, Answer]]:
    """Return the known answers by pair and segment on the grid of ``segment_s``; nothing where none were given.

    Raises:
        LabelError: naming the line that is not an answer.
    """
    if not project.gold_file.exists():
        return {}
    found: dict[str, dict[int, Answer]] = {}
    try:
        rows = read_rows(project.gold_file)
    except ProjectError as error:
        raise LabelError(str(error)) from None
    for line, row in rows:
        try:
            event = event_from(row)
        except (ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise LabelError(
                f"{project.gold_file}: line {line}: {reason}; run `densedpo label import --gold`"
            ) from None
        if event.segment_s == segment_s and event.answer is not None:
            found.setdefault(event.pair_id, {})[event.segment] = event.answer
    return found
