"""Answerers for tests that need no service: they say what a function makes of each question, and remember it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.keys import stream
from densedpo.labels.judges.answerer import Image, Question, Reply
from densedpo.labels.judges.base import SegmentPair

Frames = NDArray[np.uint8]


def saying(choice: str, confidence: float = 0.75, reason: str = "seen", **more: str) -> str:
    """Return a well-formed answer."""
    return json.dumps({**more, "reason": reason, "answer": choice, "confidence": confidence})


@dataclass
class Double:
    """Answers each question with ``says(question)``: a text, or a whole reply."""

    says: Callable[[Question], str | Reply]
    model: str = "double"
    asked: list[Question] = field(default_factory=list)

    def ask(self, question: Question) -> Reply:
        self.asked.append(question)
        said = self.says(question)
        return said if isinstance(said, Reply) else Reply("ok", said, cost=0.25, calls=1)


class Together(Double):
    """The same, asked several questions at once."""

    def ask_all(self, questions: Sequence[Question]) -> list[Reply]:
        return [self.ask(question) for question in questions]


def images_of(question: Question) -> list[Image]:
    return [part for part in question.parts if isinstance(part, Image)]


def pixels_of(image: Image) -> Frames:
    decoded = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8)


def halves(question: Question) -> tuple[list[Frames], list[Frames]]:
    """Return the decoded images of the first clip and those of the second (layouts ``separate`` and ``grid``)."""
    shown = [pixels_of(image) for image in images_of(question)]
    return shown[: len(shown) // 2], shown[len(shown) // 2 :]


def brighter(question: Question) -> str:
    """Prefer the brighter clip: a judge that looks at the images and at nothing else."""
    first, second = (float(np.mean([frame.mean() for frame in clip])) for clip in halves(question))
    return saying("tie" if abs(first - second) < 4 else "first" if first > second else "second")


def noise_pair(frames: int = 8, height: int = 24, width: int = 40, shift: int = 60, seed: int = 0) -> SegmentPair:
    """Return two clips of which a is brighter by ``shift`` levels; a smooth picture, so that JPEG keeps it."""
    rng = stream("judges", "pair", seed)
    small = rng.integers(0, 120, (frames, 3, 5, 3)).astype(np.uint8)
    b = np.stack([cv2.resize(frame, (width, height)) for frame in small]).astype(np.uint8)
    return SegmentPair((b + shift).astype(np.uint8), b, 8.0, "a red kite")
