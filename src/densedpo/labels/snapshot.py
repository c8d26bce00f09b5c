"""Frozen labels: what training reads, named by content.

``freeze`` turns the current answers of one source kind into one Parquet file, a row a labelled pair. Its name is the
digest of what it says, so equal labels give the same file, and a damaged or edited one is noticed. A pair without a row
and a null in a row are unlabelled, which is never a tie.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from densedpo.errors import LabelError, ProjectError
from densedpo.keys import content_id
from densedpo.labels.accuracy.calibration import Confidence, load_calibration, weighted
from densedpo.labels.answers import Answer, AnswerEvent, Question, Source
from densedpo.labels.consensus import of_pair, with_weights
from densedpo.labels.gold import load_gold
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.quality import FLAG_RULES, gold_accuracy, people_quality
from densedpo.labels.rules import WORDS, Decide, Rule, decider, reviewer_first
from densedpo.labels.selection import selected_answers
from densedpo.labels.store import current_answers
from densedpo.observe import warn
from densedpo.store.files import read_object, write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table, table_metadata, write_table

SCHEMA_VERSION = 1
_ID_LENGTH = 16
_ID = re.compile(rf"[0-9a-f]{{{_ID_LENGTH}}}")
_FREEZE = "densedpo label freeze"
_COLUMNS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("segment_answers", pa.list_(pa.string()), nullable=False),
        pa.field("segment_labels", pa.list_(pa.float64()), nullable=False),
        pa.field("clip_answer", pa.string()),
        pa.field("clip_label", pa.float64()),
        pa.field("votes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class PairLabels:
    """Labels of one pair in [-1, 1], + where a is better, None where unlabelled, and the answers behind them."""

    pair_id: str
    segment_answers: tuple[Answer | None, ...]
    segment_labels: tuple[float | None, ...]
    clip_answer: Answer | None
    clip_label: float | None
    votes: int


@dataclass(frozen=True)
class LabelSnapshot:
    """A loaded snapshot: segment length in seconds, labels by pair id, its id and what made it."""

    segment_s: float
    rows: dict[str, PairLabels]
    id: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class FrozenSnapshot:
    """What ``freeze`` made: id, file, and counts for the summary."""

    id: str
    path: Path
    source: Source
    segment_s: float
    pairs: int
    segments: int
    non_tie_segments: int
    non_tie_clips: int
    rule: Rule
    left_out: tuple[str, ...]


def freeze(
    project: Project,
    source: str | None = None,
    segment_s: float | None = None,
    rule: Rule = "reviewer",
    *,
    author: str | None = None,
    confidence: Confidence = "calibrated",
    keep_flagged: bool = False,
) -> FrozenSnapshot:
    """Freeze the current answers of one source kind as ``snapshots/ID.parquet`` and record it as the latest.

    Args:
        project: the project; its pairs table says how many segments each pair has.
        source: person, judge or simulated; may be left out where only one kind has answered.
        segment_s: segment length in seconds; may be left out where only one is in use.
        rule: how several answers to one question become one label (labels/rules.py).
        author: whose answers alone count; needed where several judges have answered.
        confidence: what weight a judge's preferences get (labels/accuracy/calibration.py); people's and simulated ones
            weigh 1.
        keep_flagged: whether answers count of people whose answers raise a flag (labels/quality.py), and answers that
            are not trusted, as of a judge that failed its self-test; the snapshot then says whose (``untrusted``).

    Raises:
        LabelError: if there is nothing to freeze, the choice is ambiguous or an answer lies outside its clip.
    """
    pairs = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    events = selected_answers(project, pairs, source, segment_s, author, keep_untrusted=keep_flagged)
    answers = [event for event in current_answers(project.label_store) if event.segment_s == events[0].segment_s]
    gold = load_gold(project, events[0].segment_s)
    flagged = {person.author: person.flags for person in people_quality(answers, gold) if person.flags}
    left_out = sorted({event.author for event in events if event.source == "person"} & flagged.keys())
    if keep_flagged:
        left_out = []
    for name in left_out:
        warn(f"{name} is left out ({', '.join(flagged[name])}); look at `densedpo label agreement`")
    events = [event for event in events if event.author not in left_out]
    if not events:
        raise LabelError(f"all answers are by flagged people ({', '.join(left_out)}); look, or freeze --keep-flagged")
    doubted = _untrusted(answers, events)
    events, weights, weighing = _weighed(project, events, confidence)
    decide = decider(rule, gold_accuracy(answers, gold))
    rows = snapshot_rows(pairs, events, lambda given: with_weights(decide(given), weights))
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "segment_s": events[0].segment_s,
        "source": events[0].source,
        "authors": sorted({event.author for event in events}),
        "settings_digests": sorted({event.settings_digest for event in events if event.settings_digest}),
        "consensus": WORDS[rule],
        "rule": rule,
        "left_out": left_out,
        "left_out_rule": FLAG_RULES if left_out else "",
        "events": len(events),
        **weighing,
        **doubted,
    }
    digest = _digest(rows, metadata)
    path = project.snapshots / f"{digest[:_ID_LENGTH]}.parquet"
    stored = {name: json.dumps(value) for name, value in {**metadata, "digest": digest}.items()}
    write_table(path, rows, _COLUMNS.with_metadata(stored))
    write_json(project.snapshots / "latest.json", {"id": path.stem})
    labels = [label for row in rows for label in row["segment_labels"] if label is not None]
    return FrozenSnapshot(
        id=path.stem,
        path=path,
        source=events[0].source,
        segment_s=events[0].segment_s,
        pairs=len(rows),
        segments=len(labels),
        non_tie_segments=sum(label != 0 for label in labels),
        non_tie_clips=sum(bool(row["clip_label"]) for row in rows),
        rule=rule,
        left_out=tuple(left_out),
    )


def _untrusted(stored: Sequence[AnswerEvent], counted: Sequence[AnswerEvent]) -> dict[str, list[str]]:
    """Return whose answers count although they are stored as untrusted; nothing where there are none."""
    trusted = {event for event in stored if event.trusted}
    authors = sorted({event.author for event in counted if event not in trusted})
    return {"untrusted": authors} if authors else {}


def snapshot_rows(pairs: Sequence[Row], events: Sequence[AnswerEvent], decide: Decide = reviewer_first) -> list[Row]:
    """Return the canonical rows, in order of pair id, of the pairs that have at least one of ``events``.

    Args:
        pairs: rows with pair_id, num_frames and fps.
        events: usable answers of one source kind and one segment length.
        decide: how several answers to one question become one.

    Raises:
        LabelError: if an answer names a segment that its clip does not have.
    """
    found = decide(events)
    last: dict[str, int] = {}
    for pair_id, segment in found:
        last[pair_id] = max(last.get(pair_id, segment), segment)
    rows = []
    for pair in sorted((pair for pair in pairs if pair["pair_id"] in last), key=lambda pair: str(pair["pair_id"])):
        pair_id = pair["pair_id"]
        count = SegmentGrid(pair["num_frames"], pair["fps"], events[0].segment_s).num_segments
        if last[pair_id] >= count:
            raise LabelError(
                f"pair {pair_id!r}: an answer names segment {last[pair_id]}, the clip has 0 to {count - 1}; "
                "import it again with the right segment"
            )
        labels = of_pair(found, pair_id, count)
        row = PairLabels(
            pair_id=pair_id,
            segment_answers=tuple(item.answer if item else None for item in labels.segments),
            segment_labels=tuple(item.label * item.weight if item else None for item in labels.segments),
            clip_answer=labels.clip.answer if labels.clip else None,
            clip_label=labels.clip.label * labels.clip.weight if labels.clip else None,
            votes=labels.votes,
        )
        rows.append(_plain(row))
    return rows


def _weighed(
    project: Project, events: list[AnswerEvent], confidence: Confidence
) -> tuple[list[AnswerEvent], dict[Question, float], dict[str, Any]]:
    """Return answers and weights as they shall count, and what the metadata say of it: nothing where all weigh 1."""
    first = events[0]
    if first.source != "judge":
        return events, {}, {}
    calibration = load_calibration(project, first.author, first.segment_s)
    counted, weights = weighted(events, confidence, calibration)
    fitted = calibration if confidence in ("calibrated", "weights") else None
    weak = sum(one.answer != other.answer for one, other in zip(events, counted, strict=True))
    if weak:
        said = sum(event.answer in ("a", "b") for event in events)
        kept = "; `--confidence weights` keeps more of them" if confidence == "calibrated" else ""
        warn(f"{weak} of {said} preferences of {first.author} are too weak to count and become ties{kept}")
    if fitted is None and confidence != "stated":
        return counted, weights, {}
    return counted, weights, {"confidence": confidence, "calibration": fitted.digest if fitted else None}


def load_snapshot(path: Path) -> LabelSnapshot:
    """Read a snapshot and check that its content is what its id says.

    Raises:
        LabelError: if the file is missing, damaged or was changed.
    """
    if not path.exists():
        raise LabelError(f"{path}: no such snapshot; run `{_FREEZE}` first")
    damaged = LabelError(f"{path}: the content does not match the snapshot's id; run `{_FREEZE}` again")
    try:
        rows = read_table(path)
        metadata = {name: json.loads(value) for name, value in table_metadata(path).items()}
        columns = pq.read_schema(path).remove_metadata()
    except (ProjectError, pa.ArrowException, ValueError):
        raise damaged from None
    digest = metadata.pop("digest", None)
    if not columns.equals(_COLUMNS) or digest != _digest(rows, metadata) or path.stem != digest[:_ID_LENGTH]:
        raise damaged
    if metadata["schema_version"] != SCHEMA_VERSION:
        raise LabelError(f"{path}: snapshot of version {metadata['schema_version']}; run `{_FREEZE}` again")
    labels = {row["pair_id"]: PairLabels(**{**row, **_tuples(row)}) for row in rows}
    return LabelSnapshot(metadata["segment_s"], labels, path.stem, metadata)


def latest_snapshot(project: Project) -> Path:
    """Return the file of the snapshot that was frozen last.

    Raises:
        LabelError: if nothing was frozen yet, or the record of it is damaged.
    """
    record = project.snapshots / "latest.json"
    if not record.exists():
        raise LabelError(f"{project.snapshots}: no snapshot yet; run `{_FREEZE}` first")
    try:
        name = read_object(record).get("id")
    except ProjectError:
        name = None
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise LabelError(f"{record}: does not name a snapshot; run `{_FREEZE}` again")
    return project.snapshots / f"{name}.parquet"


def _digest(rows: Sequence[Row], metadata: dict[str, Any]) -> str:
    return content_id(list(rows), metadata, length=64)


def _plain(labels: PairLabels) -> Row:
    row = asdict(labels)
    return {**row, **{name: list(row[name]) for name in ("segment_answers", "segment_labels")}}


def _tuples(row: Row) -> Row:
    return {name: tuple(row[name]) for name in ("segment_answers", "segment_labels")}
