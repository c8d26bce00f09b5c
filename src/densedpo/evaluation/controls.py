"""Two controls in every evaluation: identical models, where nothing may be found, and frozen clips, which may not win.

Identical models: base against base, the seeds of each prompt split in halves (the same seeds would give the same
videos). Frozen clips: base clips held at their middle frame; a score that they win can be bought by moving less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densedpo.evaluation.overall import judge_overall, rule
from densedpo.evaluation.paired import BASE, Bootstrap, plain, table_of
from densedpo.evaluation.scorers import ScoreInfo
from densedpo.evaluation.statistics import count_outcomes, signs
from densedpo.intervals import Interval
from densedpo.store.tables import Row

FROZEN = "frozen"


def freeze(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a clip of the same length that shows the middle frame of ``frames`` [T, H, W, 3] throughout."""
    return np.ascontiguousarray(np.broadcast_to(frames[len(frames) // 2], frames.shape))


def identical_control(
    rows: Sequence[Row], names: Sequence[str], bootstrap: Bootstrap, labels: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Return the entry ``controls.identical`` from the base's rows; None with one seed.

    ``labels`` are how scores are called in its sentence.
    """
    seeds = sorted({row["seed"] for row in rows})
    if len(seeds) < 2:
        return None
    half = set(seeds[1::2])
    # the two halves as if they were two models, seed by seed; a seed left over has no partner
    partner = {seed: place // 2 for place, seed in enumerate(seeds[: len(seeds) // 2 * 2])}
    halves = [
        {**row, "model": "second" if row["seed"] in half else "first", "seed": partner[row["seed"]]}
        for row in rows
        if row["seed"] in partner
    ]
    table = table_of(halves, ["first", "second"], names)
    found = {
        name: bootstrap.interval(table.of("second", name) - table.of("first", name), table.seeds) for name in names
    }
    outside = [name for name, gap in found.items() if gap is not None and not gap.low <= 0 <= gap.high]
    known = sum(gap is not None for gap in found.values())
    sentence = (
        f"Base against base: {known - len(outside)} of {known} intervals cover 0, as they should; by chance 1 in 20 "
        "does not."
    )
    if outside:
        named = ", ".join((labels or {}).get(name, name) for name in outside)
        sentence += f" Outside: {named}. A finding of that size in these scores may be chance too."
    return {
        "how": "the base's own samples, the seeds of each prompt split in halves",
        "differences": plain(found),
        "outside": outside,
        "sentence": sentence,
    }


def frozen_control(
    own: Sequence[Row],
    frozen: Sequence[Row],
    infos: Mapping[str, ScoreInfo],
    axes: tuple[str | None, str | None],
    motion_kept: float,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return the entry ``controls.frozen``.

    Args:
        own: rows of the base's clips that were frozen.
        frozen: rows of the same clips, frozen.
        infos: what the scores are.
        axes: the motion and the main quality score.
        motion_kept: as ``judge_overall`` takes it.
        bootstrap: over the prompts.
    """
    both = [{**row, "model": BASE} for row in own] + [{**row, "model": FROZEN} for row in frozen]
    table = table_of(both, [BASE, FROZEN], list(infos))
    scores: dict[str, Any] = {}
    differences: dict[str, Interval | None] = {}
    for place, (name, info) in enumerate(infos.items()):
        still, moving = table.of(FROZEN, name), table.of(BASE, name)
        differences[name] = bootstrap.interval(still - moving, table.seeds)
        outcomes = count_outcomes(signs(table.means[1, :, place], table.means[0, :, place], info.better))
        scores[name] = {
            **plain(
                {
                    "own": bootstrap.interval(moving, table.seeds),
                    "frozen": bootstrap.interval(still, table.seeds),
                    "difference": differences[name],
                }
            ),
            **asdict(outcomes),
            "won": None if info.better == "neither" else outcomes.wins > outcomes.losses,
        }
    motion, quality = axes
    ratio = bootstrap.ratio(table.of(FROZEN, motion), table.of(BASE, motion)) if motion else None
    overall = judge_overall(
        differences[quality] if quality else None, infos[quality].better if quality else "neither", ratio, motion_kept
    )
    won = [name for name, found in scores.items() if found["won"]]
    sentence = "A frozen clip wins no score here."
    if won:
        labels = ", ".join(infos[name].label for name in won)
        sentence = f"A frozen clip beats the base's own in: {labels}. These can be bought by freezing."
    return {
        "frame": "middle",
        "clips": len(frozen),
        "scores": scores,
        "won": won,
        "overall": overall.as_dict(),
        "rule": rule(motion_kept),
        "sentence": sentence,
    }
