"""Adapter of VideoReward (KwaiVGI/VideoAlign, arXiv 2501.13918). Runs in its environment, not in ours.

Never run by this project, which had neither GPU nor weights: written from ``inference.py`` of that repository.
Input: 2 frames a second by default, each reduced to about 448 x 448 px (both from the checkpoint's configuration).
Output: VQ (visual quality), MQ (motion quality), TA (text alignment), each z-normalised, and their sum, Overall.
In the paper's hands: right on 71.9 % of 1-second segments; prefers a frozen clip in 18-20 % of cases (DenseDPO, tables
3a and 8).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from adapter import fingerprint, serve  # type: ignore[import-not-found]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--code", required=True, help="clone of KwaiVGI/VideoAlign")
parser.add_argument("--weights", required=True, help="folder of KwaiVGI/VideoReward")
parser.add_argument("--frames-per-s", type=float, help="frames read for each second; default: the checkpoint's")
parser.add_argument("--device", default="cuda:0")
parser.add_argument("--batch", type=int, default=4, help="videos scored together, 2 or more")
given = parser.parse_args()


def load() -> Callable[..., list[dict[str, float]]]:
    """Return the scoring function."""
    sys.path.insert(0, given.code)
    import torch
    from inference import VideoVLMRewardInference  # type: ignore[import-not-found]

    model = VideoVLMRewardInference(given.weights, device=given.device, dtype=torch.bfloat16)

    def score(videos: list[str], prompts: list[str]) -> list[dict[str, float]]:
        with torch.no_grad():
            found: list[dict[str, float]] = model.reward(videos, prompts, fps=given.frames_per_s, use_norm=True)
        return found

    return score


serve(
    load,
    name="videoreward",
    scores=["VQ", "MQ", "TA", "Overall"],
    prompted=["TA", "Overall"],
    batch=max(2, given.batch),
    identity={"weights": fingerprint(given.weights), "frames_per_s": given.frames_per_s},
)
