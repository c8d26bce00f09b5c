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
from densedpo.evaluation.paired import BASE, Bootstrap, Table, table_of
from densedpo.evaluation.properties import PREFIX, PROPERTIES, alarms
from densedpo.evaluation.scorers import ScoreInfo
from densedpo.evaluation.statistics import paired_tests, power
from densedpo.evaluation.variants import Variant
from densedpo.intervals import Interval
from densedpo.store.tables import Row

Estimates = dict[str, dict[str, Interval | None]]


def summarise(rows: Sequence[Row], score_names: Sequence[str], runs: Sequence[str]) -> dict[str, Any]:
    """Return scores, differences and ratios with 95 % intervals: bootstrap over prompts, seeds nested inside.

    A ratio is sum(tuned) / sum(base); None where the base's scores are all zero or one is negative.
    """
    table = table_of(rows, [BASE, *runs], score_names)
    bootstrap = Bootstrap(len(table.prompts))
    parts = {
        "scores": scores_of(table, bootstrap),
        "differences": differences_of(table, bootstrap),
        "ratios": ratios_of(table, bootstrap),
    }
    return {name: _plain(part) for name, part in parts.items()}


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
    plane = Plane(table, bootstrap, motion, quality, chosen, motion_kept) if motion and quality else None
    return {
        "motion": motion,
        "quality": quality,
        "scores": _plain(scores_of(table, bootstrap)),
        "differences": _plain(differences),
        "ratios": _plain(ratios),
        "tests": {
            model: paired_tests(table.means[place], table.means[0], differences[model], better)
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


def scores_of(table: Table, bootstrap: Bootstrap) -> Estimates:
    """Return the mean of every model and score."""
    return {
        model: {name: bootstrap.interval(table.of(model, name), table.seeds) for name in table.names}
        for model in table.models
    }


def differences_of(table: Table, bootstrap: Bootstrap) -> Estimates:
    """Return model minus base in every score, paired."""
    base = table.models[0]
    return {
        model: {
            name: bootstrap.interval(table.of(model, name) - table.of(base, name), table.seeds) for name in table.names
        }
        for model in table.models[1:]
    }


def ratios_of(table: Table, bootstrap: Bootstrap) -> Estimates:
    """Return sum(model) / sum(base) in every score; None where the base's is all zero or somewhere negative."""
    base = table.models[0]
    return {
        model: {
            name: bootstrap.interval(table.of(model, name), table.of(base, name))
            if table.of(base, name).min() >= 0
            else None
            for name in table.names
        }
        for model in table.models[1:]
    }


def _properties(rows: Sequence[Row], models: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    plain = [
        {key: row[key] for key in ("model", "prompt_id", "seed")} | {name: row[PREFIX + name] for name in PROPERTIES}
        for row in rows
    ]
    table = table_of(plain, models, list(PROPERTIES))
    scores, differences = scores_of(table, bootstrap), differences_of(table, bootstrap)
    return {
        "info": PROPERTIES,
        "scores": _plain(scores),
        "differences": _plain(differences),
        "alarms": alarms(scores, differences),
    }


def _plain(found: Estimates) -> dict[str, dict[str, dict[str, float | int] | None]]:
    return {
        model: {name: None if interval is None else interval.as_dict() for name, interval in by_name.items()}
        for model, by_name in found.items()
    }
