"""Adapter of VBench's six dimensions for custom videos (Vchitect/VBench 0.1.5). Runs in its environment, not in ours.

Never run by this project, which had neither GPU nor weights: written from ``vbench/__init__.py``.
Input: MP4 files shorter than 5 s by the project's own rule (VBench-Long takes longer ones); any size.
Output, from 0 to 1: subject_consistency, background_consistency, motion_smoothness, dynamic_degree (0 or 1 a video, so
only its mean over many says something; a moving camera counts), aesthetic_quality, imaging_quality.

VBench loads its models anew for every call, so videos go in large batches. It takes prompts from file names unless it
is told them, and the six dimensions do not use prompts: files get plain numbers as names.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from adapter import serve  # type: ignore[import-not-found]

DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
PER_CENT = "imaging_quality"  # its numbers for single videos run to 100
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", default="cuda")
parser.add_argument("--batch", type=int, default=64, help="videos given to VBench together, 2 or more")
given = parser.parse_args()


def load() -> Callable[[list[str], list[str]], list[dict[str, float]]]:
    """Return the scoring function."""
    import vbench  # type: ignore[import-not-found]

    prompts_file = os.path.join(os.path.dirname(vbench.__file__), "VBench_full_info.json")  # noqa: PTH118, PTH120

    def score(videos: list[str], prompts: list[str]) -> list[dict[str, float]]:
        del prompts
        with tempfile.TemporaryDirectory(prefix="vbench-") as work:
            shown, out = Path(work) / "videos", Path(work) / "out"
            shown.mkdir()
            names = [f"{number:06}.mp4" for number in range(len(videos))]
            for name, video in zip(names, videos):  # noqa: B905  (Python 3.8 has no strict)
                shutil.copy(video, str(shown / name))
            bench = vbench.VBench(given.device, prompts_file, str(out))
            bench.evaluate(
                videos_path=str(shown), name="all", dimension_list=list(DIMENSIONS), local=False, mode="custom_input"
            )
            said = json.loads((out / "all_eval_results.json").read_text(encoding="utf-8"))
        return read(said, names)

    return score


def read(said: dict[str, list[object]], names: list[str]) -> list[dict[str, float]]:
    """Return the numbers of each video from ``{dimension: [mean, [{video_path, video_results}, ...]]}``."""
    found: list[dict[str, float]] = [{} for _ in names]
    for dimension in DIMENSIONS:
        rows: list[dict[str, str | float]] = said[dimension][1]  # type: ignore[assignment]
        values = {Path(str(row["video_path"])).name: float(row["video_results"]) for row in rows}
        for place, name in enumerate(names):
            found[place][dimension] = values[name] / (100 if dimension == PER_CENT else 1)
    return found


if __name__ == "__main__":
    serve(load, name="vbench", version="0.1.5", scores=DIMENSIONS, batch=max(2, given.batch))
