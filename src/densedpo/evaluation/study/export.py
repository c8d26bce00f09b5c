"""``densedpo study export``: every current answer as one row, with the models' names, for statistics of one's own."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from densedpo.evaluation.study.raters import raters
from densedpo.evaluation.study.votes import Answers, Vote, read_answers
from densedpo.store.files import write_text
from densedpo.store.project import Project
from densedpo.store.tables import write_table

Form = Literal["csv", "jsonl", "parquet"]
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("evaluation", "item_id", "kind", "task", "person")),
        ("flagged", pa.bool_()),
        *((name, pa.string()) for name in ("prompt_id", "prompt", "question", "model_a", "model_b")),
        *((name, pa.int64()) for name in ("seed_a", "seed_b")),
        *((name, pa.string()) for name in ("video_a", "video_b", "answer", "preferred", "shown_first")),
        ("dwell_s", pa.float64()),
        ("note", pa.string()),
        ("at", pa.string()),
    ]
)


def export_study(project: Project, name: str, file: Path, form: Form) -> int:
    """Write all current answers of the study of evaluation ``name`` to ``file``; return how many.

    Raises:
        ProjectError: if no study was begun.
        LabelError: if the store cannot be read.
    """
    rows = rows_of(read_answers(project, name))
    if form == "parquet":
        write_table(file, rows, SCHEMA)
    elif form == "jsonl":
        write_text(file, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, SCHEMA.names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(file, text.getvalue())
    return len(rows)


def rows_of(answers: Answers) -> list[dict[str, Any]]:
    """Return one row an answer, in order of storing; ``task`` says which are votes (work) and which measure people."""
    flagged = {rater["person"] for rater in raters(answers.events, answers.plan) if rater["flags"]}
    return [_row(answers.plan.evaluation, vote, vote.person in flagged) for vote in answers.votes]


def _row(evaluation: str, vote: Vote, flagged: bool) -> dict[str, Any]:
    item = vote.item
    sides = {"a": item.a, "b": item.b}
    return {
        "evaluation": evaluation,
        "item_id": item.item_id,
        "kind": item.kind,
        "task": "control" if vote.task == "gold" else vote.task,
        "person": vote.person,
        "flagged": flagged,
        "prompt_id": item.prompt_id,
        "prompt": item.prompt,
        "question": vote.question,
        **{f"model_{side}": take.model for side, take in sides.items()},
        **{f"seed_{side}": take.seed for side, take in sides.items()},
        **{f"video_{side}": take.video for side, take in sides.items()},
        "answer": vote.answer,
        "preferred": vote.preferred,
        "shown_first": vote.shown_first,
        "dwell_s": vote.dwell_s,
        "note": vote.note,
        "at": datetime.fromtimestamp(vote.created_s, UTC).isoformat(timespec="seconds"),
    }
