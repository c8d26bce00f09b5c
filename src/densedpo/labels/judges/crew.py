"""Many segments before a judge at once: pairs are decoded ahead, workers judge, and what is done comes out as it comes.

Memory is bounded: frames of more than HELD_BYTES are in memory only if one pair alone takes more. Nothing here knows of
stores; labels/judges/run.py keeps what comes out.
"""

from __future__ import annotations

import os
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from densedpo.errors import MediaError
from densedpo.labels.judges.base import Judge, Judgement, SegmentPair
from densedpo.labels.judges.work import PairWork
from densedpo.store.project import Project

HELD_BYTES = 2 * 2**30
Shown = tuple[int, SegmentPair]
_GATHERED_S = 0.1  # what comes within this time is stored together
_TURN_S = 0.0005
_READERS = max(1, min(4, (os.cpu_count() or 1) // 2))
_READS_AHEAD = 4 * _READERS


@dataclass(frozen=True)
class Done:
    """What was said of a segment; or, without ``said``, the error of a pair that cannot be read."""

    work: PairWork
    segment: int
    said: Judgement | None
    error: MediaError | None = None


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Let threads take turns every half millisecond: one that waits for the network must not wait for its turn too."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Crew:
    """Workers that judge; iterate over it for lists of what is done, then look at ``error``.

    When the judge raises, nothing new is begun, what is under way comes out, and ``error`` holds what was raised.
    """

    def __init__(
        self,
        project: Project,
        judge: Judge,
        works: Sequence[PairWork],
        spared: Judgement,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        """Prepare to show the judge all ``works`` in their order, as many segments at a time as it allows.

        ``spared`` is said of segments that are alike.
        """
        self.error: BaseException | None = None
        self._spared = spared
        self._unasked = [work for work in works if not work.asked]
        self._project, self._judge, self._held_limit = project, judge, held_bytes
        self._unread = deque(work for work in works if work.asked)
        self._ready: deque[tuple[PairWork, int, SegmentPair]] = deque()
        self._left: dict[str, int] = {}  # segments of a pair whose frames are in memory
        self._held = 0
        self._reading = self._judging = 0
        self._inbox: queue.SimpleQueue[Callable[[], list[Done]]] = queue.SimpleQueue()
        self._gathered: list[Done] = []
        self._workers = ThreadPoolExecutor(judge.parallel, "judge")
        self._readers = ThreadPoolExecutor(_READERS, "decode")

    def __iter__(self) -> Iterator[list[Done]]:
        """Yield what is done since the last time, until nothing is left."""
        with _quick_turns():
            yield from self._batches()

    def _batches(self) -> Iterator[list[Done]]:
        self._begin()
        if self._unasked:
            yield [done for work in self._unasked for done in self._spared_of(work)]
        while self._reading or self._judging:
            self._gather()
            if self._gathered:
                yield self._taken()

    def _gather(self) -> None:
        """Wait for what is done, and a little longer for more; new work is begun as soon as there is room."""
        self._heed(self._inbox.get())
        until = time.monotonic() + _GATHERED_S
        while (self._reading or self._judging) and (left_s := until - time.monotonic()) > 0:
            try:
                self._heed(self._inbox.get(timeout=left_s))
            except queue.Empty:
                return

    def _heed(self, finished: Callable[[], list[Done]]) -> None:
        self._gathered += finished()
        self._begin()

    def _taken(self) -> list[Done]:
        taken, self._gathered = self._gathered, []
        return taken

    def stop(self) -> list[Done]:
        """Begin nothing new, wait for what is under way and return what came of it; harmless if repeated."""
        self._unread.clear()
        self._ready.clear()
        self._readers.shutdown(cancel_futures=True)
        self._workers.shutdown(cancel_futures=True)
        return [*self._taken(), *self._arrived()]

    def _spared_of(self, work: PairWork) -> list[Done]:
        return [Done(work, segment, self._spared) for segment in work.alike]

    def _arrived(self) -> Iterator[Done]:
        while not self._inbox.empty():
            yield from self._inbox.get()()

    def _begin(self) -> None:
        """Keep workers and readers busy; a few segments wait in line, so that nobody waits for the disk."""
        if self.error is not None:
            return
        ahead = self._judge.parallel
        while self._ready and self._judging < 2 * ahead:
            work, segment, shown = self._ready.popleft()
            self._judging += 1
            judging = self._workers.submit(self._judge.judge, shown)
            judging.add_done_callback(partial(self._hand_in, self._after_judging, work, segment))
        while self._unread and self._reading < _READS_AHEAD and len(self._ready) < ahead and self._fits():
            work = self._unread.popleft()
            self._held += work.frame_bytes
            self._reading += 1
            reading = self._readers.submit(self._read, work)
            reading.add_done_callback(partial(self._hand_in, self._after_reading, work))

    def _fits(self) -> bool:
        return not self._held or self._held + self._unread[0].frame_bytes <= self._held_limit

    def _read(self, work: PairWork) -> list[Shown]:
        return list(work.read(self._project))

    def _hand_in(self, after: Callable[..., list[Done]], *about: Any) -> None:
        """Put into the inbox what is to be done, in the thread that iterates, with what a pool has finished."""
        *known, finished = about
        self._inbox.put(partial(after, finished, *known))

    def _after_reading(self, read: Future[list[Shown]], work: PairWork) -> list[Done]:
        self._reading -= 1
        if read.cancelled():
            return []
        error = read.exception()
        if error is None:
            self._left[work.pair_id] = len(read.result())
            self._ready.extend((work, *shown) for shown in read.result())
            return self._spared_of(work)
        self._held -= work.frame_bytes
        if isinstance(error, MediaError):
            return [Done(work, work.asked[0], None, error)]
        return self._end(error)

    def _after_judging(self, judged: Future[Judgement], work: PairWork, segment: int) -> list[Done]:
        self._judging -= 1
        self._left[work.pair_id] -= 1
        if not self._left[work.pair_id]:
            self._held -= work.frame_bytes
        if judged.cancelled():
            return []
        error = judged.exception()
        if error is None:
            return [Done(work, segment, judged.result())]
        return self._end(error)

    def _end(self, error: BaseException) -> list[Done]:
        """Remember the first error and begin nothing new."""
        self.error = self.error or error
        self._workers.shutdown(wait=False, cancel_futures=True)
        return []
