"""Questions and settings for tests that ask the fake endpoint."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np

from densedpo.config import JudgeSettings, parse_settings
from densedpo.labels.judges.answerer import Image, Question
from densedpo.labels.judges.question import answer_schema


@functools.cache
def picture() -> Image:
    done, data = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))
    assert done
    return Image(data.tobytes(), "image/png", "black")


def question(number: int = 0, max_output_tokens: int = 100) -> Question:
    parts = (f"question {number}", picture(), picture(), picture(), picture())
    return Question(f"q{number}", "You judge.", parts, answer_schema(), max_output_tokens)


def settings(url: str, **changes: Any) -> JudgeSettings:
    values = {"base_url": url, "model": "tiny", "timeout_s": 20.0, "parallel": 8, **changes}
    return parse_settings({"judge": values}).judge
