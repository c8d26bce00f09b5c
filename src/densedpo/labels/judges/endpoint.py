"""A vision-language model behind an OpenAI-compatible service: hosted, vLLM, Ollama, llama.cpp and others.

``Endpoint.ask`` may be called from any number of threads; one thread with an event loop does all that goes over the
network. A question passes the cache, the gate of the service's limits and the ledger, is sent as often as need be, and
its reply is on disk before anybody sees it.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from densedpo.errors import ConfigError
from densedpo.keys import content_id, stream
from densedpo.labels.judges.answerer import Question, Reply
from densedpo.labels.judges.base import ServiceError
from densedpo.labels.judges.connection import headers_for, open_client
from densedpo.labels.judges.ledger import Ledger, Prices
from densedpo.labels.judges.limits import Gate
from densedpo.labels.judges.loop import LoopThread
from densedpo.labels.judges.question import is_malformed
from densedpo.labels.judges.replies import Replies
from densedpo.labels.judges.wire import OutputLimit, StructuredMode, reply_of, request_of
from densedpo.observe import say

if TYPE_CHECKING:
    from densedpo.config import JudgeSettings
    from densedpo.labels.judges.trouble import Trouble

_MOST_BYTES = 1_000_000
_MOST_FAILURES = 8  # questions one after the other, before the service is taken to be down
_MOST_FAILURES_AT_FIRST = 2  # the same while it has answered nothing at all
_MOST_GARBLED = 2  # times that a question is asked again because the reply is no answer; models slip now and then
_LONGEST_BACKOFF_S = 30.0


@dataclass
class Meter:
    """What was asked so far: requests sent, replies known from before, US dollars."""

    calls: int = 0
    cached: int = 0
    cost: float = 0.0


@dataclass
class _Line:
    """What an endpoint and its copies share; ``slots`` are requests at the same time, up to their reply on disk."""

    slots: asyncio.Semaphore
    meter: Meter = field(default_factory=Meter)
    gate: Gate = field(default_factory=Gate)
    output_limit: OutputLimit = "max_tokens"
    answered: bool = False
    waiting_said: bool = False
    failures: int = 0  # questions, one after the other
    down: ServiceError | ConfigError | None = None


class Endpoint:
    """An ``Answerer`` that asks a service; use it in a ``with`` statement or call ``close``.

    ``mode`` is how it asks for structured output; ``with_mode`` gives the same endpoint with another one.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        replies: Replies,
        *,
        mode: StructuredMode = "json_schema",
        backoff_s: float = 0.5,
    ) -> None:
        """Prepare to ask the service that ``settings`` name.

        Args:
            settings: address, model, prices, patience.
            replies: where replies are kept, and what they cost; stays open.
            mode: how to ask for structured output.
            backoff_s: mean wait after the first trouble, in seconds; it doubles with each.

        Raises:
            ConfigError: if the address or the model is missing, or the client is not installed.
        """
        if settings.base_url is None:
            raise ConfigError("judge.base_url: which service? give --base-url, for example http://127.0.0.1:8000/v1")
        if settings.model is None:
            raise ConfigError("judge.model: which model? give --model, by the name that the service knows it by")
        self.mode: StructuredMode = mode
        self._recall = True
        self._settings, self._url, self._model = settings, settings.base_url, settings.model
        self._replies, self._backoff_s = replies, backoff_s
        self._client = open_client(settings)
        # whole, because the client takes long to put an address together
        self._address = f"{str(self._client.base_url).rstrip('/')}/chat/completions"
        self._headers = headers_for(self._client)
        prices = Prices(settings.price_input, settings.price_output, settings.image_tokens)
        self._ledger = Ledger(prices, settings.budget, replies)
        self._line = _Line(asyncio.Semaphore(settings.parallel))
        self._loop = LoopThread("judge endpoint")

    def __enter__(self) -> Endpoint:
        """Return the endpoint itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    @property
    def model(self) -> str:
        """Return the service's name of the model."""
        return self._model

    @property
    def meter(self) -> Meter:
        """What was asked so far, through this endpoint and its copies."""
        return replace(self._line.meter)

    def with_mode(self, mode: StructuredMode, *, recall: bool = True) -> Endpoint:
        """Return this endpoint, connections and all, with another way to ask for structured output.

        Without ``recall`` it asks even what it knows from before.
        """
        other = copy.copy(self)
        other.mode, other._recall = mode, recall
        return other

    def close(self) -> None:
        """Break off what is being asked (it fails) and close the connections; harmless if repeated."""
        self._loop.close(self._client.close)

    def ask(self, question: Question) -> Reply:
        """Return the reply; failures are outcomes, not exceptions. After ``close`` everything fails.

        Raises:
            DenseDPOError: as ``ask_all``.
        """
        return self.ask_all([question])[0]

    def ask_all(self, questions: Sequence[Question]) -> list[Reply]:
        """Return the replies to questions that are asked at the same time, when all are there.

        After an error of the service, or of key or model, every other question raises the same one.

        Raises:
            BudgetError: if a question could cost more than is left.
            ConfigError: if the service refuses the key, the model or the request as such.
            ServiceError: if the service fails many times in a row, its quota is used up, or it refuses what it took.
            LabelError: if a reply cannot be stored.
        """
        # looked up here: the loop's one thread has enough to do
        known = [self.known(question) if self._recall else None for question in questions]
        asked = [self._loop.start(self._ask(*each)) for each in zip(questions, known, strict=True)]
        wait(asked)
        return [Reply("failed", why="stopped") if each.cancelled() else each.result() for each in asked]

    def keys_of(self, question: Question) -> tuple[str, str]:
        """Return the keys that a whole reply, and one cut short, are kept under."""
        key = content_id("reply", self._url, self._model, self.mode, question.key, length=32)
        # another limit changes no whole answer, but a cut one
        return key, content_id(key, question.max_output_tokens, length=32)

    def known(self, question: Question) -> Reply | None:
        """Return the reply known from before, or None.

        Raises:
            LabelError: if the store of replies cannot be read.
        """
        return self._replies.get(*self.keys_of(question))

    def body_of(self, question: Question) -> dict[str, Any]:
        """Return the body of the request, as the service wants it by all that is known of it."""
        return request_of(question, self._model, self.mode, self._line.output_limit)

    async def _ask(self, question: Question, known: Reply | None) -> Reply:
        if self._line.down is not None:
            raise self._line.down
        key, cut_key = self.keys_of(question)
        if known is not None:
            self._line.meter.cached += 1
            return known
        reply, cost, calls = Reply("failed"), 0.0, 0
        garbled = 0
        while calls < self._settings.max_attempts:
            async with self._line.slots:
                reply, trouble = await self._attempt(question)
                calls, cost = calls + 1, cost + reply.cost
                if reply.outcome == "ok" and garbled < _MOST_GARBLED and is_malformed(question.schema, reply.text):
                    garbled += 1
                    if calls < self._settings.max_attempts:
                        continue
                if trouble is None:
                    reply = replace(reply, cost=cost, calls=calls)
                    kept_as = cut_key if reply.outcome == "truncated" else key
                    await asyncio.wrap_future(self._replies.keep(kept_as, self._model, reply))
                    self._line.failures, self._line.answered = 0, True
                    return reply
            if not self._may_repeat(trouble, calls):
                break
            if trouble.kind == "again" and calls < self._settings.max_attempts:
                await self._wait(question, calls, trouble)
        self._count_failure(reply.why)
        return replace(reply, cost=cost, calls=calls)

    async def _attempt(self, question: Question) -> tuple[Reply, Trouble | None]:
        """Send a question once: its reply, or one that failed and the trouble."""
        from densedpo.labels.judges.trouble import TROUBLES, trouble_of

        prices, trouble = self._ledger.prices, None
        await self._line.gate.enter(sum(prices.expected(question, "").values()))
        set_aside = await self._ledger.reserve(question)
        self._line.meter.calls += 1
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                reply = reply_of(await self._send(question))
            cost = prices.cost(reply.tokens or prices.expected(question, reply.text))
        except (*TROUBLES, TimeoutError) as error:
            trouble = trouble_of(error)
            self._line.gate.heed(trouble.headers)
            reply, cost = Reply("failed", why=trouble.why), set_aside.dollars if trouble.charged else 0.0
            if trouble.kind == "refused":
                reply, trouble = replace(reply, outcome="refused"), None
        self._line.meter.cost += cost
        await self._ledger.settle(set_aside, cost, reply.tokens if trouble is None else None)
        return replace(reply, cost=cost), trouble

    async def _send(self, question: Question) -> bytes:
        """Return the body of a successful response, as far as an answer may be long."""
        from densedpo.labels.judges.trouble import OversizedError

        # ready bytes: the client would walk through every part of the messages
        sent = json.dumps(self.body_of(question)).encode()
        received = bytearray()
        response: Any = await self._client.post(
            self._address, cast_to=object, content=sent, options={"headers": self._headers}
        )
        try:
            self._line.gate.heed(response.headers)
            async for piece in response.iter_bytes():
                received += piece
                if len(received) > _MOST_BYTES:
                    raise OversizedError(f"an answer longer than {_MOST_BYTES / 1e6:g} MB")
        finally:
            await response.close()
        return bytes(received)

    def _may_repeat(self, trouble: Trouble, calls: int) -> bool:
        """Say whether a question may be sent again after so many calls; what will never pass stops everything.

        Raises:
            ConfigError: if the service refuses the key, the model or the request as such.
            ServiceError: if its quota is used up, or the key or the model is refused later on.
        """
        if trouble.kind == "again":
            return True
        if trouble.kind == "request":
            # newer services and reasoning models know the limit of the answer's length by another name
            # (a question may have been sent before that was known; errors about length name both)
            if "max_completion_tokens" in trouble.why and (calls == 1 or self._line.output_limit == "max_tokens"):
                self._line.output_limit = "max_completion_tokens"
                return True
            # others were answered: it is this question that the service does not take
            if self._line.answered:
                return False
        where = f"{self._url} refuses model {self._model!r}"
        variable, why = self._settings.key_variable, trouble.why
        if trouble.kind == "quota":
            raise self._stop(
                ServiceError(f"judge.base_url: the quota of the key in ${variable} is used up ({why}); pay and repeat")
            )
        # what was taken before is no wrong setting: then the run ends like that of a service that is down
        refusal = ServiceError if self._line.answered else ConfigError
        if trouble.kind == "address":
            raise self._stop(
                refusal(f"judge.base_url: {self._url} cannot be trusted ({why}); check https and its certificate")
            )
        if trouble.kind == "key":
            raise self._stop(refusal(f"judge.key_variable: {where} to the key in ${variable} ({why}); check both"))
        if trouble.kind == "model":
            raise self._stop(
                refusal(
                    f"judge.model: {where} ({why}); check the model, the key in ${variable}, and the address: most end "
                    "in /v1"
                )
            )
        # asked in another way the same request may be taken
        raise refusal(
            f"judge.base_url: {self._url} does not take the questions to model {self._model!r} ({why}); check address "
            "and model; judge.layout grid and smaller judge.frames_per_s and judge.max_side_px make them shorter"
        )

    def _stop(self, error: ServiceError | ConfigError) -> ServiceError | ConfigError:
        """Return an error after which nothing is asked any more: what is under way ends."""
        self._line.down = error
        self._loop.cancel_others()
        return error

    async def _wait(self, question: Question, calls: int, trouble: Trouble) -> None:
        """Wait before the next attempt: as long as the service asks, and with full jitter."""
        longest_s = min(_LONGEST_BACKOFF_S, self._backoff_s * 2**calls)
        jitter_s = longest_s * float(stream("judge", "backoff", question.key, calls).uniform())
        if trouble.limited:
            self._line.gate.close(trouble.wait_s or 0.0)
        if not (self._line.answered or self._line.waiting_said):
            self._line.waiting_said = True
            say(f"{self._url} does not answer yet ({trouble.why}); asking again")
        await asyncio.sleep((trouble.wait_s or 0.0) + jitter_s)

    def _count_failure(self, why: str) -> None:
        self._line.failures += 1
        if self._line.failures >= (_MOST_FAILURES if self._line.answered else _MOST_FAILURES_AT_FIRST):
            raise self._stop(
                ServiceError(
                    f"judge.base_url: {self._url} failed {self._line.failures} questions in a row ({why}); see to the "
                    "service, then repeat the command to go on"
                )
            )
