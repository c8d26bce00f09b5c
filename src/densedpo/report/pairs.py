"""What the report reads of clips, pairs and frozen labels, and which pairs it shows, by a rule that it prints."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from densedpo.errors import ConfigError, ProjectError
from densedpo.keys import content_id
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.snapshot import LabelSnapshot, PairLabels, latest_snapshot, load_snapshot
from densedpo.observe import track, warn
from densedpo.report.media import Shelf, Shown
from densedpo.store.files import inside
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table

PAIRS_SHOWN = 12
MODES = ("guided", "independent")
UNLABELLED = "unlabelled"
ANSWERS = ("a", "b", "tie", "both_bad", "cannot_judge", UNLABELLED)


@dataclass(frozen=True)
class Segment:
    """One stretch of a clip in seconds and the frozen answer to it."""

    start_s: float
    stop_s: float
    answer: str


@dataclass(frozen=True)
class ShownPair:
    """One pair as the page plays it; ``source`` is the real clip that guided it, where it is still there."""

    pair_id: str
    caption: str
    mode: str
    eta: float | None
    a: Shown
    b: Shown
    source: Shown | None
    segments: list[Segment]
    clip_answer: str | None


@dataclass(frozen=True)
class Pairs:
    """Everything the report says of pairs and their labels."""

    clips: int
    by_mode: dict[str, int]
    answers: dict[str, int]  # frozen answers to segments, by answer; empty where nothing is frozen
    snapshot: LabelSnapshot | None
    shown: list[ShownPair]
    rule: str

    @property
    def total(self) -> int:
        """Number of pairs."""
        return sum(self.by_mode.values())

    @property
    def answered(self) -> int:
        """Number of segments with a frozen answer."""
        return sum(count for answer, count in self.answers.items() if answer != UNLABELLED)

    @property
    def non_tie(self) -> int:
        """Number of segments where one side is better."""
        return self.answers.get("a", 0) + self.answers.get("b", 0)


def choose(rows: list[Row], labelled: set[str], limit: int = PAIRS_SHOWN) -> tuple[list[Row], str]:
    """Choose the pairs that the page shows, and say by which rule.

    The first by a hash of the pair id, half of each mode where both are there; labelled pairs only, once labels exist.
    """
    pool = [row for row in rows if row["pair_id"] in labelled] or rows
    ordered = sorted(pool, key=lambda row: content_id("report/pairs", row["pair_id"]))
    modes = [mode for mode in MODES if any(row["mode"] == mode for row in ordered)]
    chosen: list[Row] = []
    for place, mode in enumerate(modes):
        share = -(-(limit - len(chosen)) // (len(modes) - place))
        chosen += [row for row in ordered if row["mode"] == mode][:share]
    among = f"{len(pool)} labelled pairs" if labelled else f"{len(pool)} pairs"
    halves = ", half of them guided and half independent" if len(modes) > 1 else ""
    return chosen, f"The first {len(chosen)} of {among} by a hash of the pair's id{halves}, so nobody chose them."


def read_pairs(project: Project, shelf: Shelf, segment_s: float) -> Pairs:
    """Read pairs and their latest frozen labels, and copy the videos that are shown.

    Args:
        project: the project.
        shelf: where the view copies go.
        segment_s: segment length in seconds where no labels are frozen yet.
    """
    rows = read_table(project.pairs_table)
    clips = len(read_table(project.clips_table))
    frozen = (project.snapshots / "latest.json").exists()
    snapshot = load_snapshot(latest_snapshot(project)) if frozen else None
    labels = snapshot.rows if snapshot else {}
    length_s = snapshot.segment_s if snapshot else segment_s
    chosen, rule = choose(rows, {str(row["pair_id"]) for row in rows} & set(labels))
    made = (_show(project, row, labels.get(row["pair_id"]), length_s, shelf) for row in track(chosen, "report: pairs"))
    shown = [pair for pair in made if pair]
    answers = Counter(answer or UNLABELLED for found in labels.values() for answer in found.segment_answers)
    modes = Counter(str(row["mode"]) for row in rows)
    return Pairs(clips, dict(modes), {key: answers[key] for key in ANSWERS if answers[key]}, snapshot, shown, rule)


def _show(project: Project, row: Row, labels: PairLabels | None, segment_s: float, shelf: Shelf) -> ShownPair | None:
    pair_id = str(row["pair_id"])
    try:
        folder = inside(project.pairs, pair_id)
        clip = inside(project.clips, f"{row['clip_id']}/clip.mp4")
    except ProjectError as error:
        warn(f"{error}; the report leaves the pair out")
        return None
    a, b = shelf.show(folder / "a.mp4"), shelf.show(folder / "b.mp4")
    if a is None or b is None:
        return None
    return ShownPair(
        pair_id=pair_id,
        caption=str(row["caption"]),
        mode=str(row["mode"]),
        eta=row.get("eta"),
        a=a,
        b=b,
        source=shelf.show(clip) if clip.is_file() else None,
        segments=_segments(a, labels, segment_s),
        clip_answer=labels.clip_answer if labels else None,
    )


def _segments(video: Shown, labels: PairLabels | None, segment_s: float) -> list[Segment]:
    try:
        grid = SegmentGrid(video.frames, video.fps, segment_s)
    except ConfigError:  # shorter than one segment: nothing to draw a timeline of
        return []
    answers = labels.segment_answers if labels else ()
    given = [answers[place] if place < len(answers) else None for place in range(grid.num_segments)]
    return [Segment(*grid.bounds_s(place), answer or UNLABELLED) for place, answer in enumerate(given)]
