"""Scores that an outside model gave, kept as soon as they are there: a video is scored once, however often it is asked.

A SQLite file with one row for (model, video, prompt). Numbers come back exactly as they went in.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from types import TracebackType

from densedpo.errors import ProjectError
from densedpo.keys import content_id

_SCHEMA = "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, scores TEXT NOT NULL) WITHOUT ROWID"
_BUSY_S = 60.0


def score_key(model: str, video: str, prompt: str) -> str:
    """Return the key of a score: digest of the model, digest of what was shown, prompt."""
    return content_id("outside-score", model, video, prompt, length=32)


class ScoreCache:
    """Scores by key; threads and processes may share the file. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open ``path``, making it if it is not there.

        Raises:
            ProjectError: if the file is there and is not such a cache.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = path, threading.Lock()
        self._database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ProjectError(f"{path}: not usable as a store of scores ({error}); remove it") from None

    def __enter__(self) -> ScoreCache:
        """Return the cache."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def get(self, key: str) -> dict[str, float] | None:
        """Return the scores kept under ``key``, None where there are none."""
        with self._lock:
            row = self._database.execute("SELECT scores FROM scores WHERE key = ?", (key,)).fetchone()
        return None if row is None else {name: float(value) for name, value in json.loads(row[0]).items()}

    def put(self, key: str, scores: dict[str, float]) -> None:
        """Keep ``scores`` durably under ``key``."""
        with self._lock:
            self._database.execute(
                "INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, json.dumps(scores, allow_nan=False))
            )
