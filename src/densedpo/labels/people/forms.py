"""What the page and the server say to each other, checked on arrival: the shapes of the HTTP contract.

Sides are ``first`` and ``second`` here, as they were shown; only the server knows which of them is a and which b.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from densedpo.labels.answers import TAGS, Tag
from densedpo.labels.people.roster import NAME_LIMIT, Role

ShownAnswer = Literal["first", "second", "tie", "both_bad", "cannot_judge"]
TaskId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
Kind = Literal["work", "review"]
Stage = Literal["instructions", "qualification", "work", "done"]
_DAY_S = 86_400.0


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SignIn(_Form):
    """A token from an invitation, or just a name where none is asked for."""

    token: str | None = Field(None, max_length=200)
    name: str | None = Field(None, max_length=NAME_LIMIT)


class StageDone(_Form):
    """The person has read the instructions."""

    stage: Literal["instructions"]
    done: Literal[True]


class NextRequest(_Form):
    """How many tasks are wanted in hand, ``after`` one that is just being finished."""

    after: TaskId | None = None
    count: int = Field(1, ge=1, le=3)


class OneAnswer(_Form):
    """An answer to one segment (-1: the whole clip); ``answer`` null takes an earlier one back."""

    segment: int = Field(ge=-1, le=100_000)
    answer: ShownAnswer | None
    tags: list[Tag] = Field(default=[], max_length=len(TAGS))
    note: str = Field("", max_length=2000, pattern=r"^[^\x00]*$")
    dwell_s: float | None = Field(None, ge=0, le=_DAY_S)
    offered: bool = False


class AnswersPost(_Form):
    """Answers to one task. ``key`` names the post: sent twice it counts once. ``seq`` rises with every post."""

    task_id: TaskId
    key: Key
    seq: int = Field(ge=0, le=2**53)
    answers: list[OneAnswer] = Field(min_length=1, max_length=1000)


class Submit(_Form):
    """The person calls a task done."""

    task_id: TaskId
    key: Key


class Heartbeat(_Form):
    """Tasks that are still being worked on."""

    task_ids: list[TaskId] = Field(max_length=10)


class Invite(_Form):
    """A person to invite."""

    name: str = Field(min_length=1, max_length=NAME_LIMIT)
    role: Role


class Question(_Form):
    """A question about a whole video: a short name for tables, the words people read, and a line of help."""

    code: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    name: str = Field(min_length=1, max_length=60)
    text: str = Field(min_length=1, max_length=200)
    hint: str = Field("", max_length=400)


class SegmentShown(_Form):
    """One part of a task: seconds and frames from the start, the answer offered for it, the question asked, if any."""

    index: int
    start_s: float
    end_s: float
    first_frame: int
    num_frames: int
    offered: Literal["tie"] | None
    question: Question | None = None


class OtherAnswers(_Form):
    """What the labellers said about one segment, for whoever reviews: nobody is named."""

    segment: int
    answers: list[ShownAnswer]


class TaskShown(_Form):
    """A task as the page sees it. Measuring tasks look like any other."""

    task_id: str
    lease_s: float
    kind: Kind
    submitted: bool
    caption: str | None
    fps: float
    num_frames: int
    width: int
    height: int
    segments: list[SegmentShown]
    media: dict[Literal["first", "second"], str]
    answers: list[OneAnswer]
    others: list[OtherAnswers]
    whole: bool


class Tasks(_Form):
    """Tasks in hand, the one to do first first."""

    tasks: list[TaskShown]


class Progress(_Form):
    """How far the person and the team are, in tasks."""

    done: int
    total: int
    seconds_left: float | None
    team_done: int
    team_total: int


class PageSettings(_Form):
    """What the page has to know of the settings; with ``questions`` it asks these instead of segments."""

    show_caption: bool
    segment_s: float | None
    tie_offer: bool
    whole: bool
    questions: list[Question]


class Me(_Form):
    """Who is signed in and where they are."""

    annotator: str
    role: Role
    stage: Stage
    settings: PageSettings
    progress: Progress


class Stored(_Form):
    """Answers are durable; ``complete`` says whether every segment of the task has one."""

    stored: int
    complete: bool


class Feedback(_Form):
    """What a known answer was, in the qualification."""

    segment: int
    expected: ShownAnswer
    correct: bool
    why: str


class Submitted(_Form):
    """The task is done; ``surplus`` where others had filled its place meanwhile (the answers are kept)."""

    complete: Literal[True]
    surplus: bool
    feedback: list[Feedback]


class Lease(_Form):
    """How long the renewed leases last."""

    lease_s: float


class PastTask(_Form):
    """One line of a person's history."""

    task_id: str
    caption: str | None
    answered: int
    total: int
    submitted: bool
    at: str
    kind: Kind


class History(_Form):
    """A person's tasks, the newest first."""

    tasks: list[PastTask]


class Link(_Form):
    """An invitation: whoever opens it is signed in."""

    link: str


class Problem(BaseModel):
    """Why a request was refused, in one line."""

    error: str
    needs_token: bool | None = None
