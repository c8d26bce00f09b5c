"""Is a model better than the base, motion considered? The one place where a win is declared.

A quality number can be bought by moving less; a still picture has no flicker at all. So a model counts as better only
if its quality rose and its motion is shown to be kept. A model without motion is never better, whatever its quality.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from densedpo.evaluation.statistics import Better, words
from densedpo.intervals import Interval

Verdict = Literal[
    "better", "worse", "bought with motion", "motion not shown to be kept", "motion unknown", "not told apart"
]
_SAID: dict[Verdict, str] = {
    "better": "quality rose and motion is kept",
    "worse": "quality fell",
    "bought with motion": "quality rose, but motion fell: this is no improvement",
    "motion not shown to be kept": "quality rose; whether motion is kept is not shown",
    "motion unknown": "quality rose; no motion was measured beside it, so nothing is claimed",
    "not told apart": "quality is not told apart from the base's",
}


@dataclass(frozen=True)
class Overall:
    """A verdict, the share of motion it asks for, and its sentence."""

    verdict: Verdict
    motion_kept: float
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def rule(motion_kept: float) -> str:
    """Return the rule of ``judge_overall`` in words."""
    return (
        "A model is better only if the interval of its main quality lies wholly on the good side and the lower end of "
        f"its motion's interval is at least {100 * motion_kept:.0f} % of the base's. A frozen clip keeps no motion, so "
        "it never wins."
    )


def judge_overall(
    quality: Interval | None, better: Better, motion_ratio: Interval | None, motion_kept: float
) -> Overall:
    """Return the verdict on a model.

    Args:
        quality: model minus base in the main quality, paired.
        better: direction of that quality; ``neither`` cannot be better or worse.
        motion_ratio: the model's motion over the base's; None where it was not or cannot be measured.
        motion_kept: least share of the base's motion that counts as kept, above 0.
    """
    assert motion_kept > 0, motion_kept
    said = words(quality, better)
    verdict: Verdict
    if said == "worse":
        verdict = "worse"
    elif said != "better":
        verdict = "not told apart"
    elif motion_ratio is None:
        verdict = "motion unknown"
    elif motion_ratio.low >= motion_kept:
        verdict = "better"
    else:
        verdict = "bought with motion" if motion_ratio.high < motion_kept else "motion not shown to be kept"
    moved = ""
    if motion_ratio is not None:
        low, high = 100 * motion_ratio.low, 100 * motion_ratio.high
        moved = f" (motion {100 * motion_ratio.mean:.0f} % [{low:.0f}, {high:.0f}] of the base's)"
    return Overall(verdict, motion_kept, f"{_SAID[verdict]}{moved}".capitalize() + ".")
