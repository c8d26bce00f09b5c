"""Draw docs/images/motion-range.webp: measured against true speed on the clips that the tests use.

Usage: python tools/motion_picture.py            (a minute; prints the table too)
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.unit.evaluation.video_scenes import Thing, panned, plain, scored  # noqa: E402

HEIGHT, WIDTH, FPS, COUNT = 144, 240, 8.0, 5
SHARES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.11, 0.12, 0.14, 0.16, 0.18, 0.2)
DIRECTION = np.array([0.8, 0.6])
LINES = {
    "pan: mean over the picture": (178, 34, 34),
    "thing of 0.42: fastest 5 %": (66, 121, 189),
    "thing of 0.42: mean over the picture": (34, 120, 60),
    "thing of 0.2: mean over the picture": (226, 132, 62),
    "thing of 0.42, plain ground: mean": (130, 80, 170),
}
PLOT = (60, 470, 90, 940)  # top, bottom, left, right
TOP_RATIO = 1.4
INK, SOFT = (34, 34, 34), (200, 200, 200)

Ratio = tuple[float, bool]


def measured(share: float) -> dict[str, Ratio]:
    """Return measured over true speed and whether it is in range, by line."""
    step = tuple(DIRECTION * share * HEIGHT)
    truth = share * HEIGHT * FPS
    still = panned(HEIGHT, WIDTH, (0, 0), count=COUNT)
    ratios = {}
    for name in LINES:
        covered, score = 1.0, "motion_px_s"
        if name.startswith("pan"):
            frames = panned(HEIGHT, WIDTH, (step[0], step[1]), count=COUNT)
        else:
            side = round((0.2 if "0.2:" in name else 0.42) * HEIGHT)
            ground = plain(HEIGHT, WIDTH, COUNT) if "plain" in name else still
            frames, covered = Thing(side, (step[0], step[1])).on(ground)
            if "fastest" in name:
                covered, score = 1.0, "top_motion_px_s"
        found = scored(frames, FPS).scores
        ratios[name] = (found[score] / (covered * truth), found["motion_in_range"] > 0)
    return ratios


def place(share: float, ratio: float) -> tuple[int, int]:
    """Return where a value lies in the picture, (x, y)."""
    top, bottom, left, right = PLOT
    return round(left + share / SHARES[-1] * (right - left)), round(
        bottom - min(ratio, TOP_RATIO) / TOP_RATIO * (bottom - top)
    )


def text(picture: NDArray[np.uint8], words: str, at: tuple[int, int], colour: tuple[int, int, int] = INK) -> None:
    """Write into the picture."""
    cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)


def draw(points: dict[float, dict[str, Ratio]]) -> NDArray[np.uint8]:
    """Return the picture, RGB."""
    picture = np.full((640, 980, 3), 255, np.uint8)
    cv2.rectangle(picture, place(0, 1.05), place(SHARES[-1], 0.95), (232, 240, 232), -1)
    for ratio in (0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4):
        cv2.line(picture, place(0, ratio), place(SHARES[-1], ratio), SOFT, 1)
        text(picture, f"{ratio:.1f}", (50, place(0, ratio)[1] + 5))
    for share in (0, 0.05, 0.1, 0.15, 0.2):
        text(picture, f"{100 * share:.0f} %", (place(share, 0)[0] - 14, 492))
    text(picture, "measured over true speed; the band is 5 %", (60, 40))
    text(picture, "step from frame to frame, of the picture's short side", (300, 518))
    for row, (name, colour) in enumerate(LINES.items()):
        ends = [place(share, ratios[name][0]) for share, ratios in points.items()]
        cv2.polylines(picture, [np.array(ends)], False, colour, 1, cv2.LINE_AA)
        for end, ratios in zip(ends, points.values(), strict=True):
            cv2.circle(picture, end, 5, colour if ratios[name][1] else (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(picture, end, 5, colour, 1, cv2.LINE_AA)
        at = (90 + 440 * (row % 2), 550 + 26 * (row // 2))
        cv2.circle(picture, (at[0] - 14, at[1] - 5), 5, colour, -1, cv2.LINE_AA)
        text(picture, name, at)
    text(picture, "full: in range   hollow: said to be out of range", (530, 602))
    return picture


def main() -> None:
    """Measure, print and draw."""
    points = {share: measured(share) for share in SHARES}
    for share, ratios in points.items():
        cells = (f"{ratio:.2f}{' ' if inside else '*'}" for ratio, inside in ratios.values())
        sys.stdout.write(f"{100 * share:4.1f} %  {'  '.join(cells)}\n")
    cv2.imwrite(str(ROOT / "docs/images/motion-range.webp"), draw(points)[:, :, ::-1])


if __name__ == "__main__":
    main()
