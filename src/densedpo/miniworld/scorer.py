"""The examiner as a scorer, so that ``evaluate`` can use ground truth on clips of this world."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from densedpo.errors import ConfigError
from densedpo.evaluation.scorers import ScoreInfo
from densedpo.miniworld.examiner import examine
from densedpo.miniworld.scenes import parse_caption


class ExaminerScorer:
    """Ground-truth scores of the miniature world; see ``miniworld.examiner``."""

    name = "examiner"
    version = 1
    infos: ClassVar[dict[str, ScoreInfo]] = {
        "artifact": ScoreInfo(
            "artifact",
            "",
            "lower",
            "What is left of each frame after the best drawn object has been taken away, whatever the object's size.",
        ),
        "temporal_consistency": ScoreInfo(
            "temporal consistency", "", "higher", "1 when size, colour and track change as a real object's would."
        ),
        "dynamic_degree": ScoreInfo(
            "dynamic degree", "px/s", "higher", "Speed of the object along its track; flicker does not count.", True
        ),
        "text_agreement": ScoreInfo(
            "text agreement", "", "higher", "Whether the captioned shape and colour are there."
        ),
    }

    def check(self, prompt: str) -> None:
        """Refuse a prompt that is not a caption of this world.

        Raises:
            ConfigError: naming the prompt.
        """
        if parse_caption(prompt) is None:
            raise ConfigError(
                f"prompt {prompt!r} is not a caption of the drawn world, such as 'a red square drifting'; use --scorer "
                f"frames"
            )

    def score(self, frames: NDArray[np.uint8], fps: float, prompt: str) -> dict[str, float]:
        """Return the four scores of one clip."""
        return examine(frames, prompt, fps).scores()
