"""Progress, messages and the run log. Everything for people goes to standard error; ``--json`` owns standard output."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")
IS_MAIN = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one speaks
console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not IS_MAIN)


def say(message: str) -> None:
    """Tell the user one line about what is being done."""
    console.print(message, markup=False)


def warn(message: str) -> None:
    """Tell the user one line about something that was set aside or looks wrong."""
    console.print(f"warning: {message}", style="yellow", markup=False)


def fail(message: str) -> None:
    """Tell the user why the command failed; of several processes every one may, as each knows its own trouble."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {message}", style="red", markup=False)


def track(
    items: Iterable[Item],
    what: str,
    *,
    total: int | None = None,
    done: int = 0,
    note: Callable[[], str] = lambda: "",
) -> Iterator[Item]:
    """Yield ``items`` behind a progress bar with count, time spent, time left and what ``note`` returns.

    Without a terminal one plain line appears every ten seconds instead, so that log files stay readable.
    """
    count = total if total is not None else len(items) + done if isinstance(items, Sized) else None
    if not console.is_terminal:
        yield from _plain(items, what, count, done, note)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("spent"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(what, total=count, completed=done, note=note())
        for item in items:
            yield item
            progress.update(task, advance=1, note=note())


def _plain(items: Iterable[Item], what: str, count: int | None, done: int, note: Callable[[], str]) -> Iterator[Item]:
    start = last = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        finished = count is not None and number + done == count
        if now - last >= 10 or (finished and now - start >= 10):
            left = f", {(now - start) / number * (count - done - number):.0f} s left" if count else ""
            noted = f", {note()}" if note() else ""
            say(f"{what}: {number + done}/{count or '?'}, {now - start:.0f} s spent{left}{noted}")
            last = now


class MetricsLog:
    """Append-only ``metrics.jsonl``: one JSON object a line, one line a step.

    On resume, lines after the restored step are dropped first, so a resumed run's file equals an uninterrupted one.
    """

    def __init__(self, path: Path, *, keep_up_to_step: int | None = None) -> None:
        """Open ``path`` for appending, keeping only lines with ``step <= keep_up_to_step`` if given."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep_up_to_step is not None and path.exists():
            rows = [row for row in read_jsonl(path) if row["step"] <= keep_up_to_step]
            temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
            temporary.write_text("".join(_line(row) for row in rows), encoding="utf-8")
            temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; ``step`` must be in it."""
        assert "step" in row
        self._file.write(_line(row))
        self._file.flush()

    def sync(self) -> None:
        """Make what was written durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make the log durable and close it."""
        self.sync()
        self._file.close()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file; an incomplete last line, left by a kill, is dropped."""
    rows = []
    for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def print_json(value: dict[str, Any]) -> None:
    """Print the one JSON object that ``--json`` promises on standard output; under torchrun the first process does."""
    if not IS_MAIN:
        return
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()
