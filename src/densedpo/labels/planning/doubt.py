"""How far each of a judge's labels can be believed: its own confidence, and what other judges say of the same segment.

Feeds labels/planning/plan.py, which sends people where belief is low.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densedpo.labels.accuracy.calibration import Calibration, Confidence, strength, weighted
from densedpo.labels.accuracy.position import torn
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent, Question
from densedpo.labels.consensus import label_of

_CLASSES = (-1, 0, 1)
_UNKNOWN = 0.5
_SUREST = 0.95


@dataclass(frozen=True)
class Belief:
    """A judge's label of one segment (None: it said nothing usable), belief in it in [0, 1], and why it is doubted."""

    label: int | None
    belief: float
    why: str


def beliefs(
    judge: str, events: Sequence[AnswerEvent], calibrations: Mapping[str, Calibration], confidence: Confidence
) -> dict[Question, Belief]:
    """Return by segment what ``judge`` says, as it would be frozen, and how far to believe it.

    Each judge's answer is right with the probability that its calibration says, else as stated, else 1/2. Of several
    judges, belief is the posterior probability of the judge's own class over {a, none, b}, as if they erred
    independently and each wrong class were equally likely; they do not, so it ranks and is no probability (the plan
    fits that to people's answers).

    Args:
        judge: whose labels they are.
        events: current answers of all judges on one segment length.
        calibrations: by judge, where there is one.
        confidence: how the judge's labels are weighed when they are frozen; the others' are taken as calibrated.
    """
    voices: dict[Question, list[tuple[str, int, float]]] = {}
    doubts: dict[Question, str] = {}
    for name in sorted({event.author for event in events}):
        own = [event for event in events if event.author == name and event.segment != WHOLE_CLIP]
        usable = [event for event in own if event.usable and event.answer != "cannot_judge"]
        rule: Confidence = confidence if name == judge else "calibrated"
        fitted = calibrations.get(name)
        for event, counted in zip(usable, weighted(usable, rule, fitted)[0], strict=True):
            question, label = (event.pair_id, event.segment), label_of(counted.answer or "tie")
            voices.setdefault(question, []).append((name, label, _right(event, label, fitted)))
            if name == judge:
                doubts[question] = _doubt(event, label)
        if name == judge:
            spoken = {(event.pair_id, event.segment) for event in usable}
            silent = [event for event in own if (event.pair_id, event.segment) not in spoken]
            doubts.update({(event.pair_id, event.segment): _silence(event) for event in silent})
    return {question: _belief(judge, voices.get(question, []), why) for question, why in doubts.items()}


def _right(event: AnswerEvent, label: int, fitted: Calibration | None) -> float:
    if fitted is None:
        return _UNKNOWN if event.confidence is None else event.confidence
    preferred = event.answer in ("a", "b")
    curve = fitted.right_tie if not preferred else fitted.right if label else fitted.none
    return float(curve.at(strength(event)))


def _doubt(event: AnswerEvent, label: int) -> str:
    if torn(event):
        return "its orders disagree"
    return "its preference is weak" if label_of(event.answer or "tie") != label else "uncertain"


def _silence(event: AnswerEvent) -> str:
    return str(event.answer or event.outcome).replace("_", " ") if event.trusted else "untrusted"


def _belief(judge: str, voices: Sequence[tuple[str, int, float]], why: str) -> Belief:
    own = [label for name, label, _ in voices if name == judge]
    if not own:
        return Belief(None, 0.0, why)
    if len(voices) == 1:
        return Belief(own[0], voices[0][2], why)
    logs = np.zeros(len(_CLASSES))
    for _, label, right in voices:
        sure = min(max(right, 1 - _SUREST), _SUREST)
        logs += np.log(np.where(np.equal(_CLASSES, label), sure, (1 - sure) / 2))
    shares = np.exp(logs - logs.max())
    belief = float(shares[_CLASSES.index(own[0])] / shares.sum())
    return Belief(own[0], belief, why if len({label for _, label, _ in voices}) == 1 else "judges disagree")
