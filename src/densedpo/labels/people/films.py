"""The browser copies of pairs that the page shows, looked up once and remembered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from densedpo.labels.answers import Side
from densedpo.labels.people.asks import Card
from densedpo.labels.people.desk import Shape
from densedpo.labels.people.proxies import PairProxies

_REMEMBERED = 4096


class Films:
    """Where the videos of each pair lie, and how they look."""

    def __init__(self, pairs: Mapping[str, Card], copies: Callable[[Card], PairProxies]) -> None:
        """Serve ``pairs``; ``copies`` finds their copies, or makes them when they are first asked for."""
        self._copies = copies
        self._pairs = pairs
        self._making = threading.Lock()
        self._known = lru_cache(maxsize=_REMEMBERED)(self._look_up)

    def shape(self, pair_id: str) -> Shape:
        """Return size and differences of a pair's videos.

        Raises:
            MediaError: if they cannot be read.
        """
        found = self._known(pair_id)
        return Shape(found.height, found.width, found.differences)

    def file(self, pair_id: str, side: Side) -> tuple[Path, str]:
        """Return one side's file and the digest of its bytes.

        Raises:
            MediaError: if it cannot be read.
        """
        proxy = self._known(pair_id).sides[side]
        return proxy.path, proxy.sha256

    def _look_up(self, pair_id: str) -> PairProxies:
        card = self._pairs[pair_id]
        # two who ask for the same pair must not both make its copies
        with self._making:
            return self._copies(card)
