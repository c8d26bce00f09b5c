"""How close one judging process comes to the rate that a service's latency allows, and what is done more than once.

A service in a process of its own answers every request after 200 ms; 64 are sent at once, so at best 320 are answered a
second. All that judging does is in the time: decoding, encoding, questions, replies on disk, answers in the store.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from densedpo.clips.decode import Video, read_video
from densedpo.clips.encode import write_video
from densedpo.config import parse_settings
from densedpo.keys import stream
from densedpo.labels.judges import images, work
from densedpo.labels.judges.answerer import Image
from densedpo.labels.judges.endpoint import Endpoint
from densedpo.labels.judges.images import encode_image
from densedpo.labels.judges.replies import Replies
from densedpo.labels.judges.run import judge_pairs
from densedpo.labels.judges.vlm import VlmJudge
from densedpo.store.project import Project
from densedpo.store.tables import write_table

FPS, FRAMES, SEGMENTS = 8.0, 32, 4
GATE = 0.9
_COLUMNS = pa.schema(
    {
        "pair_id": pa.string(), "caption": pa.string(), "mode": pa.string(), "fps": pa.float64(),
        "num_frames": pa.int64(), "height": pa.int64(), "width": pa.int64(),
    }
)  # fmt: skip


def fill(project: Project, pairs: int, side_px: int) -> None:
    """Write pairs of soft coloured noise that drifts, no two alike."""
    rows = []
    for number in range(pairs):
        row = {"pair_id": f"p{number:05}", "caption": "noise", "mode": "guided", "fps": FPS, "num_frames": FRAMES}
        rows.append(row | {"height": side_px, "width": side_px})
        for side in "ab":
            write_video(project.pairs / f"p{number:05}" / f"{side}.mp4", drifting(number, side, side_px), FPS)
    write_table(project.pairs_table, rows, _COLUMNS)


def drifting(number: int, side: str, side_px: int) -> NDArray[np.uint8]:
    """Return frames [T, H, W, 3] of one picture that moves by a pixel a frame."""
    coarse = stream("judge throughput", side, number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    large = cv2.resize(coarse, (side_px + FRAMES, side_px), interpolation=cv2.INTER_CUBIC)
    return np.stack([large[:, index : index + side_px] for index in range(FRAMES)]).astype(np.uint8)


@contextmanager
def service(latency_s: float) -> Iterator[int]:
    """Run the service in a process of its own; gives its port."""
    command = [sys.executable, "-m", "tests.fake_endpoint", "--latency-s", str(latency_s)]
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "src")])
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count inside the block how often a file is decoded and a frame encoded."""
    counts = {"decodes": 0, "encodes": 0}

    def reading(path: Path) -> Video:
        counts["decodes"] += 1
        return read_video(path)

    def encoding(pixels: NDArray[np.uint8], image_format: str) -> Image:
        counts["encodes"] += 1
        return encode_image(pixels, image_format)

    work.read_video, images.encode_image = reading, encoding  # type: ignore[attr-defined]
    try:
        yield counts
    finally:
        work.read_video, images.encode_image = read_video, encode_image  # type: ignore[attr-defined]


def measure(pairs: int, side_px: int, parallel: int, latency_s: float) -> dict[str, Any]:
    """Return rate, share of the ideal rate, CPU time a call, and decodes and encodes for each side of a segment."""
    with tempfile.TemporaryDirectory() as folder, service(latency_s) as port, counted() as counts:
        project = Project(Path(folder))
        fill(project, pairs, side_px)
        values = {"base_url": f"http://127.0.0.1:{port}/v1", "model": "fake", "parallel": parallel}
        settings = parse_settings({"judge": values}).judge
        with Replies(project.judge_replies) as replies, Endpoint(settings, replies) as endpoint:
            before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            summary = judge_pairs(project, VlmJudge(endpoint, settings), 1.0)
            spent_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        transactions = replies.transactions
    assert summary.outcomes["ok"] == pairs * SEGMENTS, summary
    sides = 2 * pairs * SEGMENTS
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ideal = parallel / latency_s
    return {
        "calls": summary.calls,
        "seconds": round(spent_s, 2),
        "calls_per_s": round(summary.calls / spent_s, 1),
        "ideal_calls_per_s": round(ideal, 1),
        "share_of_ideal": round(summary.calls / spent_s / ideal, 3),
        "cpu_ms_per_call": round(1000 * cpu_s / summary.calls, 2),
        "cpu_share": round(cpu_s / spent_s, 2),
        "replies_per_transaction": round(summary.calls / transactions, 1),
        "decodes_per_side_of_a_pair": counts["decodes"] / (2 * pairs),
        "encodes_per_frame_of_a_side": counts["encodes"] / (sides * FRAMES // SEGMENTS),
    }


def main() -> int:
    """Run the benchmark; 1 if ``--check`` is given and a gate fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500, help="pairs of 4 segments, 8 calls each")
    parser.add_argument("--side-px", type=int, default=64, help="height and width of the frames")
    parser.add_argument("--parallel", type=int, default=64)
    parser.add_argument("--latency-s", type=float, default=0.2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help=f"exit code 1 below {GATE:.0%} of the ideal rate")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found: dict[str, Any] = {
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "pairs": chosen.pairs, "side_px": chosen.side_px, "parallel": chosen.parallel, "latency_s": chosen.latency_s,
    }  # fmt: skip
    found |= measure(chosen.pairs, chosen.side_px, chosen.parallel, chosen.latency_s)
    once = found["decodes_per_side_of_a_pair"] == 1 and found["encodes_per_frame_of_a_side"] == 1
    found["gates"] = {"share_of_ideal": found["share_of_ideal"] >= GATE, "once": once}
    text = json.dumps(found, indent=2)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")
    if chosen.json:
        print(text)
    else:
        for name, value in found.items():
            print(f"{name:30} {value}")
    return 1 if chosen.check and not all(found["gates"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
