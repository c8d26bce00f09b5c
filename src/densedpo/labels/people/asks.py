"""What people are asked about a pair of videos: each of its segments, or several questions about the whole.

Either way an item has numbered *parts*, each answered on its own. The desk knows parts only; here they get their place
in the video and, where people are asked questions, the words. Labelling uses ``Segments``, a study ``Questions``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

from densedpo.errors import LabelError
from densedpo.keys import content_id
from densedpo.labels.answers import WHOLE_CLIP
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.people.forms import OneAnswer, Question, SegmentShown, ShownAnswer

GUIDELINES = "1"


@dataclass(frozen=True, slots=True)
class Card:
    """The part of an item's row that the page needs."""

    pair_id: str
    caption: str
    fps: float
    num_frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Span:
    """The part of a video that an answer is about: from ``start_s`` to ``end_s`` on a grid of ``segment_s`` seconds."""

    segment_s: float
    start_s: float
    end_s: float


@runtime_checkable
class Asked(Protocol):
    """What is asked, in whatever way. ``digest`` identifies what people were told and shown."""

    @property
    def digest(self) -> str:
        """Return what identifies instructions and questions."""

    @property
    def segment_s(self) -> float | None:
        """Return the length of a segment; None where questions are asked about the whole."""

    @property
    def questions(self) -> Sequence[Question]:
        """Return the questions about the whole; none where segments are asked about."""

    def shown(self, card: Card, differences: Sequence[float] | None) -> list[SegmentShown]:
        """Return the parts of an item as the page sees them."""

    def wanted(self, card: Card) -> list[int]:
        """Return the numbers of the parts that need an answer, in order."""

    def span(self, card: Card, part: int) -> Span:
        """Return what an answer to a part is about."""

    def check(self, card: Card, given: OneAnswer) -> None:
        """Refuse an answer that was not asked for.

        Raises:
            LabelError: naming the part.
        """


class Segments:
    """Which side is better in each segment, and in the whole clip where ``whole_clip``."""

    questions: Sequence[Question] = ()

    def __init__(self, segment_s: float, *, whole_clip: bool, offer_ties_below: float) -> None:
        """Ask about segments of ``segment_s`` seconds; ties are offered under a difference in 8-bit levels."""
        self.segment_s = segment_s
        self._whole = whole_clip
        self._offer_below = offer_ties_below
        self.digest = content_id("page", GUIDELINES, segment_s, offer_ties_below)

    def shown(self, card: Card, differences: Sequence[float] | None) -> list[SegmentShown]:
        """Return the segments of a clip; a tie is offered where no frame differs by as much as was said."""
        grid = self._grid(card)
        made = []
        for index in range(grid.num_segments):
            frames, (start_s, end_s) = grid.frames_of(index), grid.bounds_s(index)
            inside = differences[frames] if differences is not None else ()
            offered: Literal["tie"] | None = "tie" if inside and max(inside) < self._offer_below else None
            count = frames.stop - frames.start
            made.append(
                SegmentShown(
                    index=index,
                    start_s=start_s,
                    end_s=end_s,
                    first_frame=frames.start,
                    num_frames=count,
                    offered=offered,
                )
            )
        return made

    def wanted(self, card: Card) -> list[int]:
        """Return all segments, and the whole clip after them where it is asked about."""
        return [*range(self._grid(card).num_segments), *([WHOLE_CLIP] if self._whole else [])]

    def span(self, card: Card, part: int) -> Span:
        """Return the bounds of a segment, or of the whole clip."""
        grid = self._grid(card)
        return Span(self.segment_s, *((0.0, grid.duration_s) if part == WHOLE_CLIP else grid.bounds_s(part)))

    def check(self, card: Card, given: OneAnswer) -> None:
        """Refuse segments that the clip does not have.

        Raises:
            LabelError: naming the segment.
        """
        count = self._grid(card).num_segments
        if given.segment >= count:
            raise LabelError(f"segment {given.segment}: the clip has 0 to {count - 1}")
        if given.segment == WHOLE_CLIP and not self._whole:
            raise LabelError("segment -1: the whole clip is not asked about; see serve.whole_clip")

    def _grid(self, card: Card) -> SegmentGrid:
        return grid_of(card.num_frames, card.fps, self.segment_s)


class Questions:
    """Several questions about the whole of each item: part i is question i."""

    segment_s: float | None = None
    choices: Sequence[ShownAnswer] = ("first", "second", "tie", "cannot_judge")

    def __init__(self, questions: Sequence[Question], digest: str) -> None:
        """Ask ``questions``; ``digest`` identifies their words."""
        self.questions = tuple(questions)
        self.digest = digest

    def shown(self, card: Card, differences: Sequence[float] | None) -> list[SegmentShown]:
        """Return the questions; each is about all frames. Ties are never offered: how videos differ is the question."""
        del differences
        end_s = card.num_frames / card.fps
        whole = {"start_s": 0.0, "end_s": end_s, "first_frame": 0, "num_frames": card.num_frames, "offered": None}
        return [SegmentShown(index=i, question=asked, **whole) for i, asked in enumerate(self.questions)]

    def wanted(self, card: Card) -> list[int]:
        """Return all questions."""
        del card
        return list(range(len(self.questions)))

    def span(self, card: Card, part: int) -> Span:
        """Return the whole video, whatever the question."""
        del part
        return Span(card.num_frames / card.fps, 0.0, card.num_frames / card.fps)

    def check(self, card: Card, given: OneAnswer) -> None:
        """Refuse answers to what was not asked, or of a kind that was not offered.

        Raises:
            LabelError: naming the question.
        """
        del card
        if not 0 <= given.segment < len(self.questions):
            raise LabelError(f"segment {given.segment}: there are questions 0 to {len(self.questions) - 1}")
        if given.answer is not None and given.answer not in self.choices:
            raise LabelError(f"question {given.segment}: {given.answer} is not among {', '.join(self.choices)}")


@lru_cache(maxsize=256)
def grid_of(num_frames: int, fps: float, segment_s: float) -> SegmentGrid:
    """Return the segment grid of a clip; clips of one model share it."""
    return SegmentGrid(num_frames, fps, segment_s)
