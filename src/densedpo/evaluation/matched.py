"""Two curves compared where they are alike in one thing: quality at equal motion, motion at equal quality.

A curve is the polyline through its points in the plane. Where it crosses a level more than once, its best crossing
counts. Every bootstrap draw has its own polylines, from the same drawn prompts for both curves, at fixed levels. Motion
is counted in shares of the base's, quality as the gain over the base's, both within the draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from densedpo.evaluation.paired import Bootstrap, Floats
from densedpo.evaluation.statistics import Better, words

_LEVELS = (0.25, 0.5, 0.75)
_LEAST_DRAWS = 0.8


def at_level(along: Floats, value: Floats, level: float, better: Better) -> Floats:
    """Return [B] the best ``value`` where polylines reach ``level``; NaN where one does not.

    Args:
        along: [B, K] first coordinate of the K points of B polylines.
        value: [B, K] second coordinate.
        level: of the first coordinate.
        better: ``lower`` takes the lowest crossing, anything else the highest.
    """
    start, end = along[:, :-1], along[:, 1:]
    crosses = (start - level) * (end - level) <= 0
    flat = end == start
    lower = better == "lower"
    before, after = value[:, :-1], value[:, 1:]
    share = (level - start) / np.where(flat, 1.0, end - start)
    ends = np.minimum(before, after) if lower else np.maximum(before, after)
    found = np.where(flat, ends, before + share * (after - before))
    best = np.where(crosses, found, np.inf if lower else -np.inf)
    result: Floats = best.min(axis=1) if lower else best.max(axis=1)
    return np.where(np.isfinite(result), result, np.nan)


def matches(
    curves: Mapping[str, Mapping[str, Floats]], along: str, value: str, better: Better, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Return every two curves' difference in ``value`` at matched ``along``.

    Args:
        curves: by name and axis [1 + draws, K]: the means first, then those of the draws.
        along: the axis that is matched.
        value: the axis that is compared.
        better: its direction.
        bootstrap: what the draws came from.
    """
    found = []
    for first, second in combinations(curves, 2):
        a, b = curves[first], curves[second]
        low = max(a[along][0].min(), b[along][0].min())
        high = min(a[along][0].max(), b[along][0].max())
        for share in _LEVELS if high > low else ():
            level = float(low + share * (high - low))
            gaps = at_level(a[along], a[value], level, better) - at_level(b[along], b[value], level, better)
            drawn = gaps[1:][np.isfinite(gaps[1:])]
            reached = len(drawn) / (len(gaps) - 1)
            difference = bootstrap.around(float(gaps[0]), drawn) if reached >= _LEAST_DRAWS else None
            said = words(difference, better)
            where = f"{100 * level:.0f} % of the base's" if along == "motion" else f"{_plain(level)} against the base"
            than = "from" if said == "not told apart" else "than"
            sentence = f"At equal {along} ({where}) {first} is {said} {than} {second} in {value}."
            if difference is None:
                sentence = (
                    f"At equal {along} ({where}) {first} and {second} cannot be compared: too few draws reach it."
                )
            found.append(
                {
                    "a": first,
                    "b": second,
                    "at": level,
                    "difference": None if difference is None else difference.as_dict(),
                    "draws": reached,
                    "sentence": sentence,
                }
            )
    return found


def _plain(value: float) -> str:
    """Return ``value`` to two digits, without an exponent."""
    return np.format_float_positional(value, precision=2, fractional=False, sign=True, trim="-")
