"""Draw docs/images/judge-selftest.webp: the damages of the judges' self-test, done to a drawn clip.

Usage: python tools/selftest_picture.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from densedpo.labels.judges.damages import DAMAGES, Frames, frozen, with_text
from densedpo.miniworld import scenes

FILE = Path(__file__).parents[1] / "docs" / "images" / "judge-selftest.webp"
SIDE_PX, NAME_PX, GAP_PX, INK, PAPER = 96, 150, 4, (60, 60, 60), 255


def row(name: str, frames: Frames) -> Frames:
    """Return the frames side by side with a name before them."""
    label = np.full((SIDE_PX, NAME_PX, 3), PAPER, np.uint8)
    cv2.putText(label, name, (6, SIDE_PX // 2 + 5), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    padded = [np.pad(frame, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=PAPER) for frame in frames]
    return np.concatenate([np.pad(label, ((0, GAP_PX), (0, 0), (0, 0)), constant_values=PAPER), *padded], axis=1)


def main() -> None:
    """Draw the picture."""
    scene = scenes.draw_scene(scenes.Subject("yellow", "triangle", "orbit"), "self-test picture", 7)
    size = (SIDE_PX, SIDE_PX)
    clean = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in scenes.render(scene)[8:16]])
    clean = clean.astype(np.uint8)
    rows = {"as it is": clean} | {name.replace("_", " "): damage(clean, scenes.FPS) for name, damage in DAMAGES.items()}
    rows |= {"frozen": frozen(clean, scenes.FPS), "text, on both sides": with_text(clean, 1.0)}
    picture = np.concatenate([row(name, frames) for name, frames in rows.items()])
    cv2.imwrite(str(FILE), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 80])


if __name__ == "__main__":
    main()
