"""The browser copies of pairs that the page shows: found or made once, when asked for or ahead of that."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor

from densedpo.errors import MediaError
from densedpo.labels.people.asks import Card
from densedpo.labels.people.desk import Shape
from densedpo.labels.people.proxies import PairProxies
from densedpo.observe import say, track, warn

_REMEMBERED = 4096
_AT_ONCE = 4  # pairs in the making: each holds its decoded videos in memory, and has two threads at work


class Films:
    """Where the videos of each pair lie, and how they look."""

    def __init__(self, pairs: MutableMapping[str, Card], copies: Callable[[Card], PairProxies]) -> None:
        """Serve ``pairs``; ``copies`` finds a pair's copies, or makes them."""
        self._copies = copies
        self._pairs = pairs
        self._lock = threading.Lock()
        self._known: dict[str, Future[PairProxies]] = {}
        self._makers = ThreadPoolExecutor(max(1, min(_AT_ONCE, (os.cpu_count() or 1) // 2)), "copies")
        self._ahead: threading.Thread | None = None
        self._closing = threading.Event()

    def soon(self, pair_id: str) -> Future[PairProxies]:
        """Return a pair's copies, now or when they are made; its result raises MediaError if they cannot be."""
        with self._lock:
            found = self._known.get(pair_id)
            if found is None or (found.done() and (found.cancelled() or found.exception())):
                while len(self._known) >= _REMEMBERED:
                    del self._known[next(iter(self._known))]
                # one maker a pair, however many ask for it
                found = self._known[pair_id] = self._makers.submit(self._copies, self._pairs[pair_id])
            return found

    def shape(self, pair_id: str) -> Shape:
        """Return size and differences of a pair's videos.

        Raises:
            MediaError: if they cannot be read.
        """
        found = self.soon(pair_id).result()
        return Shape(found.height, found.width, found.differences)

    def make_ahead(self) -> None:
        """Begin to make the copies of all pairs, behind a progress bar, while the page is served.

        They go one by one, so whoever asks for a pair waits for few others. Pairs that cannot be shown are taken out.
        """
        self._ahead = threading.Thread(target=self._make, name="copies ahead")
        self._ahead.start()

    def close(self) -> None:
        """Finish the copies in hand and make no others."""
        self._closing.set()
        if self._ahead is not None:
            if self._ahead.is_alive():
                say("finishing the copies in hand")
            self._ahead.join()
        self._makers.shutdown(cancel_futures=True)

    def _make(self) -> None:
        for pair_id in track(list(self._pairs), "browser copies"):
            if self._closing.is_set():
                return
            try:
                self.soon(pair_id).result()
            except MediaError as error:
                warn(f"left out: {error}")
                self._pairs.pop(pair_id, None)
