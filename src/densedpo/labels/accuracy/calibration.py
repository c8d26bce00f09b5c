"""What a judge's confidence is worth: a fitted calibration, where it is kept, and how it turns answers into weights.

Fitted by labels/accuracy/fit.py where people (or known answers) judged too, kept in ``labels/calibration``, applied to
all of the judge's answers when labels are frozen (labels/snapshot.py), so that confidence reaches the loss as weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from densedpo.errors import LabelError
from densedpo.keys import content_id
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent, Question
from densedpo.store.files import read_object, write_json
from densedpo.store.project import Project

SCHEMA_VERSION = 1
Confidence = Literal["calibrated", "weights", "stated", "ignored"]
CONFIDENCES: tuple[Confidence, ...] = get_args(Confidence)


@dataclass(frozen=True)
class Curve:
    """A function of strength, linear between the knots ``x`` (in order, at least one) and constant beyond them."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def at(self, strengths: ArrayLike) -> NDArray[np.float64]:
        """Return its values."""
        return np.asarray(np.interp(np.asarray(strengths, dtype=np.float64), self.x, self.y))


@dataclass(frozen=True)
class Calibration:
    """What the answers of one judge to segments of ``segment_s`` seconds are worth, by their ``strength``.

    Preferences weaker than ``threshold`` are ties. ``right`` and ``right_tie`` are the probabilities that the reference
    says the same, of a preference and of a tie; ``none`` that it has no preference where the judge has one. ``weight``
    is what is expected of the reference's label in {-1, 0, +1} in the direction of a preference: 2 p - 1 where the
    reference has no ties. All grow with strength but ``none``, which falls. Fitted on ``answers`` answers in ``pairs``
    pairs that the judge gave with settings ``settings_digests``; ``report`` says how it does where it was not fitted.
    """

    judge: str
    segment_s: float
    against: str
    settings_digests: tuple[str, ...]
    threshold: float
    right: Curve
    right_tie: Curve
    none: Curve
    weight: Curve
    answers: int
    pairs: int
    report: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Return the id of what it says."""
        return content_id(asdict(self))


def strength(event: AnswerEvent) -> float:
    """Return how strongly an answer is meant: the confidence, else the size of the ``margin`` in ``raw``, else 0.

    A tie is meant the less, the larger the margin is: minus its size.
    """
    if event.confidence is not None:
        return event.confidence
    try:
        kept = json.loads(event.raw) if event.raw else None
    except ValueError:
        return 0.0
    margin = kept.get("margin") if isinstance(kept, dict) else None
    size = abs(float(margin)) if isinstance(margin, int | float) and np.isfinite(margin) else 0.0
    return size if event.answer in ("a", "b") else -size


def write_calibration(project: Project, calibration: Calibration) -> Path:
    """Keep a calibration in place of an earlier one of this judge; return its file."""
    path = calibration_file(project, calibration.judge, calibration.segment_s)
    write_json(path, {"schema_version": SCHEMA_VERSION, **asdict(calibration), "digest": calibration.digest})
    return path


def load_calibration(project: Project, judge: str, segment_s: float) -> Calibration | None:
    """Return the calibration of a judge, None if there is none.

    Raises:
        LabelError: if the file is damaged or was changed.
    """
    path = calibration_file(project, judge, segment_s)
    if not path.exists():
        return None
    values = read_object(path)
    version, digest = values.pop("schema_version", None), values.pop("digest", None)
    try:
        curves = {name: Curve(**{k: tuple(v) for k, v in values[name].items()}) for name in _CURVES}
        found = Calibration(**{**values, **curves, "settings_digests": tuple(values["settings_digests"])})
    except (TypeError, KeyError, AttributeError):
        found = None
    if version != SCHEMA_VERSION or found is None or found.digest != digest:
        raise LabelError(f"{path}: damaged or of another version; run `densedpo label calibrate --judge {judge}` again")
    return found


_CURVES = ("right", "right_tie", "none", "weight")


def calibration_file(project: Project, judge: str, segment_s: float) -> Path:
    """Return where the calibration of a judge lies."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", judge)[:60]
    return project.labels / "calibration" / f"{name}-{content_id(judge, segment_s, length=8)}.json"


def weighted(
    events: Sequence[AnswerEvent], confidence: Confidence, calibration: Calibration | None
) -> tuple[list[AnswerEvent], dict[Question, float]]:
    """Return one judge's answers as they shall count, and the weights in (0, 1] of its preferences.

    ``calibrated``: what is weaker than the threshold is a tie, the others weigh what they are worth; ``weights``: the
    same without the threshold; both change nothing where there is no calibration. ``stated``: a preference weighs its
    confidence as the judge states it. ``ignored``: all weigh 1. A preference that is worth nothing is a tie. Answers
    about whole clips are not calibrated: there they weigh 1.

    Raises:
        LabelError: if answers were given with settings that the calibration does not know.
    """
    fitted = calibration if confidence in ("calibrated", "weights") else None
    if fitted is not None:
        strangers = [event for event in events if event.settings_digest not in fitted.settings_digests]
        if strangers:
            raise LabelError(
                f"{len(strangers)} answers of {fitted.judge} were given with settings that its calibration does not "
                f"know; run `densedpo label calibrate --judge {fitted.judge} --against {fitted.against}` again"
            )
    elif confidence != "stated":
        return list(events), {}
    counted, weights = [], {}
    for event in events:
        if event.answer not in ("a", "b") or (fitted is not None and event.segment == WHOLE_CLIP):
            counted.append(event)
            continue
        worth = 1.0 if event.confidence is None else event.confidence
        if fitted is not None:
            worth = float(fitted.weight.at(strength(event)))
            worth = 0.0 if confidence == "calibrated" and strength(event) < fitted.threshold else min(worth, 1.0)
        if worth > 0:
            weights[event.pair_id, event.segment] = worth
        counted.append(event if worth > 0 else replace(event, answer="tie"))
    return counted, weights
