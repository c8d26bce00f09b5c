"""The judge that asks a vision-language model: both orders of the sides, and a preference only if they agree.

Frames become images (images.py), images and words questions (asking.py), replies one judgement (question.py, votes.py).
Which model answers, and how it is reached, is the answerer's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from densedpo.config import JudgeSettings
from densedpo.keys import content_id, stream_seed
from densedpo.labels.answers import Side
from densedpo.labels.judges.answerer import Answerer, ManyAnswerer, Question
from densedpo.labels.judges.asking import checked_dimensions, instructions, make_question, temperature
from densedpo.labels.judges.base import Judgement, SegmentPair
from densedpo.labels.judges.images import JPEG_QUALITY, MOST_FRAMES, SegmentImages, frames_digest
from densedpo.labels.judges.question import SCHEMA_VERSION
from densedpo.labels.judges.votes import Heard, judgement_of
from densedpo.labels.judges.wire import StructuredMode

_VERSION = 1
Place = tuple[str, Side]


@dataclass(frozen=True)
class VlmJudge:
    """A vision-language model as a judge.

    ``kind`` is how the model is reached ("vlm" by an endpoint, "local" in this process) and ``structured`` how the
    endpoint is told the schema; both come from whoever made the answerer.

    Raises:
        ConfigError: if the prompt file or a dimension cannot be used.
    """

    answerer: Answerer
    settings: JudgeSettings
    kind: str = "vlm"
    structured: StructuredMode = "json_schema"

    def __post_init__(self) -> None:
        """Read the prompt file and check the dimensions."""
        assert self._dimensions and self._system

    @property
    def name(self) -> str:
        """Return the name that answers are stored under."""
        return f"{self.kind}:{self.answerer.model}"

    @property
    def parallel(self) -> int:
        """Return how many segments may be judged at the same time.

        Where the answerer takes many, a few more than their questions fill it: the next is ready when a reply comes.
        """
        if self._many is None:
            return self.settings.parallel
        together = self.settings.samples * (2 if self.settings.orders == "both" else 1)
        return math.ceil(self.settings.parallel / together) + self.settings.parallel // 16

    @cached_property
    def settings_digest(self) -> str:
        """Return the id of all that shapes the answers: every word, what is shown, and how it is asked."""
        settings = self.settings
        shown = (settings.frames_per_s, MOST_FRAMES, settings.layout, settings.max_side_px, settings.show_caption)
        encoded = (settings.image_format, JPEG_QUALITY)
        asked = (settings.orders, settings.samples, temperature(settings), self._dimensions, self.structured)
        return content_id("vlm", _VERSION, SCHEMA_VERSION, self._system, shown, encoded, asked)

    @cached_property
    def _system(self) -> str:
        return instructions(self.settings.prompt_file)

    @cached_property
    def _many(self) -> ManyAnswerer | None:
        return self.answerer if isinstance(self.answerer, ManyAnswerer) else None

    @cached_property
    def _dimensions(self) -> tuple[str, ...]:
        return checked_dimensions(self.settings.dimensions)

    def judge(self, pair: SegmentPair) -> Judgement:
        """Return the judgement of one segment; fewer than two frames cannot be judged and are not asked about.

        The questions of a dimension are asked at the same time if the answerer takes many. Asking ends with the first
        reply that is of no use: it decides the outcome.

        Raises:
            BudgetError: if the next question could cost more than is left.
        """
        return self._judge(pair, self._firsts(pair))

    def judge_in_order(self, pair: SegmentPair) -> Judgement:
        """Return what is said when ``frames_a`` comes first and nothing is asked the other way round.

        Raises:
            BudgetError: if the next question could cost more than is left.
        """
        return self._judge(pair, ("a",))

    def questions(self, pair: SegmentPair) -> list[Question]:
        """Return all that ``judge`` may ask about one segment; nothing where it abstains."""
        if not _comparable(pair):
            return []
        return [question for asked in self._asked(pair, self._firsts(pair)) for _, question in asked]

    def _judge(self, pair: SegmentPair, firsts: Sequence[Side]) -> Judgement:
        if not _comparable(pair):
            return Judgement("cannot_judge", reason="fewer than two frames: nothing to compare over time")
        heard: list[Heard] = []
        for asked in self._asked(pair, firsts):
            heard += self._heard(asked)
            if any(item.outcome != "ok" for item in heard):
                break
        return judgement_of(heard)

    def _heard(self, asked: Sequence[tuple[Place, Question]]) -> list[Heard]:
        if self._many is not None:
            # where the sides are equal, both orders are one question
            questions = {question.key: question for _, question in asked}
            replies = dict(zip(questions, self._many.ask_all(list(questions.values())), strict=True))
            heard = []
            for place, question in asked:
                heard.append(Heard(*place, replies[question.key]))
                replies[question.key] = replace(replies[question.key], cost=0.0, calls=0, cached=True)
            return heard
        heard = []
        for place, question in asked:
            heard.append(Heard(*place, self.answerer.ask(question)))
            if heard[-1].outcome != "ok":
                break
        return heard

    def _firsts(self, pair: SegmentPair) -> tuple[Side, ...]:
        if self.settings.orders == "both":
            return ("a", "b")
        drawn = stream_seed("judge", "order", frames_digest(pair.frames_a), frames_digest(pair.frames_b))
        return ("a",) if drawn % 2 == 0 else ("b",)

    def _asked(self, pair: SegmentPair, firsts: Sequence[Side]) -> Iterator[list[tuple[Place, Question]]]:
        """Yield the questions of each dimension."""
        images = SegmentImages(pair, self.settings)
        caption = pair.caption if self.settings.show_caption else None
        for dimension in self._dimensions:
            yield [
                (
                    (dimension, first),
                    make_question(
                        self._system,
                        images.parts(first),
                        self.settings,
                        caption=caption,
                        dimension=dimension,
                        sample=sample,
                    ),
                )
                for first in firsts
                for sample in range(self.settings.samples)
            ]


def _comparable(pair: SegmentPair) -> bool:
    return min(len(pair.frames_a), len(pair.frames_b)) >= 2
