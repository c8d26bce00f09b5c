"""Draw the examples of the labelling page's instructions: two videos of one scene side by side, one small file each.

Usage: python tools/label_examples.py            (rewrites src/densedpo/labels/people/static/examples/*.mp4)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.encode import write_video
from densedpo.miniworld import scenes
from densedpo.miniworld.defects import plant

FOLDER = Path(__file__).parents[1] / "src/densedpo/labels/people/static/examples"
GAP_PX = 4
FRAMES = 24


def draw(kind: str, colour: str, shape: str, motion: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8], slice]:
    """Return a clean scene, the same scene with a defect (or a little larger), and the frames to show."""
    scene = scenes.draw_scene(scenes.Subject(colour, shape, motion), "label examples", kind)
    clean = scenes.render(scene)
    if kind == "tie":
        return clean, scenes.render(replace(scene, radius_px=scene.radius_px * 1.03)), slice(0, FRAMES)
    if kind == "both":
        return plant("blur", scene, kind).frames, plant("flicker", scene, kind).frames, slice(4, 4 + FRAMES)
    made = plant(kind, scene, kind)
    middle = (made.touched.start + made.touched.stop) // 2
    start = min(max(0, middle - FRAMES // 2), len(clean) - FRAMES)
    return clean, made.frames, slice(start, start + FRAMES)


def main() -> None:
    """Write all examples."""
    for kind, colour, shape, motion, defect_first in (
        ("jump", "yellow", "square", "drift", False),
        ("deformed", "green", "circle", "orbit", True),
        ("freeze", "cyan", "cross", "bounce", True),
        ("tie", "magenta", "triangle", "zigzag", False),
        ("both", "red", "square", "orbit", False),
        ("vanished", "blue", "circle", "zigzag", False),
    ):
        clean, other, shown = draw(kind, colour, shape, motion)
        sides = (other, clean) if defect_first else (clean, other)
        gap = np.full((FRAMES, scenes.SIZE_PX, GAP_PX, 3), 128, np.uint8)
        joined = np.concatenate([sides[0][shown], gap, sides[1][shown]], axis=2)
        write_video(FOLDER / f"{kind}.mp4", joined, scenes.FPS, profile="view")


if __name__ == "__main__":
    main()
