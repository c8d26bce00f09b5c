"""The child's end of the pipe: what an adapter script imports. Standard library only, Python 3.8 or newer.

It runs in the outside model's own environment, where densedpo is not installed, so a script finds it by its path:

    sys.path.insert(0, FOLDER_OF_THIS_FILE)
    from adapter import serve

    def load():
        model = ...
        return lambda video, prompt: {"quality": model(video)}

    serve(load, name="mine", scores=["quality"])

Every message is one line, ``densedpo:`` and a JSON object, on the standard output that the script was started with.
Whatever else is printed, by Python or by a library in C, goes to standard error, which the parent keeps as a log.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

PROTOCOL = 1
PREFIX = "densedpo:"
_HERE = Path(__file__).resolve().parent
_GRACE_S = 5.0  # time to end by itself once nobody listens
_GATHER_S = 0.02  # a batch is written in one go, but arrives line by line
_WHY_CHARACTERS = 500


def serve(
    load: Callable[[], Callable[..., Any]],
    *,
    name: str,
    scores: Sequence[str],
    prompted: Sequence[str] = (),
    version: str = "",
    batch: int = 1,
    identity: Any = None,
) -> None:
    """Load the model, say hello, and answer requests until standard input ends.

    Args:
        load: makes the scoring function: ``score(video, prompt)`` to a dictionary of numbers; with ``batch`` above 1
            ``score(videos, prompts)`` to a list of such dictionaries, or of exceptions for videos that failed.
        name: name of the model, for people.
        scores: names of the numbers that every answer holds.
        prompted: those of them that mean nothing where the prompt is empty.
        version: version of the model or of its code.
        batch: how many videos are scored together.
        identity: whatever else shapes the numbers (weights, options): a value for JSON. It keys stored scores.
    """
    # taken away before anything is loaded: a library may print
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    # what lies beside this file must not be taken for a module of the same name that the model needs
    sys.path[:] = [place for place in sys.path if Path(place).resolve() not in (_HERE, _HERE / "adapters")]
    score = load()
    hello = {"densedpo": PROTOCOL, "name": name, "version": version, "scores": list(scores)}
    _say(out, {**hello, "prompted": list(prompted), "batch": batch, "identity": identity})
    requests: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        items = _take(requests, batch)
        if not items:
            return
        for item, found in zip(items, _score(score, items, batch)):  # noqa: B905  (Python 3.8 has no strict)
            _say(out, _reply(item["id"], found, scores))


def fingerprint(folder: str) -> str:
    """Return a digest of the names and sizes of all files below a folder: cheap, and other weights show."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    found = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _read(requests: queue.Queue[Any]) -> None:
    for line in sys.stdin.buffer:
        if line.strip():
            requests.put(json.loads(line.decode("utf-8")))
    requests.put(None)
    # the parent is gone or has closed the pipe: a model that hangs now would stay for ever
    time.sleep(_GRACE_S)
    os._exit(0)


def _take(requests: queue.Queue[Any], batch: int) -> list[dict[str, Any]]:
    """Wait for one request and take what else is there, up to ``batch``; nothing at the end."""
    first = requests.get()
    items = [] if first is None else [first]
    while items and len(items) < batch:
        try:
            more = requests.get(timeout=_GATHER_S)
        except queue.Empty:
            break
        if more is None:
            requests.put(None)
            break
        items.append(more)
    return items


def _score(score: Callable[..., Any], items: list[dict[str, Any]], batch: int) -> list[Any]:
    try:
        if batch == 1:
            return [score(items[0]["video"], items[0]["prompt"])]
        found = list(score([item["video"] for item in items], [item["prompt"] for item in items]))
        if len(found) != len(items):
            raise ValueError(f"{len(found)} answers for {len(items)} videos")
    except Exception as error:  # noqa: BLE001  (a stranger's model may raise anything: these videos fail, the rest go on)
        traceback.print_exc()
        return [error] * len(items)
    return found


def _reply(number: Any, found: Any, scores: Sequence[str]) -> dict[str, Any]:
    if isinstance(found, Exception):
        why = f"{type(found).__name__}: {' '.join(str(found).split())}"
        return {"id": number, "error": why[:_WHY_CHARACTERS]}
    try:
        values = {key: float(found[key]) for key in scores}
    except (KeyError, TypeError, ValueError) as error:
        return {"id": number, "error": f"the model gave no number for {error}"}
    wrong = [key for key, value in values.items() if not math.isfinite(value)]
    if wrong:
        return {"id": number, "error": f"not a finite number: {', '.join(wrong)}"}
    return {"id": number, "scores": values}


def _say(out: TextIO, message: dict[str, Any]) -> None:
    out.write(PREFIX + json.dumps(message, allow_nan=False) + "\n")
    out.flush()
