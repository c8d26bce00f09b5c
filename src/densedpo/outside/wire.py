"""What goes over the pipe: requests, answers and the child's hello, each checked on arrival."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densedpo.keys import content_id
from densedpo.outside.adapter import PREFIX, PROTOCOL

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class Item:
    """One video file and the prompt it was made from; an empty prompt where none may be told."""

    video: Path
    prompt: str = ""


@dataclass(frozen=True)
class Scored:
    """The numbers of one item by name; or, if ``error`` is not empty, why there are none."""

    scores: dict[str, float]
    error: str = ""


@dataclass(frozen=True)
class Hello:
    """What the child says of itself: its name, the names of its numbers, how many videos it scores together.

    ``prompted`` numbers mean nothing where the prompt is empty.
    """

    name: str
    version: str
    scores: tuple[str, ...]
    prompted: tuple[str, ...]
    batch: int
    identity: str

    @property
    def digest(self) -> str:
        """Return the id of all that shapes the numbers, as far as the adapter says it."""
        return content_id("adapter", PROTOCOL, self.name, self.version, self.scores, self.identity)


class BrokenError(Exception):
    """The child died, hangs or talks nonsense; the text says which. Never leaves ``outside``."""


def request(number: int, item: Item) -> bytes:
    """Return the line that asks about one item."""
    message = {"id": number, "video": str(item.video.absolute()), "prompt": item.prompt}
    return json.dumps(message).encode() + b"\n"


def read_message(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line of ours; None for a line that something else printed.

    Raises:
        BrokenError: if the line is ours and holds no JSON object.
    """
    if not line.startswith(PREFIX.encode()):
        return None
    try:
        message = json.loads(line[len(PREFIX) :])
    except (ValueError, RecursionError):
        raise BrokenError("sent a line that is not JSON") from None
    if not isinstance(message, dict):
        raise BrokenError("sent a line that is not an object")
    return message


def read_hello(message: dict[str, Any]) -> Hello:
    """Return the checked hello.

    Raises:
        BrokenError: if it speaks another protocol or does not say what it scores.
    """
    if message.get("densedpo") != PROTOCOL:
        raise BrokenError(f"speaks protocol {str(message.get('densedpo'))[:20]!r}, not {PROTOCOL}")
    name, scores, batch = message.get("name"), message.get("scores"), message.get("batch", 1)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BrokenError("its hello lacks a name of letters, digits, '.', '_' and '-'")
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise BrokenError("the batch of its hello is no positive number")
    if not isinstance(scores, list) or not scores or not all(isinstance(score, str) and score for score in scores):
        raise BrokenError("its hello does not name its scores")
    prompted = message.get("prompted", [])
    if not isinstance(prompted, list) or any(score not in scores for score in prompted):
        raise BrokenError("the prompted scores of its hello are not among its scores")
    identity = json.dumps(message.get("identity"), sort_keys=True)
    return Hello(name, str(message.get("version", "")), tuple(dict.fromkeys(scores)), tuple(prompted), batch, identity)


def read_scores(message: dict[str, Any], names: Sequence[str]) -> Scored:
    """Return the numbers if every name has a finite one, otherwise what is wrong."""
    if "error" in message:
        return Scored({}, " ".join(str(message["error"]).split())[:_REASON_CHARACTERS] or "no reason given")
    found = message.get("scores")
    if not isinstance(found, dict):
        return Scored({}, "the answer holds no scores")
    for name in names:
        value = found.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return Scored({}, f"score {name} is {str(value)[:40]}, not a finite number")
    return Scored({name: float(found[name]) for name in names})
