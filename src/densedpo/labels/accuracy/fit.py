"""Fits what a judge's confidence is worth, where people (or known answers) judged the same segments.

Two fits on (strength, answer, reference): the tie threshold with the best accuracy with ties (arXiv 2305.14324), and
monotone maps from strength to the probability of being right and to the weight of a label. What is said of them is
measured by five-fold cross-fitting over pairs: every pair is judged by a fit that has not seen it. The calibration that
is kept uses all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from densedpo.errors import LabelError
from densedpo.intervals import cluster_bootstrap
from densedpo.keys import stream
from densedpo.labels.accuracy.calibration import Calibration, Curve, strength, write_calibration
from densedpo.labels.accuracy.calibration_error import calibration as calibration_error
from densedpo.labels.accuracy.reference import Reference, judge_among, reference
from densedpo.labels.accuracy.table import labels_of
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent
from densedpo.labels.gold import load_gold
from densedpo.labels.reliability import absent, share
from densedpo.labels.store import current_answers
from densedpo.store.project import Project

LEAST_PREFERENCES = 50
LEAST_PAIRS = 20
_LEAST_IN_BLOCK = 10
_FOLDS = 5
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """Answers beside the reference: ``strengths`` [N], labels ``said`` and ``truth`` in {-1, 0, +1} [N], ``pairs``.

    ``pairs`` [N] numbers the pairs from 0, in order of id; ``stated`` says whether strengths are confidences that the
    judge stated.
    """

    strengths: Floats
    said: NDArray[np.int64]
    truth: NDArray[np.int64]
    pairs: NDArray[np.int64]
    stated: bool = True

    def where(self, chosen: Mask | NDArray[np.int64]) -> Sample:
        """Return the chosen answers."""
        return replace(
            self,
            strengths=self.strengths[chosen],
            said=self.said[chosen],
            truth=self.truth[chosen],
            pairs=self.pairs[chosen],
        )


@dataclass(frozen=True)
class Fit:
    """A tie threshold and the maps of ``Calibration``."""

    threshold: float
    right: Curve
    right_tie: Curve
    none: Curve
    weight: Curve


def sample_of(events: Sequence[AnswerEvent], truth: Reference) -> Sample:
    """Return one judge's answers to segments that the reference has, in order of question."""
    by_question = {(event.pair_id, event.segment): event for event in events if event.segment != WHOLE_CLIP}
    said = labels_of(by_question)
    both = sorted(said.keys() & truth.segments.keys())
    return Sample(
        np.array([strength(by_question[question]) for question in both], dtype=np.float64),
        np.array([said[question] for question in both], dtype=np.int64),
        np.array([truth.segments[question] for question in both], dtype=np.int64),
        np.unique([pair_id for pair_id, _ in both], return_inverse=True)[1].astype(np.int64),
        stated=all(by_question[question].confidence is not None for question in both),
    )


def calibrate_judge(project: Project, judge: str | None, against: str, segment_s: float) -> dict[str, Any]:
    """Fit and keep the calibration of a judge (the only one, if none is named); return it as plain values for JSON.

    ``whole_clips`` of its answers are about clips as a whole, which are not calibrated.

    Raises:
        LabelError: as ``judge_among``, ``calibrate`` and ``reference``.
    """
    events = [event for event in current_answers(project.label_store) if event.segment_s == segment_s]
    truth = reference(events, load_gold(project, segment_s), against)
    usable = [event for event in events if event.source == "judge" and event.usable]
    name = judge_among(usable, judge)
    own = [event for event in usable if event.author == name]
    found = calibrate(name, own, truth, segment_s)
    path = write_calibration(project, found)
    whole_clips = sum(event.segment == WHOLE_CLIP for event in own)
    return {**asdict(found), "digest": found.digest, "whole_clips": whole_clips, "file": str(path)}


def calibrate(judge: str, events: Sequence[AnswerEvent], truth: Reference, segment_s: float) -> Calibration:
    """Fit the calibration of one judge from its own current ``events``.

    A threshold that does not surely gain accuracy on unseen pairs is not used: it stays 0.

    Raises:
        LabelError: if too few of its preferences are about segments that the reference has, with the number needed.
    """
    sample = sample_of(events, truth)
    preferences = int((sample.said != 0).sum())
    pairs = len(np.unique(sample.pairs))
    if preferences < LEAST_PREFERENCES or pairs < LEAST_PAIRS:
        raise LabelError(
            f"{judge}: {preferences} of its preferences, in {pairs} pairs, have an answer of {truth.against}; "
            f"at least {LEAST_PREFERENCES} in {LEAST_PAIRS} pairs are needed: label more pairs it has judged, by "
            "segment (answers about whole clips are not calibrated)"
        )
    fit, report = fit_sample(sample), held_out(sample, judge)
    gain = report["gain_by_threshold"]["low"]
    return Calibration(
        judge=judge,
        segment_s=segment_s,
        against=truth.against,
        settings_digests=tuple(sorted({event.settings_digest for event in events})),
        threshold=fit.threshold if gain is not None and gain > 0 else 0.0,
        right=fit.right,
        right_tie=fit.right_tie,
        none=fit.none,
        weight=fit.weight,
        answers=len(sample.said),
        pairs=pairs,
        report=report,
    )


def fit_sample(sample: Sample) -> Fit:
    """Return threshold and maps that fit a sample; a map without answers to fit is 0, which claims nothing."""
    sided, tied = sample.where(sample.said != 0), sample.where(sample.said == 0)
    return Fit(
        threshold=tie_threshold(sided.strengths, sided.said, sided.truth),
        right=monotone(sided.strengths, (sided.said == sided.truth).astype(np.float64)),
        right_tie=monotone(tied.strengths, (tied.truth == 0).astype(np.float64)),
        none=monotone(sided.strengths, (sided.truth == 0).astype(np.float64), increasing=False),
        weight=monotone(sided.strengths, (sided.said * sided.truth).astype(np.float64)),
    )


def tie_threshold(strengths: Floats, said: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return t such that preferences ``said`` with strength < t, taken as ties, are right most often.

    Of equally good thresholds the lowest is taken, half way between two strengths; 0 keeps all.
    """
    levels, place = np.unique(strengths, return_inverse=True)
    if not len(levels):
        return 0.0
    gains = np.bincount(place, weights=(truth == 0).astype(np.float64) - (said == truth), minlength=len(levels))
    best = int(np.argmax(np.concatenate([[0.0], np.cumsum(gains)])))
    if best == 0:
        return 0.0
    if best == len(levels):
        return float(np.nextafter(levels[-1], np.inf))
    return float((levels[best - 1] + levels[best]) / 2)


def monotone(strengths: Floats, values: Floats, *, increasing: bool = True) -> Curve:
    """Return the monotone function of strength with the least squared error, by pooling adjacent violators.

    Answers of equal strength stay together, in blocks of at least ten, so that no end rests on one answer.
    """
    if not len(strengths):
        return Curve((0.0,), (0.0,))
    levels, place = np.unique(strengths, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    block = _blocks(counts)
    weights = np.bincount(block, weights=counts)
    x = np.bincount(block, weights=counts * levels) / weights
    y = np.bincount(block[place], weights=values) / weights
    fitted = isotonic_regression(y, weights=weights, increasing=increasing).x
    return Curve(tuple(map(float, x)), tuple(map(float, fitted)))


def _blocks(counts: Floats) -> NDArray[np.int64]:
    """Return the block of each level: neighbours until there are ten answers; what is left over joins the last."""
    block, number, held = np.zeros(len(counts), dtype=np.int64), 0, 0.0
    for level, count in enumerate(counts):
        block[level] = number
        held += count
        if held >= _LEAST_IN_BLOCK:
            number, held = number + 1, 0.0
    return block if held == 0 else np.minimum(block, max(0, number - 1))


def folds(pairs: NDArray[np.int64], seed: str) -> NDArray[np.int64]:
    """Return the fold of each answer, from 0: pairs are dealt out in a drawn order, so none is in two."""
    count = int(pairs.max(initial=-1)) + 1
    fold_of = np.empty(count, dtype=np.int64)
    fold_of[stream("calibration", "folds", seed, count).permutation(count)] = np.arange(count) % _FOLDS
    return np.asarray(fold_of[pairs])


def held_out(sample: Sample, seed: str) -> dict[str, Any]:
    """Return how fits do on pairs they have not seen, beside what the judge said itself, as plain values for JSON.

    ``label_plain`` and ``label_weighted`` are the mean in [-1, 1] of the reference's label in the direction of the
    preference, over preferences as said and with their weights: how right what the loss is told is.
    """
    fold = folds(sample.pairs, seed)
    labels, right, weights = np.zeros_like(sample.said), np.zeros(len(fold)), np.zeros(len(fold))
    for number in range(_FOLDS):
        fit, unseen = fit_sample(sample.where(fold != number)), sample.where(fold == number)
        labels[fold == number] = np.where(unseen.strengths >= fit.threshold, unseen.said, 0)
        right[fold == number] = fit.right.at(unseen.strengths)
        weights[fold == number] = np.clip(fit.weight.at(unseen.strengths), 0, 1)
    sided = sample.said != 0
    before, after = sample.said == sample.truth, labels == sample.truth
    pairs, sided_pairs = [list(map(str, found.tolist())) for found in (sample.pairs, sample.pairs[sided])]
    agrees = (sample.said * sample.truth)[sided].astype(np.float64)
    hits, stated = before[sided].tolist(), sample.strengths[sided].tolist()
    as_stated = calibration_error(stated, hits, sided_pairs) if sample.stated else calibration_error([], [], [])
    fitted = calibration_error(right[sided].tolist(), hits, sided_pairs)
    return {
        "with_ties_as_said": share(before.tolist(), pairs, "answers").as_dict(),
        "with_ties_by_threshold": share(after.tolist(), pairs, "answers").as_dict(),
        "gain_by_threshold": _mean(after.astype(np.float64) - before, np.ones(len(after)), pairs),
        "label_plain": _mean(agrees, np.ones(len(agrees)), sided_pairs),
        "label_weighted": _mean(agrees * weights[sided], weights[sided], sided_pairs),
        "ece_stated": as_stated["ece"],
        "ece_calibrated": fitted["ece"],
        "ece_by_chance": fitted["ece_by_chance"],
    }


def _mean(values: Floats, weights: Floats, pairs: list[str]) -> dict[str, Any]:
    found = cluster_bootstrap(np.stack([values, weights], axis=1), pairs, seed="calibration")
    if found is None:
        return absent("nothing has a weight", len(values)).as_dict()
    return {"value": found.mean, "low": found.low, "high": found.high, "n": len(values), "undefined": None}
