"""Score a stranger's video file safely: the parent's side of ``evaluation.video.worker``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from densedpo.clips.probe import FrameReader
from densedpo.config import ClipSettings

_COMMAND = (sys.executable, "-P", "-m", "densedpo.evaluation.video.worker")


class VideoReader(FrameReader):
    """Scores files through one child process, within the limits of ``ClipSettings``. Use as a context manager.

    ``decode_timeout_s`` is the longest silence: the child reports every few seconds, so a long film is no fault.
    """

    def __init__(self, settings: ClipSettings) -> None:
        """Keep the limits; the child starts with the first file."""
        super().__init__(settings, _COMMAND)
        self._cut_threshold = settings.cut_threshold

    def score(self, path: Path, segment_s: float) -> dict[str, Any]:
        """Return ``frames``, ``duration_s``, ``height``, ``width``, ``scores`` and ``segments`` of a file.

        Raises:
            MediaError: naming the file, why it cannot be used and what to do.
        """
        start = {"kind": "score", "segment_s": segment_s, "cut_threshold": self._cut_threshold}
        reply = self._ask(path, start)
        while "scores" not in reply:
            reply = self._ask(path, {"kind": "more"})
        return reply
