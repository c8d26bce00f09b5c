"""What judging costs: prices, and a budget that many questions at once cannot pass.

Before a request is sent the most that it could cost is set aside; when its reply is there, what it did cost is booked
instead. A request whose end nobody saw (a timeout, a connection that broke) is booked at the most it could cost. Money
set aside and money spent are durable (labels/judges/replies.py), so a budget holds for a project over all its runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from densedpo.errors import LabelError
from densedpo.labels.judges.answerer import Question
from densedpo.labels.judges.base import BudgetError
from densedpo.labels.judges.replies import Replies

_BYTES_PER_TOKEN = 4
_TOKENS_PER_PART = 8  # what marks the begin and end of a message's part


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens sent and answered, and the tokens that an image counts for in an estimate."""

    input: float = 0.0
    output: float = 0.0
    image_tokens: int = 300

    def cost(self, tokens: Mapping[str, int]) -> float:
        """Return the US dollars of ``input`` and ``output`` tokens."""
        return (tokens["input"] * self.input + tokens["output"] * self.output) / 1e6

    def expected(self, question: Question, text: str) -> dict[str, int]:
        """Return the likely tokens of a question that was answered with ``text``, where the service counts none."""
        answered = -(-len(text.encode()) // _BYTES_PER_TOKEN)
        sent = -(-question.text_bytes // _BYTES_PER_TOKEN) + self._image_tokens(question)
        return {"input": sent, "output": min(answered, question.max_output_tokens)}

    def most(self, question: Question) -> dict[str, int]:
        """Return the most tokens that a question can take: no token of text is shorter than a byte."""
        return {
            "input": question.text_bytes + self._image_tokens(question),
            "output": question.max_output_tokens,
        }

    def _image_tokens(self, question: Question) -> int:
        return question.images * self.image_tokens + len(question.parts) * _TOKENS_PER_PART


@dataclass(frozen=True)
class Reservation:
    """Money set aside for one request: at most ``dollars`` for at most ``tokens``, booked under ``number``."""

    number: str | None
    dollars: float
    tokens: Mapping[str, int]


class Ledger:
    """The money of one project's judging. Its methods belong to one event loop."""

    def __init__(self, prices: Prices, budget: float | None, replies: Replies) -> None:
        """Go on from what ``replies`` says was spent before."""
        self.prices = prices
        self._budget = budget
        self._replies = replies
        self._spent = replies.spent()
        self._before = self._spent
        self._reserved = 0.0
        self._open = 0
        # services may count more tokens than we do: the largest ratio seen, of what is sent and of what is answered
        self._excess = {"input": 1.0, "output": 1.0}
        self._measured = False
        self._changed = asyncio.Condition()

    @property
    def spent(self) -> float:
        """US dollars spent in this run; what happened unseen counts at the most it could have cost."""
        return self._spent - self._before

    async def reserve(self, question: Question) -> Reservation:
        """Set aside the most that one request can cost, durably; wait for others if only they stand in the way.

        Raises:
            BudgetError: if it could cost more than is left.
        """
        if self._budget is None:
            return Reservation(None, self._most(question), self.prices.most(question))
        async with self._changed:
            while True:
                most = self._most(question)
                # how this service counts is not known before its first reply: until then one request at a time
                alone = self._measured or not self._open
                if alone and self._spent + self._reserved + most <= self._budget:
                    break
                if not self._open:
                    raise BudgetError(
                        f"judge.budget: ${self._spent:.4f} of ${self._budget:g} are spent and the next request could "
                        f"cost ${most:.4f}; raise the budget and repeat the command to go on"
                    )
                await self._changed.wait()
            self._reserved += most
            self._open += 1
        try:
            number = await asyncio.wrap_future(self._replies.reserve(most))
        except LabelError:
            await self._release(most)
            raise
        return Reservation(number, most, self.prices.most(question))

    def _most(self, question: Question) -> float:
        most = self.prices.most(question)
        return self.prices.cost({name: round(count * self._excess[name]) for name, count in most.items()})

    async def settle(self, reservation: Reservation, dollars: float, tokens: Mapping[str, int] | None = None) -> None:
        """Book what a request did cost in place of what was set aside.

        ``tokens`` are those that the service counted with its reply, empty if it counts none; None without a reply. The
        booking is durable with the reply that is stored next.
        """
        for name, count in (tokens or {}).items():
            self._excess[name] = max(self._excess[name], count / max(1, reservation.tokens[name]))
        self._measured = self._measured or tokens is not None
        self._spent += dollars
        self._replies.book(reservation.number, dollars)
        if self._budget is not None:
            await self._release(reservation.dollars)

    async def _release(self, dollars: float) -> None:
        async with self._changed:
            self._reserved -= dollars
            self._open -= 1
            self._changed.notify_all()
