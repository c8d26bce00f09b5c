"""Tests on paired scores: exact sign test, Holm's adjustment, half widths, power, and the words for a difference.

Pure functions of a ``Table`` and of intervals; ``summary.py`` puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtrit

from densedpo.evaluation.paired import Floats
from densedpo.intervals import Z_95, Interval

Signs = NDArray[np.int64]
Better = Literal["lower", "higher", "neither"]
Z_80 = 0.841621  # 80 % of a standard normal lie below
_EQUAL = 1e-12  # relative: differences of rounding alone are ties


@dataclass(frozen=True)
class Outcomes:
    """Prompts on which a model is better than, equal to and worse than another."""

    wins: int
    ties: int
    losses: int


def signs(model: Floats, other: Floats, better: Better) -> Signs:
    """Return [P] 1 where ``model`` is better, -1 where it is worse, 0 where they are equal (to 12 digits).

    ``neither`` counts higher as 1.
    """
    gap = other - model if better == "lower" else model - other
    gap = np.where(np.abs(gap) <= _EQUAL * np.maximum(np.abs(model), np.abs(other)), 0.0, gap)
    return np.sign(gap).astype(np.int64)


def count_outcomes(found: Signs) -> Outcomes:
    """Count what ``signs`` returned."""
    return Outcomes(int((found > 0).sum()), int((found == 0).sum()), int((found < 0).sum()))


def sign_test(outcomes: Outcomes) -> float | None:
    """Return the exact two-sided p of wins against losses; ties say nothing and are left out. None where all are ties.

    p = min(1, 2 P(X <= min(wins, losses))), X binomial with wins + losses trials and chance 1/2.
    """
    trials = outcomes.wins + outcomes.losses
    if trials == 0:
        return None
    return min(1.0, 2 * float(bdtr(float(min(outcomes.wins, outcomes.losses)), trials, 0.5)))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return p values adjusted for their number (Holm 1979): the chance of one false finding among all stays below p.

    The k-th smallest of m is multiplied by m - k + 1, made monotone and cut at 1. None stays None and does not count.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for place, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - place) * p))
        adjusted[name] = largest
    return adjusted


def words(difference: Interval | None, better: Better) -> str:
    """Return better, worse, higher or lower by a difference's interval; where it holds 0: not told apart."""
    if difference is None or difference.low <= 0 <= difference.high:
        return "not told apart"
    above = difference.low > 0
    if better == "neither":
        return "higher" if above else "lower"
    return "better" if above == (better == "higher") else "worse"


def half_width(interval: Interval | None) -> float | None:
    """Return half the width of an interval: how exactly the number is known."""
    return None if interval is None else (interval.high - interval.low) / 2


def detectable(difference: Interval | None) -> float | None:
    """Return the true difference that four in five evaluations of this size would tell from none.

    (t(0.975, n - 1) + z(0.8)) s / sqrt(n); s / sqrt(n) is read off the half width.
    """
    half = half_width(difference)
    if difference is None or half is None:
        return None
    t = float(stdtrit(difference.count - 1, 0.975))
    return half * (1 + Z_80 / t)


def paired_tests(
    model: Floats,
    base: Floats,
    differences: Mapping[str, Interval | None],
    better: Mapping[str, Better],
    claims: Collection[str],
) -> dict[str, Any]:
    """Return the entry ``tests`` of one model: per score the sign test, Holm's p, half width and words.

    Args:
        model: [P, S] scores by prompt, seeds averaged, in the order of ``differences``.
        base: the base's.
        differences: model minus base by score.
        better: direction by score.
        claims: scores chosen beforehand; Holm's family is theirs, the others have no adjusted p.
    """
    outcomes = {
        name: count_outcomes(signs(model[:, place], base[:, place], better[name]))
        for place, name in enumerate(differences)
    }
    p_values = {name: sign_test(found) for name, found in outcomes.items()}
    adjusted = holm({name: p for name, p in p_values.items() if name in claims})
    return {
        name: asdict(outcomes[name])
        | {"p": p_values[name], "p_holm": adjusted.get(name), "half_width": half_width(difference)}
        | {"detectable": detectable(difference), "verdict": words(difference, better[name])}
        for name, difference in differences.items()
    }


def share_half_width(prompts: int) -> float:
    """Return the half width of a share near 1/2 over ``prompts`` answers: 1.96 sqrt(0.25 / n); 128 give 0.087."""
    assert prompts > 0, prompts
    return Z_95 * math.sqrt(0.25 / prompts)


def power(prompts: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what an evaluation of this size can see, as numbers and as a sentence."""
    half = share_half_width(prompts)
    sentence = f"With {prompts} prompts a share of wins is known to ±{100 * half:.1f} points."
    if prompts == 1:
        sentence = "From one prompt nothing can be concluded: intervals need two prompts, and useful ones dozens."
    return {"prompts": prompts, "seeds": len(seeds), "share_half_width": half, "sentence": sentence}
