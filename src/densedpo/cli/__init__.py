"""The command line: ``densedpo VERB``. Every verb is one short function; nothing heavy is imported until one runs."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from densedpo.cli.app import app
from densedpo.errors import DenseDPOError
from densedpo.observe import console


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
    except DenseDPOError as error:
        if "--debug" in sys.argv:
            raise
        console.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; repeat the command to go on", markup=False)
        sys.exit(130)
    sys.exit(0)


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    console.print("terminated; repeat the command to go on", markup=False)
    sys.exit(143)
