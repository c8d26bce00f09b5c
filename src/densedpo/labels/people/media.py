"""The videos of a task by opaque id, whole or in part.

An id says nothing: it is the task's own random id and a keyed digest of the side, good for that person alone. What is
served are the browser copies (people/proxies.py). Nothing in name, date or encoding tells the sides apart; the length
of a file does depend on its picture.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from pathlib import Path

from starlette.responses import Response, StreamingResponse

from densedpo.labels.answers import Side

OPAQUE = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_PIECE = 256 * 1024


def opaque_id(secret: bytes, task_id: str, annotator: str, pair_id: str, side: Side) -> str:
    """Return the id under which one side of a task is served, 64 hexadecimal digits."""
    text = f"media:{task_id}:{annotator}:{pair_id}:{side}"
    return task_id + hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()[:32]


def side_of(opaque: str, secret: bytes, annotator: str, pair_id: str) -> Side | None:
    """Return which side of ``pair_id`` an id names; None where it is not one of this person's."""
    sides: tuple[Side, Side] = ("a", "b")
    for side in sides:
        if hmac.compare_digest(opaque_id(secret, opaque[:32], annotator, pair_id, side), opaque):
            return side
    return None


def serve_file(path: Path, tag: str, asked: str | None, known_tag: str | None) -> Response:
    """Return a video, or the one part of it that a Range header asks for.

    Several ranges, ranges in other units and malformed ones answer 416 without reading anything.
    """
    size = path.stat().st_size
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{tag}"', "Cache-Control": "private, max-age=86400, immutable"}
    if known_tag == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if asked is None:
        return _stream(path, 0, size, 200, headers)
    found = part(asked, size)
    if found is None:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    start, stop = found
    return _stream(path, start, stop, 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})


def part(asked: str, size: int) -> tuple[int, int] | None:
    """Return the bytes [start, stop) that a Range header names in a file of ``size`` bytes; None: it names none."""
    match = _RANGE.fullmatch(asked.strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else None


def _stream(path: Path, start: int, stop: int, status: int, headers: dict[str, str]) -> Response:
    length = {"Content-Length": str(stop - start)}
    return StreamingResponse(_pieces(path, start, stop), status, {**headers, **length}, media_type="video/mp4")


def _pieces(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        left = stop - start
        while left > 0 and (piece := file.read(min(_PIECE, left))):
            left -= len(piece)
            yield piece
