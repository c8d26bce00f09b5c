"""Simulated annotators: they look at quality alone, never at motion, and answer with a tie band and noise.

An annotator is given the badness (``examiner.Examination.badness``) of both sides over a segment or the whole clip and
nothing else. Any preference for slow clips in their answers therefore comes from the model that made the clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from densedpo.errors import ConfigError
from densedpo.keys import stream

Answer = Literal["a", "b", "tie"]


def choose(
    badness_a: float, badness_b: float, rng: np.random.Generator, *, tie_band: float = 0.15, temperature: float = 0.15
) -> Answer:
    """Return the preferred side: a tie where |d| < tie band, else a with probability sigmoid(d / temperature).

    d = badness_b - badness_a, in nats of artifact (see ``Examination.badness``).
    """
    gap = badness_b - badness_a
    if abs(gap) < tie_band:
        return "tie"
    share_a = 0.5 * (1 + math.tanh(gap / (2 * temperature)))  # the sigmoid, safe for large gaps
    return "a" if rng.uniform() < share_a else "b"


@dataclass(frozen=True)
class SimulatedAnnotator:
    """One annotator; the same seed and question always give the same answer.

    Attributes:
        name: who answers, as stored with each answer; annotators of different names err independently.
        tie_band: badness differences below it are ties; at least 0.
        temperature: of the Bradley-Terry noise; above 0.
        seed: of the noise.
    """

    name: str = "simulated"
    tie_band: float = 0.15
    temperature: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: the tie band is negative or the temperature not above 0.
        """
        if not self.tie_band >= 0:
            raise ConfigError(f"tie_band must be at least 0, got {self.tie_band}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")

    def answer(self, badness_a: float, badness_b: float, pair_id: str, segment: int) -> Answer:
        """Return the annotator's answer on one segment of a pair (or on the whole clip, with a number of its own)."""
        rng = stream(self.seed, "annotator", self.name, pair_id, segment)
        return choose(badness_a, badness_b, rng, tie_band=self.tie_band, temperature=self.temperature)
