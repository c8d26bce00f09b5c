"""What the numbers of outside suites mean, and which numbers of the paper are derived from them.

Section 5 of arXiv 2506.03517: VBench's six dimensions for prompts of one's own, five seeds a prompt; VisionReward's
dimensions taken together as TA = alignment, VQ = composition, quality, fidelity, TC = stability, physics, preservation,
DD = dynamic. The paper does not say how dimensions are put together: here by their mean. It shows VBench in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from densedpo.evaluation.scorers import ScoreInfo


@dataclass(frozen=True)
class Suite:
    """How a suite is read.

    Attributes:
        infos: what its scores, and those derived, mean.
        derived: names of derived scores, each the mean of some of the suite's.
        seeds: videos a prompt that it asks for; 1 where it does not say.
        sentence: what one must know to read it.
    """

    infos: Mapping[str, ScoreInfo] = field(default_factory=dict)
    derived: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: int = 1
    sentence: str = ""

    def info(self, name: str) -> ScoreInfo:
        """Return what a score means; of one that nobody described, that nothing is known of its direction."""
        return self.infos.get(name, ScoreInfo(name, "", "neither", "A score of an outside model, as it gives it."))

    def derive(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Return the derived scores."""
        return {name: sum(scores[part] for part in parts) / len(parts) for name, parts in self.derived.items()}


def _higher(label: str, sentence: str, *, motion: bool = False, primary: bool = True) -> ScoreInfo:
    return ScoreInfo(label, "", "higher", sentence, motion, primary)


_STILL = "A still picture gets the most: read it beside motion."
SUITES: Mapping[str, Suite] = {
    "vbench": Suite(
        {
            "aesthetic_quality": _higher("aesthetic quality", "VBench AQ: how beautiful frames are to LAION's model."),
            "imaging_quality": _higher("imaging quality", "VBench IQ: noise, blur and exposure of frames by MUSIQ."),
            "subject_consistency": _higher("subject consistency", f"VBench SC: likeness of frames by DINO. {_STILL}"),
            "background_consistency": _higher("background consistency", f"VBench BC: likeness by CLIP. {_STILL}"),
            "motion_smoothness": _higher("motion smoothness", f"VBench MS: how well frames interpolate. {_STILL}"),
            "dynamic_degree": _higher(
                "dynamic degree", "VBench DD: share of videos that move; a moving camera counts.", motion=True
            ),
        },
        seeds=5,
        sentence="VBench is made for clips under 5 s; dynamic degree is yes or no for each video and saturates.",
    ),
    "visionreward": Suite(
        {
            "TA": _higher("text alignment (TA)", "VisionReward: alignment."),
            "VQ": _higher("visual quality (VQ)", "VisionReward: mean of composition, quality and fidelity."),
            "TC": _higher("temporal consistency (TC)", "VisionReward: mean of stability, physics and preservation."),
            "DD": _higher("dynamic degree (DD)", "VisionReward: how much objects and camera move.", motion=True),
            "overall": _higher(
                "VisionReward", "Its weighted score; it prefers frozen clips (the paper's table 8).", primary=False
            ),
        },
        {
            "TA": ("alignment",),
            "VQ": ("composition", "quality", "fidelity"),
            "TC": ("stability", "physics", "preservation"),
            "DD": ("dynamic",),
        },
        sentence="Shares of yes answers; in the paper VisionReward prefers a frozen clip in about 70 % of cases.",
    ),
    "videoscore2": Suite(
        {
            "visual_quality": _higher("visual quality", "VideoScore2, 1 to 5."),
            "text_alignment": _higher("text alignment", "VideoScore2, 1 to 5."),
            "physics": _higher("physics", "VideoScore2, 1 to 5: physical and common-sense consistency."),
        },
        sentence="Scores that a language model gives after thinking aloud, from 1 to 5.",
    ),
    "clip": Suite(
        {
            "text_alignment": _higher("text alignment", "Mean cosine of prompt and frames by CLIP or SigLIP."),
            "frame_likeness": _higher("frame likeness", f"Mean cosine of neighbouring frames. {_STILL}"),
        },
        sentence="Frames one by one: no motion is seen, and of long prompts only the beginning.",
    ),
    "videoreward": Suite(
        {
            "VQ": _higher("visual quality", "VideoReward, in standard deviations."),
            "MQ": _higher("motion quality", "VideoReward, in standard deviations."),
            "TA": _higher("text alignment", "VideoReward, in standard deviations."),
            "Overall": _higher("VideoReward", "Sum of the three.", primary=False),
        },
        sentence="Made to choose videos: do not evaluate with it what was labelled with it.",
    ),
}


def suite_of(name: str, scores: Sequence[str]) -> Suite:
    """Return the suite of an adapter's name if its scores are those known here, otherwise one that knows nothing."""
    suite = SUITES.get(name, Suite())
    parts = {part for parts in suite.derived.values() for part in parts}
    return suite if parts <= set(scores) else Suite()
