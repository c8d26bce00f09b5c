"""A contact sheet of samples: one caption a row, evenly spaced frames, held-out captions last and marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.encode import write_picture
from densedpo.keys import stream
from densedpo.miniworld import scenes
from densedpo.models.base import VideoModel
from densedpo.models.sampling import decode_frames, sample_latents

_FRAME_EVERY = 4
_ENLARGE = 2
_LABEL_PX = 230


def write_sheet(model: VideoModel, path: Path, rows: int, held_out_rows: int, seed: int) -> dict[str, Any]:
    """Sample ``rows`` training captions and ``held_out_rows`` held-out ones, chosen at random, into one PNG."""
    captions: list[tuple[str, bool]] = []
    for held_out, count in ((False, rows), (True, held_out_rows)):
        pool = [s.caption for s in scenes.subjects() if scenes.held_out(s) == held_out]
        order = stream("miniworld", "sheet", seed, held_out).permutation(len(pool))
        captions += [(pool[int(place)], held_out) for place in order[:count]]
    prompts = [caption for caption, _ in captions]
    d = model.defaults
    names = [(prompt, seed) for prompt in prompts]
    latents = sample_latents(model, prompts, names, steps=d.steps, cfg=d.cfg, shift=d.shift)
    strips = [
        _strip(caption + (" *" if held_out else ""), frames)
        for (caption, held_out), frames in zip(captions, decode_frames(model, latents), strict=True)
    ]
    write_picture(path, np.concatenate(strips))
    return {"sheet": str(path), "captions": prompts}


def _strip(label: str, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    images = np.concatenate(list(frames[::_FRAME_EVERY]), axis=1).repeat(_ENLARGE, axis=0).repeat(_ENLARGE, axis=1)
    head = np.full((images.shape[0], _LABEL_PX, 3), 255, np.uint8)
    cv2.putText(head, label, (8, 38), cv2.FONT_HERSHEY_SIMPLEX, 0.48, (20, 20, 20), 1, cv2.LINE_AA)
    return np.concatenate([head, images], axis=1)
