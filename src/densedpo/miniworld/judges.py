"""Simulated machine judges: the ground-truth examiner with failings that real judges have, planted and of known size.

They implement the interface of labels/judges/base.py and go through the same stage and store as real ones, so that the
measures of labels/accuracy/table.py can be tried on judges whose failings are known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from densedpo.errors import ConfigError
from densedpo.keys import content_id, stream, stream_seed
from densedpo.labels.answers import Answer, Side
from densedpo.labels.judges.base import Judgement, SegmentPair
from densedpo.labels.judges.images import frames_digest
from densedpo.labels.judges.votes import Vote, agreed
from densedpo.miniworld.examiner import examine

_VERSION = 1


@dataclass(frozen=True)
class NoisyJudge:
    """A judge that sees the badness of each side with an error, and may favour the side it sees first.

    Seen badness of a side is ``Examination.badness`` of the frames shown, plus ``noise`` sqrt(seconds shown) n with n
    standard normal, drawn by the frames: longer clips are harder to survey, equal frames look equal, and asking again
    or in the other order shows the same. The first side leads by (seen badness of the second) - (of the first)
    + ``position_bias``; it is preferred where the lead is above ``tie_band``, the second where it is below minus that.
    The stated confidence is 1 / (1 + exp(-|lead| / ``temperature``)), in [1/2, 1]: it grows with the lead, and is no
    calibrated probability.

    Attributes:
        name: the author of its answers.
        noise: of a side of one second, in nats of artifact; at least 0.
        position_bias: in nats of artifact; above 0 favours the first.
        orders: ``both`` with disagreement a tie, or ``one``, drawn by the frames.
        tie_band: in nats of artifact.
        temperature: in nats of artifact; above 0.
        seed: of the noise.
        parallel: always 1.
    """

    name: str = "noisy"
    noise: float = 0.3
    position_bias: float = 0.0
    orders: Literal["both", "one"] = "both"
    tie_band: float = 0.15
    temperature: float = 0.3
    seed: int = 0
    parallel: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if the noise or tie band is negative or the temperature not above 0.
        """
        if not (self.noise >= 0 and self.tie_band >= 0 and self.temperature > 0):
            raise ConfigError(
                f"noise and tie_band must be at least 0 and temperature above 0, got {self.noise:g}, "
                f"{self.tie_band:g} and {self.temperature:g}"
            )

    @property
    def settings_digest(self) -> str:
        """Return the id of all that shapes the answers."""
        return content_id("noisy judge", _VERSION, vars(self))

    def judge(self, pair: SegmentPair) -> Judgement:
        """Return the judgement; fewer than two frames cannot be judged.

        Raises:
            ConfigError: if the caption is not one of the drawn world's.
        """
        if self.orders == "both":
            return self._judged(pair, ("a", "b"))
        drawn = stream_seed("judge", "order", frames_digest(pair.frames_a), frames_digest(pair.frames_b))
        return self._judged(pair, ("a",) if drawn % 2 == 0 else ("b",))

    def judge_in_order(self, pair: SegmentPair) -> Judgement:
        """Return what is said when ``frames_a`` comes first and nothing is asked the other way round.

        Raises:
            ConfigError: as ``judge``.
        """
        return self._judged(pair, ("a",))

    def _judged(self, pair: SegmentPair, firsts: Sequence[Side]) -> Judgement:
        if min(len(pair.frames_a), len(pair.frames_b)) < 2:
            return Judgement("cannot_judge", reason="fewer than two frames: nothing to compare over time")
        lead_a = self._seen(pair.mirrored()) - self._seen(pair)
        votes = [self._vote(lead_a, first) for first in firsts]
        asked = [
            {"first": first, "answer": vote.answer, "confidence": vote.confidence}
            for first, vote in zip(firsts, votes, strict=True)
        ]
        vote = agreed(votes)
        return Judgement(vote.answer, "ok", vote.confidence, vote.reason, json.dumps({"asked": asked}))

    def _seen(self, pair: SegmentPair) -> float:
        """Return the badness of side a as this judge sees it."""
        if pair.caption is None:
            raise ConfigError("simulated judges need the caption, which says what should be seen")
        frames = pair.frames_a
        error = stream(self.seed, "noisy judge", frames_digest(frames)).normal()
        seconds = len(frames) / pair.fps
        return examine(frames, pair.caption, pair.fps).badness() + self.noise * math.sqrt(seconds) * float(error)

    def _vote(self, lead_a: float, first: Side) -> Vote:
        lead = (lead_a if first == "a" else -lead_a) + self.position_bias
        other: Side = "b" if first == "a" else "a"
        reason = f"the first leads by {lead:+.3f}, tie within {self.tie_band:g}"
        if abs(lead) <= self.tie_band:
            return Vote("tie", 1 - abs(lead) / (2 * self.tie_band or 1), reason)
        answer: Answer = first if lead > 0 else other
        return Vote(answer, 1 / (1 + math.exp(-abs(lead) / self.temperature)), reason)
