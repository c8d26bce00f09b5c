"""The command line: ``densedpo VERB``. Every verb is one short function; nothing heavy is imported until one runs."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from densedpo.cli.app import app
from densedpo.errors import DenseDPOError
from densedpo.observe import console, fail

_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line and exit.

    0 done; 1 failed, with one line saying what, where and what to do; 2 wrong usage; 130 or 143 stopped by a signal,
    resumable by repeating the command.
    """
    # threads that wait must sleep: on shared cores, spinning ones slow the work down many times over
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # libraries must not draw their own bars over ours, nor phone home
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(standalone_mode=True)
    except (DenseDPOError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        text = str(error) if isinstance(error, DenseDPOError) else _one_line(error)
        fail(text)
        sys.exit(1)
    except KeyboardInterrupt:
        _say_stopped()
        sys.exit(_INTERRUPTED)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # Typer turns an interrupt into this code without a word
            _say_stopped()
        raise
    sys.exit(0)


def _one_line(error: OSError) -> str:
    """Return what the system said and of which path; of a rename that failed, the path that was wanted."""
    path = error.filename2 or error.filename
    if path and isinstance(error, FileExistsError | NotADirectoryError):
        # the system names the folder that was wanted, not the file in its way
        in_the_way = next((place for place in (Path(path), *Path(path).parents) if place.is_file()), None)
        if in_the_way is not None:
            return f"{in_the_way}: a file stands where a folder is needed; move it away"
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return f"{path}: {reason}" if path else reason


def _say_stopped() -> None:
    console.print("stopped; repeat the command to go on", markup=False)


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    console.print("terminated; repeat the command to go on", markup=False)
    sys.exit(143)
