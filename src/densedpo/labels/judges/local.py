"""A vision-language model in this process as an answerer: the same questions as an endpoint's, no service, no price.

The model itself is handed in (models/vision_language.py): nothing here loads torch. It is told the schema in words.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from densedpo.errors import ModelError
from densedpo.labels.judges.answerer import Question, Reply


@runtime_checkable
class Completed(Protocol):
    """What a model said; ``whole`` is False where it was cut."""

    @property
    def text(self) -> str:
        """Its words."""
        ...

    @property
    def whole(self) -> bool:
        """Whether it ended by itself."""
        ...

    @property
    def tokens_read(self) -> int:
        """Tokens of the question."""
        ...

    @property
    def tokens_written(self) -> int:
        """Tokens of the answer."""
        ...


@runtime_checkable
class Completer(Protocol):
    """A model that continues words and encoded images with text."""

    def complete(
        self, system: str, parts: Sequence[str | bytes], *, max_tokens: int, temperature: float | None, seed: str
    ) -> Completed:
        """Return what it says; equal arguments give equal answers.

        Raises:
            ModelError: if this question cannot be asked.
        """
        ...


class LocalAnswerer:
    """Answers questions with a model in this process; threads wait for each other."""

    def __init__(self, model: str, completer: Completer) -> None:
        """Keep the model and the name under which its answers are stored."""
        self._model, self._completer, self._lock = model, completer, threading.Lock()

    @property
    def model(self) -> str:
        """Return the model's name."""
        return self._model

    def ask(self, question: Question) -> Reply:
        """Return the reply; the sampling is seeded by the question's key, so that asking again gives the same."""
        parts = [part if isinstance(part, str) else part.data for part in question.parts]
        try:
            with self._lock:
                said = self._completer.complete(
                    question.system,
                    parts,
                    max_tokens=question.max_output_tokens,
                    temperature=question.temperature,
                    seed=question.key,
                )
        except ModelError as error:
            return Reply("failed", why=str(error))
        tokens = {"input": said.tokens_read, "output": said.tokens_written}
        reply = Reply("ok", said.text, calls=1, tokens=tokens)
        return reply if said.whole else replace(reply, outcome="truncated", why="cut at judge.max_output_tokens")
