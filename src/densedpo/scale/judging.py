"""A judge spread over Ray actors: each holds a judge of its own, on a GPU of its own where there are any.

pair -> the next free actor -> judgement. The driver decodes, decides what is asked and alone writes the label store
(labels/judges/run.py), so a repeated command goes on where it was, whatever became of the actors.

Tried with actors on one machine's CPUs only; never with GPUs or a cluster by this project.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

from densedpo.errors import ConfigError
from densedpo.labels.judges.base import Judge, Judgement, OrderedJudge, SegmentPair, ServiceError

Seat = Callable[[], AbstractContextManager[Judge]]
_AT_ONCE = 2  # questions an actor holds: one arrives while another is judged


class Worker:
    """What lives in an actor: a judge, made there and kept until the actor ends."""

    def __init__(self, seat: Seat) -> None:
        """Make the judge."""
        self._stack = ExitStack()
        self._judge = self._stack.enter_context(seat())

    def describe(self) -> tuple[str, str]:
        """Return the judge's name and the digest of its settings."""
        return self._judge.name, self._judge.settings_digest

    def judge(self, pair: SegmentPair, in_order: bool) -> Judgement:
        """Return the judgement; ``in_order`` asks in one order alone, where the judge knows orders."""
        if in_order and isinstance(self._judge, OrderedJudge):
            return self._judge.judge_in_order(pair)
        return self._judge.judge(pair)

    def close(self) -> None:
        """End what the judge holds."""
        self._stack.close()


class RayJudge:
    """A judge that is ``actors`` judges; from outside it is any one of them. Use it as a context manager.

    Ray is started on this machine alone, unless RAY_ADDRESS names a cluster. Either way its processes listen on all
    network interfaces and exchange pickles, guarded by Ray's own token: keep it inside a network that you trust.
    Where Ray sees GPUs they are shared out evenly, at most one an actor. A dead actor is started again, once, and asked
    again.
    """

    def __init__(self, seat: Seat, actors: int) -> None:
        """Start the actors; ``seat`` makes the judge of each and travels to it.

        Raises:
            ConfigError: if Ray is not installed, or an actor's judge cannot be made.
        """
        # set before Ray is loaded: nothing is sent home
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise ConfigError("--engine ray: Ray is not installed; run `pip install 'densedpo[ray]'`") from None
        self._ray = ray
        cluster = "RAY_ADDRESS" in os.environ
        alone: dict[str, Any] = {"num_cpus": actors, "include_dashboard": False}
        ray.init(configure_logging=False, **({} if cluster else alone))
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / actors)
        kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=1, max_task_retries=1, max_concurrency=_AT_ONCE)(
            Worker
        )
        self._actors = [kind.remote(seat) for _ in range(actors)]
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(_AT_ONCE):
            for actor in self._actors:
                self._free.put(actor)
        try:
            self._described: list[tuple[str, str]] = [self._result(a.describe.remote()) for a in self._actors]
        except BaseException:
            self.close()
            raise
        if len(set(self._described)) > 1:
            self.close()
            raise ConfigError(f"--engine ray: the actors' judges differ: {sorted(set(self._described))}")

    def __enter__(self) -> RayJudge:
        """Return the judge."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the actors."""
        self.close()

    @property
    def name(self) -> str:
        """Return the name that answers are stored under: the actors'."""
        return self._described[0][0]

    @property
    def settings_digest(self) -> str:
        """Return the digest of the actors' settings."""
        return self._described[0][1]

    @property
    def parallel(self) -> int:
        """Return how many segments all actors take at the same time."""
        return _AT_ONCE * len(self._actors)

    def judge(self, pair: SegmentPair) -> Judgement:
        """Return the judgement of the next free actor.

        Raises:
            ServiceError: if its actor died again and again.
            DenseDPOError: whatever the actor's judge raised.
        """
        return self._asked(pair, in_order=False)

    def judge_in_order(self, pair: SegmentPair) -> Judgement:
        """Return what is said when ``frames_a`` comes first and nothing is asked the other way round.

        Raises:
            ServiceError: as ``judge``.
        """
        return self._asked(pair, in_order=True)

    def close(self) -> None:
        """End the actors and, where it was started here, Ray."""
        exits = [actor.close.remote() for actor in self._actors]
        self._ray.wait(exits, num_returns=len(exits), timeout=20)
        self._ray.shutdown()

    def _asked(self, pair: SegmentPair, *, in_order: bool) -> Judgement:
        actor = self._free.get()
        try:
            said: Judgement = self._result(actor.judge.remote(pair, in_order))
            return said
        finally:
            self._free.put(actor)

    def _result(self, reference: Any) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return self._ray.get(reference)
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            why = str(error).strip().splitlines()[0]
            raise ServiceError(f"an actor of the judge died ({why}); repeat the command to go on") from None
