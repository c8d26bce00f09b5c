"""A thread with an event loop, which threads without one hand their coroutines to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Value = TypeVar("Value")


class LoopThread:
    """An event loop in a thread of its own; ``start`` may be called from any other thread."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Value]) -> Future[Value]:
        """Begin a coroutine and return what it will come to: cancelled if the loop is closed before its end."""
        with self._closing:
            if not self._loop.is_closed():
                return asyncio.run_coroutine_threadsafe(self._tracked(work), self._loop)
        work.close()
        never = Future[Value]()
        never.cancel()
        never.set_running_or_notify_cancel()
        return never

    async def _tracked(self, work: Coroutine[Any, Any, Value]) -> Value:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    def cancel_others(self) -> None:
        """Cancel all that is under way except the caller, which runs in the loop."""
        own = asyncio.current_task()
        for task in self._tasks:
            if task is not own:
                task.cancel()

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Cancel what is under way, wait for ``last`` and stop the thread; harmless if repeated."""
        with self._closing:
            if self._loop.is_closed():
                return
            asyncio.run_coroutine_threadsafe(self._end(last), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self, last: Callable[[], Awaitable[None]]) -> None:
        under_way = list(self._tasks)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await last()
