"""Numbers of one picture: light, colour, sharpness, blackness; see ``PICTURE_NAMES``."""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.flow import grey

_BLACK_LEVEL = 25  # a tenth of the range
_BLACK_SHARE = 0.98


@dataclass(frozen=True)
class Picture:
    """Numbers of one picture.

    Attributes:
        brightness: mean luma, 0 to 1.
        saturation: mean of (max - min) / max over the colour channels, 0 to 1.
        sharpness: root mean square of the luma gradient, per px, 0 to about 0.7.
        black: 1 where 98 % of the picture is darker than a tenth of the range.
        red: mean of the channel, 0 to 1; ``green`` and ``blue`` likewise.
    """

    brightness: float
    saturation: float
    sharpness: float
    black: float
    red: float
    green: float
    blue: float


PICTURE_NAMES = tuple(field.name for field in fields(Picture))


def picture(image: NDArray[np.uint8]) -> Picture:
    """Return the numbers of ``image`` [H, W, 3], 8-bit RGB."""
    luma = grey(image)
    red, green, blue = (mean / 255 for mean in cv2.mean(image)[:3])
    return Picture(
        brightness=cv2.mean(luma)[0] / 255,
        saturation=cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))[1] / 255,
        sharpness=_sharpness(luma),
        black=float(np.count_nonzero(luma < _BLACK_LEVEL) >= _BLACK_SHARE * luma.size),
        red=red,
        green=green,
        blue=blue,
    )


def _sharpness(luma: NDArray[np.uint8]) -> float:
    # whole numbers, so that the sum does not depend on its order
    slopes = (cv2.Sobel(luma, cv2.CV_16S, *order, ksize=1) for order in ((0, 1), (1, 0)))
    return float(np.sqrt(sum(cv2.norm(slope, cv2.NORM_L2SQR) for slope in slopes) / luma.size)) / (2 * 255)
