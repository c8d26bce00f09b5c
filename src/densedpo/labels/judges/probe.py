"""The probe of an endpoint, before any money is spent: does it keep to the schema, see the images, mind their order?

Two questions of the very form that is asked later, about a small drawn clip and a ruined copy of it. The first also
asks for a code that stands in the schema and in no words, so only an endpoint that enforces schemas gives it; other
ways to ask for structured output are tried in turn, words alone last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.config import JudgeSettings
from densedpo.errors import ConfigError
from densedpo.keys import content_id, stream
from densedpo.labels.answers import Side
from densedpo.labels.judges.answerer import Answerer, Question, Reply, ReplyOutcome
from densedpo.labels.judges.asking import instructions, make_question
from densedpo.labels.judges.base import SegmentPair
from densedpo.labels.judges.images import MOST_FRAMES, SegmentImages
from densedpo.labels.judges.question import Malformed, Said, read_answer
from densedpo.labels.judges.wire import StructuredMode, one_line

VERSION = 1
MODES: tuple[StructuredMode, ...] = ("json_schema", "structured_outputs", "text")
_CODE = content_id("judge probe", VERSION, length=8)
_SIZE_PX = 256
_ENFORCED = "answers keep to the schema, asked for by {}"
_IN_WORDS = "the endpoint does not enforce schemas, but answers with clean JSON when told in words; answers are checked"
_NO_FORM = "no answer of the right form ({}); {}"
_REMEDIES: dict[ReplyOutcome, str] = {
    "ok": "use a model that can answer in JSON, or a server that enforces schemas",
    "refused": "use a model that takes such questions",
    "truncated": "raise judge.max_output_tokens: models that think aloud need more",
    "failed": "see to the service, then repeat the command",
}
_SEEN = "of a clean and a ruined clip it prefers the clean one"
_UNSEEN = "of a clean and a ruined clip it says {}; use a model that takes several images, and check the server's limit"
_FLIPS = "with the clips exchanged its answer flips"
_FIXED = "with the clips exchanged it says {} after {}; use a model that minds the order of images, or another layout"


@dataclass(frozen=True)
class Check:
    """One thing the endpoint must be able to do, whether it is, and a sentence that says so or what to do."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Probe:
    """What was found: the mode to ask in, the checks, and what finding out took (``cost`` in US dollars)."""

    mode: StructuredMode
    checks: tuple[Check, ...]
    calls: int
    cached: int
    cost: float

    @property
    def passed(self) -> bool:
        """Whether the endpoint can be used."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        checks = [{"name": item.name, "passed": item.passed, "sentence": item.sentence} for item in self.checks]
        told = {"mode": self.mode, "calls": self.calls, "cached": self.cached, "cost": self.cost}
        return {"version": VERSION, "passed": self.passed, "checks": checks, **told}


def probe(
    in_mode: Callable[[StructuredMode], Answerer],
    settings: JudgeSettings,
    *,
    shown_s: float = 1.0,
    modes: Sequence[StructuredMode] = MODES,
) -> Probe:
    """Ask the answerer that ``in_mode`` gives for a mode at least two questions, at most one for each mode and one.

    ``shown_s`` is the length of a segment in seconds: the probe shows as many images as one takes, or, where whole
    clips are judged, as many as are ever shown.

    Raises:
        BudgetError: if a question could cost more than is left.
        ConfigError: if the service refuses the key, the model or the request in every mode.
    """
    system = instructions(settings.prompt_file)
    images = SegmentImages(_drawn_pair(settings, shown_s), settings)
    replies: list[Reply] = []

    def ask(mode: StructuredMode, first: Side, code: str | None = None) -> Said | Malformed:
        question = make_question(system, images.parts(first), settings, code=code)
        reply = _ask(in_mode(mode), question, mode == modes[-1])
        replies.append(reply)
        said = read_answer(reply.text, code) if reply.outcome == "ok" else Malformed(reply.why)
        if isinstance(said, Malformed):
            begin = f"; it said: {one_line(reply.text, 80)}" if reply.outcome == "ok" else ""
            return Malformed(_NO_FORM.format(f"{said.why}{begin}", _REMEDIES[reply.outcome]))
        return said

    checks: list[Check] = []
    for mode in modes:
        clean_first = ask(mode, "a", None if mode == "text" else _CODE)
        checks = _checks(mode, clean_first, ask(mode, "b") if isinstance(clean_first, Said) else clean_first)
        if isinstance(clean_first, Said):
            break
    calls, cached = sum(reply.calls for reply in replies), sum(reply.cached for reply in replies)
    return Probe(mode, tuple(checks), calls, cached, sum(reply.cost for reply in replies))


def _ask(answerer: Answerer, question: Question, last: bool) -> Reply:
    """Ask; a service that refuses the way of asking has not refused the next one."""
    try:
        return answerer.ask(question)
    except ConfigError as error:
        if last:
            raise
        return Reply("failed", why=str(error), calls=1)


def _checks(mode: StructuredMode, clean_first: Said | Malformed, clean_second: Said | Malformed) -> list[Check]:
    for said in (clean_first, clean_second):
        if isinstance(said, Malformed):
            return [Check("schema", False, said.why)]
    assert isinstance(clean_first, Said) and isinstance(clean_second, Said)
    first, second = clean_first.choice, clean_second.choice
    seen, flips = first == "first", {first, second} == {"first", "second"}
    return [
        Check("schema", True, _IN_WORDS if mode == "text" else _ENFORCED.format(mode)),
        Check("images", seen, _SEEN if seen else _UNSEEN.format(first)),
        Check("order", flips, _FLIPS if flips else _FIXED.format(second, first)),
    ]


def _drawn_pair(settings: JudgeSettings, shown_s: float) -> SegmentPair:
    """Return a clean clip and its ruin, with as many frames as will be shown of ``shown_s`` seconds."""
    wanted = MOST_FRAMES if settings.ask == "clip" else round(shown_s * settings.frames_per_s)
    count = min(max(wanted, 2), MOST_FRAMES)
    clean = np.stack([_drawn(index / (count - 1)) for index in range(count)])
    ruined = np.stack([_ruined(frame, index) for index, frame in enumerate(clean)])
    return SegmentPair(clean, ruined, settings.frames_per_s)


def _drawn(moment: float) -> NDArray[np.uint8]:
    """Return a sharp picture of a ball that rolls past a tiled wall; ``moment`` runs from 0 to 1."""
    rows, columns = np.mgrid[:_SIZE_PX, :_SIZE_PX]
    tiles = 150 + 40 * ((rows // 16 + columns // 16) % 2) - rows / 8
    picture = np.stack([tiles, tiles * 0.9, tiles * 0.75], axis=-1).astype(np.uint8)
    centre = (round(64 + 128 * moment), 170)
    cv2.circle(picture, centre, 40, (200, 40, 40), -1, cv2.LINE_AA)
    cv2.line(picture, (centre[0] - 28, 170), (centre[0] + 28, 170), (250, 240, 230), 5, cv2.LINE_AA)
    return picture


def _ruined(frame: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    """Return the frame heavily blurred, with holes that jump about, flickering in brightness."""
    broken = frame.copy()
    for top, left in stream("judge probe", "holes", index).integers(0, _SIZE_PX - 80, (4, 2)):
        broken[top : top + 80, left : left + 80] = 128
    soft = cv2.GaussianBlur(broken, (0, 0), 7.0).astype(np.float64)
    return np.clip(soft * (0.6 if index % 2 else 1.2), 0, 255).astype(np.uint8)
