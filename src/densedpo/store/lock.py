"""Locks between processes, for work that must not be done twice; they end with their process, also by a kill."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TextIO


def take_lock(path: Path, *, alone: bool) -> TextIO:
    """Return the open file that holds the lock at ``path`` until it is closed: ``alone``, or with others that share it.

    Raises:
        BlockingIOError: if another holds it who does not share it, or to be alone is asked for and another holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise
    return lock
