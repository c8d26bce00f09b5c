"""``pairs calibrate``: which noise levels keep a clip's motion and still change its detail, for one model.

How much of a clip survives a noise level depends on the latent space, so the paper's 0.65 to 0.80 is a starting point
and not a law. For each level a few pairs are made and two numbers are taken: how well the motion of the two sides
agrees, and how much their detail differs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch

from densedpo.clips.decode import read_video
from densedpo.clips.encode import write_picture
from densedpo.clips.kept import kept_clips
from densedpo.config import Settings
from densedpo.models.base import VideoModel
from densedpo.models.sampling import decode_frames, to_video
from densedpo.observe import track
from densedpo.pairs.alignment import Frames, detail_difference, luma, motion_agreement
from densedpo.pairs.denoise import denoise_pairs
from densedpo.pairs.make import check_geometry
from densedpo.pairs.plan import plan_pairs, resolve_recipe
from densedpo.store.files import write_json
from densedpo.store.project import Project

ETAS = (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
AGREEMENT_SHARE = 0.6  # of the agreement at the lowest level that the highest suggested level must keep
DIFFERENCE_SHARE = 0.3  # of an independent pair's difference that the lowest suggested level must reach
_SHEET_FRAMES = 6


def calibrate(project: Project, model: VideoModel, settings: Settings, *, num_clips: int) -> dict[str, Any]:
    """Sweep eta on some clips; write ``pairs/calibration.json`` and a contact sheet beside it.

    Returns:
        One row a level with motion agreement (sides with each other, sides with the clip) and detail difference, and
        the suggested range, which is None where no level fulfils both conditions.

    Raises:
        ProjectError: if there are no clips, or ``clips filter`` kept none.
    """
    clips = kept_clips(project)
    check_geometry(clips, model)
    longest = max(row["num_frames"] for row in clips)
    chosen = sorted((row for row in clips if row["num_frames"] == longest), key=lambda row: row["clip_id"])[:num_clips]
    sources = [read_video(project.clips / row["clip_id"] / "clip.mp4").frames for row in chosen]
    recipe = resolve_recipe(settings.pairs, model.defaults, settings.seed, str(model.dtype).removeprefix("torch."))
    grid = model.grid(recipe.steps, recipe.shift)
    null_text = model.encode_text([""])
    text = model.encode_text([row["caption"] for row in chosen])
    with model.in_use(model.vae):
        clean = torch.cat([model.encode_video(to_video(frames)[None]).float() for frames in sources])
    rows, strips = [], [_strip("clip", sources[0])]
    for eta in track(ETAS, "noise levels"):
        at_level = replace(recipe, mode="guided", eta_low=eta, eta_high=eta)
        pairs = plan_pairs(chosen, at_level, model.fingerprint, pairs_per_clip=1, limit=None)
        sides = denoise_pairs(model, pairs, clean, text, null_text, at_level, grid)
        decoded = decode_frames(model, sides.flatten(0, 1))
        videos = [decoded[i : i + 2] for i in range(0, len(decoded), 2)]
        rows.append(_row(eta, sources, videos))
        strips += [_strip(f"{eta:g} a", videos[0][0]), _strip(f"{eta:g} b", videos[0][1])]
    found = {
        "clips": len(chosen),
        "model_fingerprint": model.fingerprint,
        "family_default": [model.defaults.eta_low, model.defaults.eta_high],
        "paper": [0.65, 0.80],
        "levels": rows,
        **suggest(rows),
    }
    sheet = project.pairs / "calibration.png"
    write_picture(sheet, np.concatenate(strips))
    write_json(project.pairs / "calibration.json", found)
    return found | {"sheet": str(sheet)}


def suggest(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return the range of levels that keep the motion and change the detail enough, and the rule in words."""
    calm, wild = rows[0]["agreement"], rows[-1]["difference"]
    fitting = [
        row["eta"]
        for row in rows[:-1]
        if row["agreement"] >= AGREEMENT_SHARE * calm and row["difference"] >= DIFFERENCE_SHARE * wild
    ]
    return {
        "suggested": [min(fitting), max(fitting)] if fitting else None,
        "rule": (
            f"agreement of the sides >= {AGREEMENT_SHARE:g} of that at the lowest level, difference >= "
            f"{DIFFERENCE_SHARE:g} of an independent pair's"
        ),
    }


def calibration_lines(found: dict[str, Any]) -> list[str]:
    """Return what ``calibrate`` found as a small table and a sentence."""
    lines = ["  eta  motion agrees: sides  side and clip  details differ"]
    lines += [
        f" {row['eta']:4.2f}  {row['agreement']:20.2f}  {row['agreement_with_clip']:13.2f}  {row['difference']:14.3f}"
        for row in found["levels"]
    ]
    if found["suggested"] is None:
        return [*lines, "no level keeps the motion and still changes the detail; try more clips, or another model"]
    low, high = found["suggested"]
    return [*lines, f"suggested: --eta-low {low:g} --eta-high {high:g}"]


def _row(eta: float, sources: list[Frames], videos: list[list[Frames]]) -> dict[str, float]:
    agreement = [_agreement(a, b) for a, b in videos]
    with_clip = [_agreement(source, side) for source, pair in zip(sources, videos, strict=True) for side in pair]
    difference = [detail_difference(a, b).mean() for a, b in videos]
    return {
        "eta": eta,
        "agreement": float(np.mean(agreement)),
        "agreement_with_clip": float(np.mean(with_clip)),
        "difference": float(np.mean(difference)),
    }


def _agreement(first: Frames, second: Frames) -> float:
    return float(motion_agreement(luma(first), luma(second)).mean())


def _strip(label: str, frames: Frames) -> Frames:
    """Return evenly spaced frames of one video beside each other, with a label in front."""
    picked = frames[np.linspace(0, len(frames) - 1, _SHEET_FRAMES).astype(int)]
    height = 96
    width = round(frames.shape[2] / frames.shape[1] * height)
    images = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_NEAREST) for frame in picked]
    head = np.full((height, 96, 3), 255, np.uint8)
    cv2.putText(head, label, (6, height // 2 + 6), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([head, *images], axis=1).astype(np.uint8)
