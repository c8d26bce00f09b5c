"""What a judge is: something that looks at the same segment of both sides and answers, or says why it cannot.

Judges see frames and perhaps the caption; never ids, modes or seeds. labels/judges/run.py shows them pairs and stores
what they say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from densedpo.errors import LabelError
from densedpo.labels.answers import Answer, Outcome

_MIRRORED: dict[Answer, Answer] = {"a": "b", "b": "a"}


class BudgetError(LabelError):
    """The next question could cost more than is left; nothing was asked, and what was answered is kept."""


class ServiceError(LabelError):
    """The judge's service does not work at the moment; what was answered is kept."""


@dataclass(frozen=True)
class SegmentPair:
    """One segment of both sides: frames uint8 [T, H, W, 3] of equal shape, ``fps``; the caption if it may be seen."""

    frames_a: NDArray[np.uint8]
    frames_b: NDArray[np.uint8]
    fps: float
    caption: str | None = None

    def mirrored(self) -> SegmentPair:
        """Return the same segment with its sides exchanged."""
        return replace(self, frames_a=self.frames_b, frames_b=self.frames_a)


@dataclass(frozen=True)
class Judgement:
    """What a judge said; ``answer`` is None exactly when ``outcome`` is not "ok".

    ``confidence`` is in [0, 1], None where the judge has none that means anything; ``raw`` is what it said word by
    word; ``cost`` is in US dollars; ``calls`` were made for it, ``cached`` answers were known from before.
    """

    answer: Answer | None
    outcome: Outcome = "ok"
    confidence: float | None = None
    reason: str = ""
    raw: str = ""
    cost: float = 0.0
    calls: int = 0
    cached: int = 0

    def mirrored(self) -> Judgement:
        """Return the judgement of the mirrored pair that says the same."""
        return self if self.answer is None else replace(self, answer=_MIRRORED.get(self.answer, self.answer))


@runtime_checkable
class Judge(Protocol):
    """A judge: its name (the author of its answers), the digest of all that shapes its answers, and its judging.

    ``parallel`` is the number of segments that may be judged at the same time, from as many threads.
    """

    @property
    def name(self) -> str:
        """Return the name that answers are stored under."""
        ...

    @property
    def settings_digest(self) -> str:
        """Return the id of the settings that shape the answers: other settings, other digest."""
        ...

    @property
    def parallel(self) -> int:
        """Return how many segments may be judged at the same time."""
        ...

    def judge(self, pair: SegmentPair) -> Judgement:
        """Return the judgement of one segment; failures are outcomes, not exceptions.

        Raises:
            BudgetError: if the judge may not ask any more.
        """
        ...


@runtime_checkable
class OrderedJudge(Judge, Protocol):
    """A judge whose answer may depend on which side it sees first, and that can be asked in one order alone."""

    def judge_in_order(self, pair: SegmentPair) -> Judgement:
        """Return what is said when ``frames_a`` comes first and nothing is asked the other way round."""
        ...
