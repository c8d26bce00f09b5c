"""What a judge is: something that looks at the same segment of both sides and answers, or says why it cannot.

Judges see frames and perhaps the caption; never ids, modes or seeds. labels/judges/run.py shows them pairs and stores
what they say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from densedpo.labels.answers import Answer, Outcome


@dataclass(frozen=True)
class SegmentPair:
    """One segment of both sides: frames uint8 [T, H, W, 3] of equal shape, ``fps``; the caption if it may be seen."""

    frames_a: NDArray[np.uint8]
    frames_b: NDArray[np.uint8]
    fps: float
    caption: str | None = None


@dataclass(frozen=True)
class Judgement:
    """What a judge said; ``answer`` is None exactly when ``outcome`` is not "ok".

    ``confidence`` is in [0, 1], None where the judge has none that means anything; ``raw`` is what it said word by
    word; ``cost`` is in US dollars.
    """

    answer: Answer | None
    outcome: Outcome = "ok"
    confidence: float | None = None
    reason: str = ""
    raw: str = ""
    cost: float = 0.0


@runtime_checkable
class Judge(Protocol):
    """A judge: its name (the author of its answers), the digest of all that shapes its answers, and its judging."""

    @property
    def name(self) -> str:
        """Return the name that answers are stored under."""
        ...

    @property
    def settings_digest(self) -> str:
        """Return the id of the settings that shape the answers: other settings, other digest."""
        ...

    def judge(self, pair: SegmentPair) -> Judgement:
        """Return the judgement of one segment; failures are outcomes, not exceptions."""
        ...
