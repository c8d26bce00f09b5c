"""The child process in which a stranger's video is decoded and scored. Started and watched by ``video.reader``.

Speaks the protocol of ``clips.worker`` and decodes by its rules, but frames never leave this process: every few seconds
it says that it is still at work, at the end it sends the scores. One picture is held at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from densedpo.clips.worker import RefusedError, limits_of, serve, shown_frames
from densedpo.evaluation.video.meter import VideoMeter, view_size
from densedpo.evaluation.video.summary import summarise

_PAUSE_S = 2.0
_NARROWEST = 1 / 16


def main() -> None:
    """Serve requests until standard input ends."""
    cv2.setNumThreads(1)  # there is one process a core
    running: Iterator[dict[str, Any]] = iter(())

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal running
        if request["kind"] == "score":
            running = _scored(request)
        reply = next(running, None)
        if reply is None:
            raise RefusedError("the decoder was started anew in the middle of it; repeat the command")
        return reply

    serve(answer)


def _scored(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield how many frames were measured, every few seconds, and at last the scores."""
    meter: VideoMeter | None = None
    shown, pause_at = (0, 0), time.monotonic() + _PAUSE_S
    frames = shown_frames(Path(request["path"]), limits_of(request), view_size)
    for count, (time_s, seen, image) in enumerate(frames, start=1):
        if meter is None:
            shown = seen
            if min(shown) < _NARROWEST * max(shown):
                raise RefusedError(f"{shown[1]} x {shown[0]} px is too narrow a picture to follow motion in")
            meter = VideoMeter(*shown)
        meter.add(image, time_s)
        if time.monotonic() > pause_at:
            yield {"measured": count}
            pause_at = time.monotonic() + _PAUSE_S
    assert meter is not None, "a file without frames is refused by whoever decodes it"
    numbers = meter.numbers()
    if len(numbers.times_s) < 2:
        raise RefusedError("has a single frame; motion needs two")
    found = summarise(numbers, float(request["segment_s"]), float(request["cut_threshold"]))
    yield {
        "frames": len(numbers.times_s),
        "duration_s": numbers.duration_s,
        "height": shown[0],
        "width": shown[1],
        "scores": found.scores,
        "segments": found.segments,
    }


if __name__ == "__main__":
    main()
