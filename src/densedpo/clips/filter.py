"""The stage ``clips filter``: which clips are worth making pairs of, by what is measured and by their captions.

clips/ID -> cache/clip-measures/ID.json -> limits -> captions that are still in are asked about
    -> clips/filter.parquet (a decision a clip), filter.json (counts), filter.png (distributions)

Nothing is ever deleted: a clip that is left out comes back when the command is repeated with other limits. Measures and
answers are stored one by one, so a killed run repeats only what was in hand, and other limits cost no decoding.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from densedpo.clips.caption_check import Verdict, check_captions
from densedpo.clips.criteria import VERSION, Limit, broken, limits_of, measure_clip, shape_measures, shown
from densedpo.clips.distributions import draw
from densedpo.clips.encode import write_picture
from densedpo.clips.kept import decisions_file
from densedpo.config import FilterSettings
from densedpo.errors import MediaError, ProjectError
from densedpo.observe import track, warn
from densedpo.store.files import read_object, write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table, write_table

CAPTION = "caption"
UNREADABLE = "unreadable"
_MEASURES = (
    "upscale", "duration_s", "crop_share", "cut_strength",
    "total_px_s", "camera_px_s", "foreground_px_s", "agreement",
)  # fmt: skip
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FILTER_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("sha256", pa.string()),
        ("caption", pa.string()),
        ("kept", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
        *((name, pa.float64()) for name in _MEASURES),
        ("caption_answer", pa.string()),
        ("caption_reason", pa.string()),
    ]
)


@dataclass
class FilterSummary:
    """What the filter decided.

    Attributes:
        clips: clips in the project.
        kept: clips that pairs will be made of.
        left_out: the others.
        broken: by criterion, clips that break it; a clip may break several.
        broken_alone: by criterion, clips that break it and no other: what it costs.
        captions: by answer, clips whose caption was asked about; empty without a service.
        limits: by criterion, the measure and its limits.
        quantiles: by measure, its 5, 25, 50, 75 and 95 % quantiles over all clips that could be read.
        unreadable: clips whose file cannot be read, with ``clip_id`` and ``reason``.
        table: the decisions, one row a clip.
        picture: the distributions with the limits drawn in.
    """

    clips: int = 0
    kept: int = 0
    left_out: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    broken_alone: dict[str, int] = field(default_factory=dict)
    captions: dict[str, int] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    quantiles: dict[str, list[float]] = field(default_factory=dict)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    table: str = ""
    picture: str = ""


def filter_clips(project: Project, settings: FilterSettings) -> FilterSummary:
    """Decide about every clip of ``project``; earlier decisions are replaced.

    Raises:
        ProjectError: if there are no clips.
        ConfigError: if the service for captions cannot be used.
    """
    clips = read_table(project.clips_table)
    if not clips:
        raise ProjectError(f"{project.clips}: no clips yet; run `densedpo clips add FOLDER` first")
    limits = limits_of(settings, clips[0]["height"], clips[0]["width"])
    summary = FilterSummary(clips=len(clips), limits=shown(limits))
    rows = [_measured(project, clip, limits, summary) for clip in track(clips, "measuring clips")]
    if settings.caption_endpoint is not None:
        _ask(project, rows, settings, summary)
    for row in rows:
        row["kept"] = not row["reasons"]
    _count(rows, summary)
    summary.table = str(decisions_file(project))
    summary.picture = str(project.clips / "filter.png")
    write_table(decisions_file(project), rows, FILTER_SCHEMA)
    write_picture(project.clips / "filter.png", draw(rows, limits, summary.broken, summary.captions))
    write_json(project.clips / "filter.json", asdict(summary) | {"settings": settings.model_dump(mode="json")})
    return summary


def _measured(project: Project, clip: Row, limits: list[Limit], summary: FilterSummary) -> Row:
    """Return a clip's row of the table, captions left open."""
    row: Row = {name: clip[name] for name in ("clip_id", "sha256", "caption")}
    row |= dict.fromkeys(_MEASURES) | {"caption_answer": None, "caption_reason": None}
    stored = project.cache / "clip-measures" / f"{clip['clip_id']}.json"
    made_from = {"sha256": clip["sha256"], "version": VERSION}
    before = read_object(stored) if stored.exists() else {}
    if {name: before.get(name) for name in made_from} != made_from:
        try:
            before = made_from | {"measures": measure_clip(project.clips / clip["clip_id"] / "clip.mp4")}
        except MediaError as error:
            warn(f"clip {clip['clip_id']} left out: {error}")
            summary.unreadable.append({"clip_id": clip["clip_id"], "reason": str(error)})
            return row | {"reasons": [f"{UNREADABLE}: {error}"]}
        write_json(stored, before)
    measures: dict[str, float] = shape_measures(clip) | before["measures"]
    row |= measures | {"reasons": [f"{name}: {how}" for name, how in broken(measures, limits).items()]}
    return row


def _ask(project: Project, rows: list[Row], settings: FilterSettings, summary: FilterSummary) -> None:
    """Ask about the captions of the clips that are still in, each caption once."""
    inside = [row for row in rows if not row["reasons"]]
    verdicts: dict[str, Verdict] = check_captions(
        (row["caption"] for row in inside), settings, project.cache / "captions"
    )
    for row in inside:
        verdict = verdicts[row["caption"]]
        row["caption_answer"], row["caption_reason"] = verdict.answer, verdict.reason
        if verdict.answer != "yes":
            row["reasons"].append(f"{CAPTION}: {verdict.answer}")
    summary.captions = dict(Counter(row["caption_answer"] for row in inside))
    if failed := summary.captions.get("failed"):
        warn(f"{failed} clips are left out because the service did not answer; repeat the command to ask again")


def _count(rows: list[Row], summary: FilterSummary) -> None:
    names = [[reason.partition(":")[0] for reason in row["reasons"]] for row in rows]
    summary.kept = sum(not found for found in names)
    summary.left_out = len(rows) - summary.kept
    summary.broken = dict(Counter(name for found in names for name in found))
    summary.broken_alone = dict(Counter(found[0] for found in names if len(found) == 1))
    readable = [row for row in rows if row["upscale"] is not None]
    for name in _MEASURES if readable else ():
        values = np.quantile([row[name] for row in readable], _QUANTILES)
        summary.quantiles[name] = [float(value) for value in values]
