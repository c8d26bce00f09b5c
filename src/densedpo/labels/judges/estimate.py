"""What judging will take, said before anything is sent: requests, images, tokens, megabytes and money.

A few pairs, spread over all, are read and turned into the very questions the judge would ask; the rest is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from densedpo.errors import MediaError
from densedpo.labels.judges.answerer import Image, Question
from densedpo.labels.judges.base import Judge, SegmentPair
from densedpo.labels.judges.ledger import Prices
from densedpo.labels.judges.work import Plan
from densedpo.store.project import Project

_SAMPLED_PAIRS = 3
_ANSWERED_TOKENS = 100  # a sentence or two; models that think aloud take many more


@runtime_checkable
class Questioning(Judge, Protocol):
    """A judge that asks a model, and can say beforehand what it would ask."""

    def questions(self, pair: SegmentPair) -> list[Question]:
        """Return all that may be asked about one segment."""
        ...


@dataclass(frozen=True)
class Estimate:
    """What judging ``segments`` will take; replies known from before and retries are not looked at.

    ``cost`` in US dollars if answers are short, ``most`` if each is as long as allowed.
    """

    segments: int
    requests: int = 0
    images: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    megabytes: float = 0.0
    cost: float = 0.0
    most: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Return the estimate in words."""
        if not self.requests:
            return f"{self.segments} segments to judge"
        money = f", about ${self.cost:.2f} (at most ${self.most:.2f})" if self.most else ", prices not given"
        return (
            f"{self.segments} segments to judge: about {self.requests} requests, {self.images} images, "
            f"{self.input_tokens / 1e6:.2f} million tokens, {self.megabytes:.3g} MB{money}"
        )


def estimate(project: Project, judge: Judge, plan: Plan, prices: Prices) -> Estimate:
    """Return what ``judge`` will take for ``plan``; nothing but the number of segments where it asks no model."""
    asked = _sample(project, judge, plan) if isinstance(judge, Questioning) else []
    if not asked:
        return Estimate(plan.segments)
    questions = [question for listed in asked for question in listed]
    times = plan.asked / len(asked)
    sent = round(times * sum(prices.expected(question, "")["input"] for question in questions))
    requests = round(times * len(questions))
    longest = max((question.max_output_tokens for question in questions), default=0)
    answered = requests * min(_ANSWERED_TOKENS, longest)
    return Estimate(
        segments=plan.segments,
        requests=requests,
        images=round(times * sum(len(_images(question)) for question in questions)),
        input_tokens=sent,
        output_tokens=answered,
        megabytes=round(times * sum(_bytes(question) for question in questions) / 1e6, 3),
        cost=prices.cost({"input": sent, "output": answered}),
        most=prices.cost({"input": sent, "output": requests * longest}),
    )


def _sample(project: Project, judge: Questioning, plan: Plan) -> Sequence[list[Question]]:
    """Return the questions about each asked segment of a few pairs; a pair that cannot be read is passed over."""
    works = [work for work in plan.work if work.asked]
    found: list[list[Question]] = []
    for work in works[:: max(1, len(works) // _SAMPLED_PAIRS)][:_SAMPLED_PAIRS]:
        try:
            found.extend(judge.questions(shown) for _, shown in work.read(project))
        except MediaError:
            continue  # judging will name it
    return found


def _images(question: Question) -> list[Image]:
    return [part for part in question.parts if isinstance(part, Image)]


def _bytes(question: Question) -> int:
    words = [question.system, *(part for part in question.parts if isinstance(part, str))]
    return sum(len(image.data_url) for image in _images(question)) + sum(len(text.encode()) for text in words)
