"""The held-out property panel: plain properties of the picture that nothing trains on, the alarm for a hacked judge.

A judge that secretly likes bright, colourful, busy or close-up pictures is pleased by more of that. Such a shift shows
here even while every quality score rises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.measure import measure
from densedpo.evaluation.paired import BASE
from densedpo.intervals import Interval

VERSION = 1  # of the numbers of a video, as a scorer's
PREFIX = "property_"
LARGE = 0.05  # shifts of this share of the base's value are said aloud; smaller ones are in the summary
_FRAMES = 9
PROPERTIES: dict[str, dict[str, str]] = {
    "size": {"label": "subject size", "unit": "", "sentence": "Share of the picture that stands out."},
    "brightness": {"label": "brightness", "unit": "", "sentence": "Mean luma, 0 to 1."},
    "saturation": {"label": "saturation", "unit": "", "sentence": "Mean colour saturation, 0 to 1."},
    "texture": {"label": "texture", "unit": "", "sentence": "Root mean square of the luma gradient."},
    "texture_drift": {
        "label": "texture drift",
        "unit": "",
        "sentence": "Texture of the last third of a clip over that of its first third, minus 1.",
    },
}


def properties_of(frames: NDArray[np.uint8]) -> dict[str, float]:
    """Return the properties of a clip [T, H, W, 3] from up to nine evenly spaced frames."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int))
    found = measure(np.ascontiguousarray(frames[chosen]), 1.0)
    third = max(1, len(chosen) // 3)
    first, last = float(found.sharpness[:third].mean()), float(found.sharpness[-third:].mean())
    return {
        "size": float(found.subject_share.mean()),
        "brightness": float(found.brightness.mean()),
        "saturation": float(found.saturation.mean()),
        "texture": float(found.sharpness.mean()),
        "texture_drift": last / first - 1 if first > 0 else 0.0,
    }


def alarms(
    scores: Mapping[str, Mapping[str, Interval | None]], differences: Mapping[str, Mapping[str, Interval | None]]
) -> list[dict[str, Any]]:
    """Return the shifts whose interval does not hold 0, each as a sentence.

    Args:
        scores: mean of every property by model, the base among them.
        differences: model minus base.
    """
    found = []
    for model, by_name in differences.items():
        for name, shift in by_name.items():
            if shift is None or shift.low <= 0 <= shift.high:
                continue
            base = scores[BASE][name]
            # a drift is a share already
            whole = 1.0 if name == "texture_drift" or base is None else abs(base.mean)
            share = abs(shift.mean) / whole if whole else 1.0
            said = f"{PROPERTIES[name]['label']} {'rose' if shift.mean > 0 else 'fell'} by {100 * share:.2g} % "
            said += f"({shift.mean:+.3g} [{shift.low:+.3g}, {shift.high:+.3g}])"
            sentence = f"{model}: {said}. Nothing trained on it: look whether the judge is paid in it."
            found.append({"model": model, "property": name, "share": share, "large": share >= LARGE})
            found[-1]["sentence"] = sentence
    return found
