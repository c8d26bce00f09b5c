"""A judging run that can be killed and is back within milliseconds: a parent that has read all code forks it.

Usage: judging.py PROJECT URL WORKERS [lazy]. For every line on standard input a run is started and its process id
printed; when it ends, how it ended. ``lazy`` is the wrong twin: it uses replies that are not on disk yet.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import openai  # noqa: F401  (read before the fork)

from densedpo.config import parse_settings
from densedpo.labels.judges import trouble  # noqa: F401  (the same)
from densedpo.labels.judges.endpoint import Endpoint
from densedpo.labels.judges.replies import Replies
from densedpo.labels.judges.run import judge_pairs
from densedpo.labels.judges.vlm import VlmJudge
from densedpo.store.project import Project


def make_lazy() -> None:
    """Have replies written a while after they are said to be."""
    keep = Replies.keep

    def later(self: Replies, *what: Any) -> Future[None]:
        threading.Timer(0.3, keep, (self, *what)).start()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    Replies.keep = later  # type: ignore[method-assign, assignment]


def judge(root: Path, url: str, workers: int) -> None:
    """Judge what is left."""
    values = {"base_url": url, "model": "tiny", "parallel": workers}
    settings = parse_settings({"judge": values}).judge
    project = Project(root)
    with Replies(project.judge_replies) as replies, Endpoint(settings, replies) as endpoint:
        judge_pairs(project, VlmJudge(endpoint, settings), 1.0, interrupt=endpoint.close)


def main(root: Path, url: str, workers: int, lazy: bool) -> None:
    """Fork a run for every line."""
    if lazy:
        make_lazy()
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            judge(root, url, workers)
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:] == ["lazy"])
