"""A labelling server that can be killed and is back within milliseconds: a parent that has read all code forks it.

Usage: label_server.py PROJECT PORT [unsynced]. For every line on standard input a server is started and its process id
printed. ``unsynced`` is the wrong twin: it acknowledges what the disk does not have yet.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvicorn

from densedpo.config import parse_settings
from densedpo.labels import database
from densedpo.labels.people.gate import Site
from densedpo.labels.people.office import open_office
from densedpo.labels.people.serve import listen, server_config
from densedpo.store.project import Project


def unsynced(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in ("busy_timeout = 30000", "journal_mode = WAL", "synchronous = OFF"):
        connection.execute(f"PRAGMA {pragma}")


def main(root: Path, port: int, twin: bool) -> None:
    if twin:
        database._prepare_sqlite = unsynced
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the killed need no burial
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            settings = parse_settings({"serve": {"overlap": 4, "gold_every": 0, "repeat_every": 0}})
            office = open_office(Project(root), settings, prepare=False)
            uvicorn.Server(server_config(office, Site("127.0.0.1"))).run(sockets=[listen("127.0.0.1", port)])
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["unsynced"])
