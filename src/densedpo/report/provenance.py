"""What made these numbers: settings, digests, seeds, versions and the commands that make them again."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from shlex import quote
from typing import Any

from densedpo.config import Settings, dump_settings
from densedpo.report.evaluation import Evaluation
from densedpo.report.pairs import Pairs
from densedpo.report.training import Run
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table

_PACKAGES = ("densedpo", "torch", "diffusers", "transformers", "peft", "av", "numpy", "plotly")
_PAIR_SETTINGS = ("model", "model_fingerprint", "mode", "steps", "cfg", "shift", "fps", "num_frames", "height", "width")
_MOST_VALUES = 6


@dataclass(frozen=True)
class Provenance:
    """Blocks of plain text (title, text), pairs of name and value, and commands in order."""

    facts: list[tuple[str, str]]
    blocks: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    commands: list[str]


def read_provenance(
    project: Project, settings: Settings, pairs: Pairs, runs: list[Run], evaluations: list[Evaluation]
) -> Provenance:
    """Gather what made the numbers of this report."""
    rows = read_table(project.pairs_table)
    facts = [("seed", str(settings.seed)), ("model", settings.model)]
    facts += [(f"pairs: {name}", found) for name, found in _distinct(rows)]
    if pairs.snapshot:
        facts.append(("label snapshot", pairs.snapshot.id))
        said = sorted(pairs.snapshot.metadata.items())
        facts += [(f"labels: {name.replace('_', ' ')}", _plain(value)) for name, value in said]
    blocks = [("densedpo.yaml: the project's settings, defaults included", dump_settings(settings))]
    blocks += [(f"runs/{run.name}/config.yaml", run.config) for run in runs if run.config]
    for evaluation in evaluations:
        seeds = ", ".join(str(seed) for seed in evaluation.summary["seeds"])
        facts.append((f"evaluation {evaluation.name}: seeds", seeds))
        for part in ("hashes", "settings"):
            if evaluation.summary.get(part):
                text = json.dumps(evaluation.summary[part], indent=2, sort_keys=True, ensure_ascii=False)
                blocks.append((f"evals/{evaluation.name}: {part}", text))
    return Provenance(facts, blocks, _versions(), _commands(pairs, runs, evaluations))


def _distinct(rows: list[Row]) -> list[tuple[str, str]]:
    found = []
    for name in _PAIR_SETTINGS:
        values = sorted({_plain(row[name]) for row in rows if row.get(name) is not None})
        if values:
            more = f" and {len(values) - _MOST_VALUES} more" if len(values) > _MOST_VALUES else ""
            found.append((name.replace("_", " "), ", ".join(values[:_MOST_VALUES]) + more))
    etas = [float(row["eta"]) for row in rows if row.get("eta") is not None and row.get("mode") == "guided"]
    if etas:
        found.append(("noise level eta of guided pairs", f"{min(etas):.3f} to {max(etas):.3f}"))
    return found


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    return str(value)


def _versions() -> list[tuple[str, str]]:
    found = [("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


def _commands(pairs: Pairs, runs: list[Run], evaluations: list[Evaluation]) -> list[str]:
    commands = ["densedpo clips add SOURCE"] if pairs.clips else []
    commands += [f"densedpo pairs make --mode {mode}" for mode in sorted(pairs.by_mode)]
    if pairs.snapshot:
        commands += ["densedpo label audit", "densedpo label freeze"]
    commands += [f"densedpo train --name {quote(run.name)}" for run in runs]
    for evaluation in evaluations:
        compared = "".join(f" --run {quote(model)}" for model in evaluation.models[1:])
        commands.append(f"densedpo evaluate --name {quote(evaluation.name)}{compared}")
    return [*commands, "densedpo report"]
