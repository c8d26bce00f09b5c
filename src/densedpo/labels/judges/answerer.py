"""What a vision-language model looks like to a judge: words and images go in, text comes out, or the reason why not.

Two kinds stand behind this interface: an OpenAI-compatible service (labels/judges/endpoint.py) and a local model
(models/vision_language.py).
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

ReplyOutcome = Literal["ok", "refused", "truncated", "failed"]


@dataclass(frozen=True)
class Image:
    """An encoded image (``image/jpeg`` or ``image/png``), encoded once and shown as often as needed."""

    data: bytes
    media_type: str
    digest: str

    @functools.cached_property
    def data_url(self) -> str:
        """The image as a URL that holds it, made once."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class Question:
    """One question: instructions, then words and images in order, and the JSON schema of the answer.

    ``key`` identifies all that shapes the answer except the model: the instructions' version, the images, their order,
    the sampling settings and the number of the sample.
    """

    key: str
    system: str
    parts: tuple[str | Image, ...]
    schema: Mapping[str, Any]
    max_output_tokens: int
    temperature: float | None = None

    @functools.cached_property
    def text_bytes(self) -> int:
        """The bytes of all its words, counted once."""
        texts = [self.system, str(dict(self.schema)), *(part for part in self.parts if isinstance(part, str))]
        return sum(len(text.encode()) for text in texts)

    @functools.cached_property
    def images(self) -> int:
        """How many images it shows."""
        return sum(not isinstance(part, str) for part in self.parts)


@dataclass(frozen=True)
class Reply:
    """What came back: ``text`` if the outcome is "ok" or "truncated", else ``why`` there is none.

    ``cost`` is in US dollars, ``calls`` the requests sent for it (0 if it was known from before, which is ``cached``).
    """

    outcome: ReplyOutcome
    text: str = ""
    why: str = ""
    cost: float = 0.0
    calls: int = 0
    cached: bool = False
    tokens: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class Answerer(Protocol):
    """A vision-language model that may be asked from many threads at once."""

    @property
    def model(self) -> str:
        """Return the model's name."""
        ...

    def ask(self, question: Question) -> Reply:
        """Return the reply; failures are outcomes, not exceptions.

        Raises:
            BudgetError: if the question could cost more than is left.
            ConfigError: if the service refuses the key, the model or the request as such.
        """
        ...


@runtime_checkable
class ManyAnswerer(Answerer, Protocol):
    """An answerer that takes no longer for several questions than for one."""

    def ask_all(self, questions: Sequence[Question]) -> list[Reply]:
        """Return the replies to questions asked at the same time, when all are there.

        Raises:
            DenseDPOError: as ``ask``.
        """
        ...
