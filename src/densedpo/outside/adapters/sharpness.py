"""Example of an adapter of one's own, with no weights: mean brightness gradient, and its loss from first to last frame.

It needs PyAV and numpy, so it runs in our own environment too. It is no judge of quality: noise pleases it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from adapter import serve  # type: ignore[import-not-found]


def load() -> Callable[[str, str], dict[str, float]]:
    """Return the scoring function; a real adapter loads its model here, once."""
    import av
    import numpy as np

    def score(video: str, prompt: str) -> dict[str, float]:
        del prompt
        with av.open(video) as container:
            lumas = [frame.to_ndarray(format="gray").astype(np.float64) / 255 for frame in container.decode(video=0)]
        slopes = [np.hypot(np.diff(y, axis=0)[:, :-1], np.diff(y, axis=1)[:-1]).mean() for y in lumas]
        return {"sharpness": float(np.mean(slopes)), "loss": float(slopes[0] - slopes[-1])}

    return score


serve(load, name="sharpness", version="1", scores=["sharpness", "loss"])
