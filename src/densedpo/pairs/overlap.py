"""Reading ahead and writing behind: two threads that keep files away from the work on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
P = ParamSpec("P")


def read_ahead(read: Callable[[Item], Found], items: Iterable[Item], ahead: int = 1) -> Iterator[tuple[Item, Found]]:
    """Yield each item with what ``read`` returns of it, while a thread reads the next ones.

    An error is raised at its item's turn.
    """
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        waiting: deque[tuple[Item, Future[Found]]] = deque()
        try:
            for item in items:
                waiting.append((item, thread.submit(read, item)))
                if len(waiting) > ahead:
                    first, found = waiting.popleft()
                    yield first, found.result()
            while waiting:
                first, found = waiting.popleft()
                yield first, found.result()
        finally:
            for _, left in waiting:
                left.cancel()


class WriteBehind:
    """Runs calls one after the other in a thread; at most ``most`` wait. All are done when the block ends.

    An error of a call is raised at the next call or at the end of the block; calls that wait are then dropped.
    """

    def __init__(self, most: int = 4) -> None:
        """Start nothing yet."""
        self._thread = ThreadPoolExecutor(1, "write-behind")
        self._waiting: deque[Future[object]] = deque()
        self._most = most

    def __enter__(self) -> WriteBehind:
        """Return itself."""
        return self

    def __call__(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have ``call`` made behind the caller's back, or wait for room."""
        while self._waiting and (len(self._waiting) >= self._most or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(call, *args, **kwargs))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all calls, or after an error for the one that runs."""
        try:
            while self._waiting and error is None:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)
