"""A PostgreSQL server of the tests' own, where its programs are installed: started in a folder, reached by socket."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def program(name: str) -> str | None:
    """Return where one of PostgreSQL's programs lies; Debian keeps them off the path."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(newest[-1]) if newest else shutil.which(name)


needs_postgres = pytest.mark.skipif(
    program("initdb") is None or shutil.which("setpriv") is None,
    reason="needs a PostgreSQL server: apt-get install postgresql",
)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run a fresh server with its data in ``folder``; give the URL of its database."""
    initdb, postgres = program("initdb"), program("postgres")
    assert initdb is not None and postgres is not None
    data = folder / "data"
    data.mkdir()
    prefix = []
    if os.geteuid() == 0:
        # the server refuses to run as the superuser
        shutil.chown(data, "postgres", "postgres")
        shutil.chown(folder, "postgres", "postgres")
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and parent != Path("/") and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    made = [*prefix, initdb, "-D", str(data), "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
    subprocess.run(made, check=True, capture_output=True, cwd=data)
    run = [*prefix, postgres, "-D", str(data), "-c", "listen_addresses=", "-k", str(data), "-c", "max_connections=200"]
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=data)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if b"ready to accept connections" in line:
                break
        else:
            raise AssertionError("the server did not start")
        yield f"postgresql://tester@/postgres?host={data}"
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown: it does not wait for those still connected
        process.communicate(timeout=60)
