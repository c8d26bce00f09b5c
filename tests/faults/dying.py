"""Commands that kill themselves at a counted moment, so that a kill hits the same place on every machine.

What is put in front of a script makes it die of SIGKILL at the n-th time that something of it is made durable: a file
written but not yet renamed, or renamed but not yet told to the disk.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping

_DYING = """
import os, signal, sys
left, sync = int(sys.argv.pop(1)), os.fsync

def counted(handle):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)

os.fsync = counted
"""


def kill_at(moment: int, script: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
    """Run a Python script that dies as it makes something durable for the ``moment``-th time, counted from 1."""
    command = [sys.executable, "-c", _DYING + script, str(moment), *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=280, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
