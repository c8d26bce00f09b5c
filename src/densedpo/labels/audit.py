"""The bias audit: what the labels secretly prefer.

For pairs of each mode, and for segment and whole-clip labels, it counts how often a preference goes to the slower,
larger, brighter, sharper or more saturated side, with 95 % intervals, and says so in plain words where the interval
leaves 50 % out. Run it before training: a model learns whatever the labels prefer, meant or not. ``audit_labels`` is
pure; ``audit`` reads a project and writes ``labels/audit.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from densedpo.errors import LabelError
from densedpo.intervals import Interval, cluster_bootstrap, wilson
from densedpo.labels.measures import Means, PairMeasures, measure_pairs
from densedpo.labels.selection import selected_answers
from densedpo.labels.snapshot import snapshot_rows
from densedpo.store.files import write_json
from densedpo.store.project import Project
from densedpo.store.tables import read_table

SCHEMA_VERSION = 1
# With fewer pairs an interval is too unsure of itself to be put in words.
MIN_PAIRS_FOR_FINDING = 10

Level = Literal["segments", "clips"]
LEVELS: dict[Level, str] = {"segments": "segment", "clips": "clip"}


@dataclass(frozen=True)
class Property:
    """A measured property and the words for its two sides.

    ``direction`` is +1 where the named side has more of it, -1 where it has less. Two sides are comparable where they
    differ by more than ``noise_floor``, relative to their mean.
    """

    column: str
    side: str
    opposite: str
    direction: int
    noise_floor: float
    unit: str


# Noise floors: about what one H.264 round trip of the same drawn clip changes in nine segments of ten.
PROPERTIES: dict[str, Property] = {
    "slower": Property("motion_px_s", "slower", "faster", -1, 0.10, "px/s"),
    "larger": Property("subject_share", "larger", "smaller", +1, 0.02, "share of the frame"),
    "brighter": Property("brightness", "brighter", "darker", +1, 0.005, "mean luma, 0 to 1"),
    "sharper": Property("sharpness", "sharper", "softer", +1, 0.06, "mean luma gradient"),
    "more_saturated": Property("saturation", "more saturated", "less saturated", +1, 0.02, "mean saturation, 0 to 1"),
}


@dataclass(frozen=True)
class AuditedPair:
    """One labelled pair: its mode, its labels in [-1, 1] (+ where a is better, None: unlabelled), its measures."""

    pair_id: str
    mode: str
    segment_labels: Sequence[float | None]
    clip_label: float | None
    measures: PairMeasures


@dataclass(frozen=True)
class _Judged:
    """One label beside the means of both sides over what it speaks for."""

    pair_id: str
    label: float
    a: Means
    b: Means


def audit(
    project: Project, source: str | None = None, segment_s: float | None = None, author: str | None = None
) -> dict[str, Any]:
    """Audit the current labels of one source kind, or author, write ``labels/audit.json`` and return its content.

    Raises:
        LabelError: if there are no usable answers, it is ambiguous which are meant, or no video can be read.
    """
    table = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    by_id = {row["pair_id"]: row for row in table}
    events = selected_answers(project, table, source, segment_s, author)
    rows = snapshot_rows(table, events)
    measured = measure_pairs(project, [by_id[row["pair_id"]] for row in rows], events[0].segment_s)
    pairs = [
        AuditedPair(
            pair_id=row["pair_id"],
            mode=by_id[row["pair_id"]]["mode"],
            segment_labels=row["segment_labels"],
            clip_label=row["clip_label"],
            measures=measured.pairs[row["pair_id"]],
        )
        for row in rows
        if row["pair_id"] in measured.pairs
    ]
    if not pairs:
        raise LabelError(f"{project.pairs}: no labelled pair can be measured; {measured.rejected[0]['reason']}")
    found = {
        "source": events[0].source,
        "authors": sorted({event.author for event in events}),
        "segment_s": events[0].segment_s,
        "rejected": measured.rejected,
        **audit_labels(pairs),
    }
    write_json(project.audit_file, found)
    return found


def audit_labels(pairs: Sequence[AuditedPair]) -> dict[str, Any]:
    """Return the audit of ``pairs`` as plain values: one group a mode, and all together.

    Shares lie in [0, 1]; each is ``{"mean", "low", "high", "count"}`` with the number of independent units, or None
    where nothing could be counted. Clips have Wilson intervals, segments a bootstrap over pairs.
    """
    modes = sorted({pair.mode for pair in pairs})
    groups = {"all": _group(pairs)} | {mode: _group([pair for pair in pairs if pair.mode == mode]) for mode in modes}
    findings = [
        {"group": name, "level": level, "property": key, "text": preference["finding"]}
        for name, group in groups.items()
        for level in LEVELS
        for key, preference in group[level]["preferences"].items()
        if preference["finding"]
    ]
    properties = {
        key: {
            "column": item.column,
            "side": item.side,
            "opposite": item.opposite,
            "unit": item.unit,
            "noise_floor": item.noise_floor,
        }
        for key, item in PROPERTIES.items()
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "min_pairs_for_finding": MIN_PAIRS_FOR_FINDING,
        "properties": properties,
        "groups": groups,
        "findings": findings,
    }


def _group(pairs: Sequence[AuditedPair]) -> dict[str, Any]:
    clips = [
        _Judged(pair.pair_id, pair.clip_label, pair.measures["a"].clip, pair.measures["b"].clip)
        for pair in pairs
        if pair.clip_label is not None
    ]
    segments = [
        _Judged(pair.pair_id, label, pair.measures["a"].segments[index], pair.measures["b"].segments[index])
        for pair in pairs
        for index, label in enumerate(pair.segment_labels)
        if label is not None
    ]
    signs = [{np.sign(label) for label in pair.segment_labels if label is not None} for pair in pairs]
    by_clip = {pair.pair_id: pair.clip_label for pair in pairs}
    against = [(item, by_clip[item.pair_id]) for item in segments if item.label and by_clip[item.pair_id]]
    return {
        "pairs": len(pairs),
        "segments": _level("segments", segments),
        "clips": _level("clips", clips),
        "both_signs": _plain(
            _over_pairs([(str(index), {-1, 1} <= found) for index, found in enumerate(signs) if found])
        ),
        "contradicting_segments": _plain(
            _over_segments([(item.pair_id, item.label * (clip or 0) < 0) for item, clip in against])
        ),
    }


Counted = Sequence[tuple[str, bool]]


def _over_pairs(hits: Counted) -> Interval | None:
    return wilson(sum(bool(hit) for _, hit in hits), len(hits))


def _over_segments(hits: Counted) -> Interval | None:
    pairs = [pair_id for pair_id, _ in hits]
    return cluster_bootstrap([float(hit) for _, hit in hits], pairs, seed="audit", shares=True)


_SHARES: dict[Level, Callable[[Counted], Interval | None]] = {"segments": _over_segments, "clips": _over_pairs}


def _level(level: Level, judged: Sequence[_Judged]) -> dict[str, Any]:
    share = _SHARES[level]
    return {
        "labelled": len(judged),
        "non_tie": sum(item.label != 0 for item in judged),
        "ties": _plain(share([(item.pair_id, item.label == 0) for item in judged])),
        "preferences": {key: _preference(level, item, judged) for key, item in PROPERTIES.items()},
    }


def _preference(level: Level, item: Property, judged: Sequence[_Judged]) -> dict[str, Any]:
    hits: list[tuple[str, bool]] = []
    gaps: list[float] = []
    for one in judged:
        a, b = one.a[item.column], one.b[item.column]
        if not one.label or a is None or b is None or abs(a - b) <= item.noise_floor * (abs(a) + abs(b)) / 2:
            continue
        hits.append((one.pair_id, bool((a - b) * item.direction * one.label > 0)))
        gaps.append(abs(a - b))
    share = _SHARES[level]
    median = float(np.median(gaps)) if gaps else None
    large = [hit for hit, gap in zip(hits, gaps, strict=True) if median is not None and gap >= median]
    found = share(hits)
    return {
        "comparable": len(hits),
        "share": _plain(found),
        "large_gap": {"from": median, "comparable": len(large), "share": _plain(share(large))},
        "finding": _finding(level, item, found, len(hits)),
    }


def _finding(level: Level, item: Property, share: Interval | None, comparable: int) -> str | None:
    if share is None or share.count < MIN_PAIRS_FOR_FINDING or share.low <= 0.5 <= share.high:
        return None
    named, mean, low, high = item.side, share.mean, share.low, share.high
    if share.high < 0.5:
        named, mean, low, high = item.opposite, 1 - share.mean, 1 - share.high, 1 - share.low
    return (
        f"labels prefer the {named} {LEVELS[level]}: "
        f"{100 * mean:.0f} % [{100 * low:.0f}, {100 * high:.0f}] of {comparable}"
    )


def _plain(interval: Interval | None) -> Mapping[str, float | int] | None:
    return interval.as_dict() if interval is not None else None
