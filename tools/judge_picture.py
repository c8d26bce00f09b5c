"""Draw the picture of a question in docs/guides/judges.md: the frames a judge is shown of one segment.

Usage: python tools/judge_picture.py            (rewrites docs/images/judge-question.webp)
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from densedpo.config import JudgeSettings
from densedpo.labels.judges.answerer import Image
from densedpo.labels.judges.base import SegmentPair
from densedpo.labels.judges.images import SegmentImages
from densedpo.miniworld import scenes
from densedpo.miniworld.defects import plant

PICTURE = Path(__file__).parents[1] / "docs/images/judge-question.webp"
GAP_PX, FRAME_PX = 6, 112


def main() -> None:
    """Write the picture: the first clip's images in one row, the second's below."""
    scene = scenes.draw_scene(scenes.Subject("yellow", "square", "drift"), "label examples", "jump")
    made = plant("jump", scene, "jump")
    middle = (made.touched.start + made.touched.stop) // 2
    shown = slice(middle - 4, middle + 4)
    pair = SegmentPair(scenes.render(scene)[shown], made.frames[shown], scenes.FPS)
    parts = SegmentImages(pair, JudgeSettings(image_format="png")).parts("b")
    images = [
        cv2.imdecode(np.frombuffer(part.data, np.uint8), cv2.IMREAD_COLOR) for part in parts if isinstance(part, Image)
    ]
    large = [
        cv2.resize(image, (FRAME_PX, FRAME_PX), interpolation=cv2.INTER_NEAREST)
        for image in images
        if image is not None
    ]
    padded = [cv2.copyMakeBorder(image, GAP_PX, 0, GAP_PX, 0, cv2.BORDER_CONSTANT, value=(255,) * 3) for image in large]
    rows = [np.concatenate(padded[start : start + 8], axis=1) for start in (0, 8)]
    cv2.imwrite(str(PICTURE), np.concatenate(rows, axis=0), [cv2.IMWRITE_WEBP_QUALITY, 80])


if __name__ == "__main__":
    main()
