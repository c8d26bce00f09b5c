"""How fast and how lean ``densedpo evaluate --videos`` is: clips a minute and core, and peak memory of all processes.

Clips with things that move over a ground that moves are written first, outside the clock. Every clip differs, so none
is taken from an earlier result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.encode import write_video
from densedpo.config import ClipSettings
from densedpo.evaluation.folder import score_folder
from densedpo.keys import stream
from densedpo.store.files import write_json
from densedpo.store.project import Project

GATE_MINUTES = 20.0
GATE_CLIPS, GATE_CORES = 1000, 2
GATE_MB = 600  # a worker


def main() -> None:
    """Run from the command line."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "videos"
        for index in range(options.clips):
            write_video(folder / f"{index:05}.mp4", clip(options, index), options.fps, profile="master")
        found = measured(Project(Path(name) / "project"), folder, options)
    if options.out:
        write_json(options.out, found)
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.json else table(found))
    if options.check and not all(found["gates"].values()):
        raise SystemExit(1)


def clip(options: argparse.Namespace, index: int) -> NDArray[np.uint8]:
    """Return a clip [T, H, W, 3]: a textured square that moves over a textured ground that moves."""
    rng = stream("benchmark", "score-videos", index)
    height, width, count = options.height, options.width, options.frames
    coarse = rng.uniform(0, 255, (height // 12, (width + count) // 12, 3)).astype(np.float32)
    ground = np.clip(cv2.resize(coarse, (width + count, height), interpolation=cv2.INTER_CUBIC), 0, 255)
    side = height // 3
    thing = np.clip(cv2.resize(rng.uniform(0, 255, (6, 6, 3)).astype(np.float32), (side, side)), 0, 255)
    frames = np.stack([ground[:, time : time + width] for time in range(count)]).astype(np.uint8)
    for time_, frame in enumerate(frames):
        left = (3 * time_ + 40 * index) % (width - side)
        frame[side : 2 * side, left : left + side] = thing
    return frames


def measured(project: Project, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Score the folder and return what it took."""
    memory = _Watch()
    start = time.perf_counter()
    with memory:
        summary = score_folder(project, folder, ClipSettings(), 1.0, "videos", options.workers)
    wall_s = time.perf_counter() - start
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    core_s = (spent.ru_utime + spent.ru_stime) / options.clips
    pixels = options.frames * options.height * options.width
    minutes = GATE_CLIPS * core_s / GATE_CORES / 60
    return {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "load_average_at_end": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
            "opencv": cv2.__version__,
        },
        "clips": summary.scored,
        "frames": options.frames,
        "size": [options.height, options.width],
        "workers": options.workers,
        "wall_s": round(wall_s, 2),
        "clips_per_minute": round(60 * options.clips / wall_s, 2),
        "core_s_per_clip": round(core_s, 3),
        "core_ms_per_frame": round(1000 * core_s / options.frames, 2),
        "minutes_for_1000_on_2_cores": round(minutes, 2),
        "peak_mb_per_worker": round(memory.peak_mb, 1),
        "gates": {
            "1000 clips in 20 minutes on 2 cores": minutes <= GATE_MINUTES or pixels != 121 * 288 * 512,
            f"{GATE_MB} MB a worker": memory.peak_mb <= GATE_MB,
        },
    }


class _Watch:
    """Follows the resident memory of the largest child, by /proc; 0 where there is none."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        children = Path(f"/proc/{os.getpid()}/task")
        while not self._done.wait(0.05):
            for pid in {pid for task in children.glob("*/children") for pid in task.read_text().split()}:
                status = Path(f"/proc/{pid}/statm")
                if status.exists():
                    pages = int(status.read_text().split()[1])
                    self.peak_mb = max(self.peak_mb, pages * resource.getpagesize() / 2**20)


def table(found: dict[str, Any]) -> str:
    """Return the figures as lines."""
    return "".join(f"{name:32} {value}\n" for name, value in found.items() if name not in ("machine", "gates"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=4, help="clips to make and score")
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--fps", type=int, default=24)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="also write it to this file")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a gate fails")
    return parser.parse_args()


if __name__ == "__main__":
    main()
