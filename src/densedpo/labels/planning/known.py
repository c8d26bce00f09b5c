"""What is known of a judge's labels where people answered too, without having learned it from those very answers.

Beliefs in labels rest on calibrations that were fitted to people's answers. Comparing such beliefs with the same
answers would flatter the judge, so each pair's beliefs here come from calibrations fitted without it, in five parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from densedpo.labels.accuracy.calibration import Calibration, Confidence
from densedpo.labels.accuracy.fit import fit_sample, folds, sample_of
from densedpo.labels.accuracy.reference import Reference
from densedpo.labels.answers import AnswerEvent, Question
from densedpo.labels.planning.curve import Known
from densedpo.labels.planning.doubt import Belief, beliefs


def known_labels(
    judge: str,
    events: Sequence[AnswerEvent],
    calibrations: Mapping[str, Calibration],
    confidence: Confidence,
    truth: Reference,
) -> Known:
    """Return the labels of ``judge`` on segments that the reference has: beliefs, and whether they were right.

    Args:
        judge: whose labels they are.
        events: current answers of all judges on one segment length.
        calibrations: by judge, where there is one.
        confidence: as of ``beliefs``.
        truth: the reference.
    """
    names = sorted({pair_id for pair_id, _ in truth.segments})
    parts = folds(np.arange(len(names)), judge)
    believed: dict[Question, Belief] = {}
    for part in np.unique(parts).tolist():
        inside = {name for name, its_part in zip(names, parts.tolist(), strict=True) if its_part == part}
        others = replace(truth, segments={q: label for q, label in truth.segments.items() if q[0] not in inside})
        refitted = {name: _refitted(fitted, events, others) for name, fitted in calibrations.items()}
        asked = [event for event in events if event.pair_id in inside]
        believed |= beliefs(judge, asked, refitted, confidence)
    both = sorted(q for q, item in believed.items() if item.label is not None and q in truth.segments)
    _, pairs = np.unique([pair_id for pair_id, _ in both], return_inverse=True)
    return Known(
        np.array([believed[question].belief for question in both], dtype=np.float64),
        np.array([believed[question].label == truth.segments[question] for question in both], dtype=bool),
        np.asarray(pairs, dtype=np.int64),
    )


def _refitted(fitted: Calibration, events: Sequence[AnswerEvent], truth: Reference) -> Calibration:
    own = [event for event in events if event.author == fitted.judge and event.usable]
    fit = fit_sample(sample_of(own, truth))
    return replace(fitted, right=fit.right, right_tie=fit.right_tie, none=fit.none, weight=fit.weight)
