"""From the scores of all videos to every number of ``summary.json``: scores, differences, tests, controls, curves.

Pure functions of rows; ``run.py`` makes the rows and writes the result. docs/reference/evaluation.md names every key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from densedpo.evaluation.bradley_terry import rank
from densedpo.evaluation.controls import frozen_control, identical_control
from densedpo.evaluation.curves import Plane, curves
from densedpo.evaluation.overall import judge_overall
from densedpo.evaluation.paired import (
    BASE,
    Bootstrap,
    Estimates,
    differences_of,
    plain,
    ratios_of,
    scores_of,
    table_of,
)
from densedpo.evaluation.properties import PREFIX, PROPERTIES, alarms
from densedpo.evaluation.scorers import ScoreInfo, primary_scores
from densedpo.evaluation.statistics import paired_tests, power
from densedpo.evaluation.variants import Variant
from densedpo.store.tables import Row


def analyse(
    rows: Sequence[Row],
    frozen: Sequence[Row],
    infos: Mapping[str, ScoreInfo],
    variants: Sequence[Variant],
    *,
    quality: str | None,
    motion_kept: float,
) -> dict[str, Any]:
    """Return all parts of the summary that follow from the scores.

    Args:
        rows: scores and properties of every video of every model.
        frozen: scores of the base's frozen clips.
        infos: what the scores are.
        variants: the models, base first.
        quality: the main quality score, if there is one.
        motion_kept: least share of the base's motion that counts as kept.
    """
    names, models = list(infos), [variant.name for variant in variants]
    table = table_of(rows, models, names)
    bootstrap = Bootstrap(len(table.prompts))
    motion = motion_score(infos)
    better = {name: info.better for name, info in infos.items()}
    differences, ratios = differences_of(table, bootstrap), ratios_of(table, bootstrap)
    own = {(row["prompt_id"], row["seed"]): row for row in rows if row["model"] == BASE}
    thawed = [own[row["prompt_id"], row["seed"]] for row in frozen]
    chosen = better[quality] if quality else "neither"
    claims = primary_scores(infos) | ({quality} if quality else set())
    plane = Plane(table, bootstrap, motion, quality, chosen, motion_kept) if motion and quality else None
    return {
        "motion": motion,
        "quality": quality,
        "scores": _plain(scores_of(table, bootstrap)),
        "differences": _plain(differences),
        "ratios": _plain(ratios),
        "tests": {
            model: paired_tests(table.means[place], table.means[0], differences[model], better, claims)
            for place, model in enumerate(models)
            if place
        },
        "power": power(len(table.prompts), sorted({row["seed"] for row in rows})),
        "overall": {
            model: judge_overall(
                differences[model][quality] if quality else None,
                chosen,
                ratios[model][motion] if motion else None,
                motion_kept,
            ).as_dict()
            for model in models[1:]
        },
        "controls": {
            "identical": identical_control(
                list(own.values()), names, bootstrap, {name: info.label for name, info in infos.items()}
            ),
            "frozen": frozen_control(thawed, frozen, infos, (motion, quality), motion_kept, bootstrap),
        },
        "properties": _properties(rows, models, bootstrap),
        "curves": curves(plane, variants) if plane else None,
        "bradley_terry": rank(table, quality, chosen, bootstrap) if quality else None,
    }


def motion_score(infos: Mapping[str, ScoreInfo]) -> str | None:
    """Return the score that says how much moves, None where none does."""
    return next((name for name, info in infos.items() if info.is_motion), None)


def first_quality(infos: Mapping[str, ScoreInfo]) -> str | None:
    """Return the first score with a direction that is not motion, None where there is none."""
    return next((name for name, info in infos.items() if info.better != "neither" and not info.is_motion), None)


def _properties(rows: Sequence[Row], models: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    panel = [
        {key: row[key] for key in ("model", "prompt_id", "seed")} | {name: row[PREFIX + name] for name in PROPERTIES}
        for row in rows
    ]
    table = table_of(panel, models, list(PROPERTIES))
    scores, differences = scores_of(table, bootstrap), differences_of(table, bootstrap)
    return {
        "info": PROPERTIES,
        "scores": _plain(scores),
        "differences": _plain(differences),
        "alarms": alarms(scores, differences),
    }


def _plain(found: Estimates) -> dict[str, Any]:
    return {model: plain(by_name) for model, by_name in found.items()}
