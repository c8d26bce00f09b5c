"""``build_report``: read what a project holds, draw it and write the report folder whole.

The last stage of the flow. It only reads the project; whatever is missing is named on the page with the command that
makes it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from densedpo.config import load_settings
from densedpo.errors import ProjectError
from densedpo.observe import say
from densedpo.report.audit import LEVELS, Audit, read_audit
from densedpo.report.drawn import draw
from densedpo.report.evaluation import Evaluation, read_evaluations
from densedpo.report.headlines import Finding, findings, flow, story
from densedpo.report.judges import Accuracy, read_accuracy, reliability_figure
from densedpo.report.media import Shelf
from densedpo.report.pairs import Pairs, read_pairs
from densedpo.report.plots import Figure, audit_figure
from densedpo.report.provenance import read_provenance
from densedpo.report.rankings import compare_rankings
from densedpo.report.render import render
from densedpo.report.study import Study, read_studies
from densedpo.report.training import Run, read_runs
from densedpo.report.training_plots import training_figures
from densedpo.store.files import replacing_folder, write_json, write_text
from densedpo.store.project import Project

SCHEMA_VERSION = 2
_EVALUATION_PARTS = ("tests", "power", "overall", "controls", "properties", "curves", "bradley_terry", "prompt_set")
PLOTLY = "assets/plotly.min.js"
_ASSETS = ("report.css", "figures.js", "players.js")


def build_report(project: Project) -> Path:
    """Write the report of ``project`` and return its ``index.html``.

    Raises:
        ProjectError: if the project folder does not exist or one of its files is unreadable.
    """
    if not project.root.is_dir():
        raise ProjectError(f"{project.root}: no such folder; run `densedpo clips add` or `densedpo demo` first")
    settings = load_settings(project.settings_file, {})
    with replacing_folder(project.report) as folder:
        shelf = Shelf(folder, previous=project.report)
        audit = read_audit(project)
        pairs = read_pairs(project, shelf, settings.label.segment_s)
        runs = read_runs(project)
        evaluations = read_evaluations(project, shelf)
        accuracy, studies = read_accuracy(project), read_studies(project)
        told = story(settings.model, pairs, runs, evaluations)
        found = findings(audit, evaluations, studies)
        written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        page: dict[str, Any] = {
            "name": project.root.resolve().name,
            "written": written,
            "story": told,
            "flow": flow(pairs, runs, evaluations),
            "findings": found,
            "audit": audit,
            "audit_figures": _audit_figures(audit),
            "pairs": pairs,
            "runs": runs,
            "training_figures": training_figures(runs),
            "evaluations": [(evaluation, draw(evaluation, place)) for place, evaluation in enumerate(evaluations)],
            "accuracy": accuracy,
            "judge_figure": reliability_figure(accuracy) if accuracy else None,
            "studies": studies,
            "rankings": compare_rankings(project, evaluations),
            "provenance": read_provenance(project, settings, pairs, runs, evaluations),
        }
        _copy_assets(folder)
        page["plotly_style_ids"] = _plotly_style_ids(folder / PLOTLY)
        write_text(folder / "index.html", render(page))
        write_json(
            folder / "report.json", _numbers(written, told, found, audit, pairs, runs, evaluations, accuracy, studies)
        )
    say(f"report: {project.report / 'index.html'}")
    return project.report / "index.html"


def _audit_figures(audit: Audit | None) -> list[tuple[str, str, Figure]]:
    if audit is None:
        return []
    drawn = [(level, title, audit_figure(audit.biases, level, title)) for level, title in LEVELS.items()]
    return [found for found in drawn if found[2].data]


def _numbers(
    written: str,
    told: list[str],
    found: list[Finding],
    audit: Audit | None,
    pairs: Pairs,
    runs: list[Run],
    evaluations: list[Evaluation],
    accuracy: Accuracy | None,
    studies: list[Study],
) -> dict[str, Any]:
    """Return the numbers on the page as plain values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "written": written,
        "story": told,
        "findings": [asdict(finding) for finding in found],
        "audit": audit.raw if audit else None,
        "judges": accuracy.raw if accuracy else None,
        "studies": {study.name: study.raw for study in studies},
        "clips": pairs.clips,
        "pairs": {
            "by_mode": pairs.by_mode,
            "answers": pairs.answers,
            "snapshot": pairs.snapshot.id if pairs.snapshot else None,
            "shown": [pair.pair_id for pair in pairs.shown],
            "rule": pairs.rule,
        },
        "runs": {
            run.name: {"steps": run.steps, "window": run.window, "last": {key: run.last(key) for key in run.series}}
            for run in runs
        },
        "evaluations": {
            evaluation.name: {
                "scores": evaluation.scores,
                "differences": evaluation.differences,
                "rule": evaluation.rule,
                **{part: evaluation.part(part) for part in _EVALUATION_PARTS},
                "suites": {suite.name: asdict(suite) for suite in evaluation.suites},
            }
            for evaluation in evaluations
        },
    }


def _copy_assets(folder: Path) -> None:
    (folder / "assets").mkdir()
    ours = files("densedpo.report") / "assets"
    plotly = files("plotly") / "package_data" / "plotly.min.js"
    for source, name in [*((ours / name, f"assets/{name}") for name in _ASSETS), (plotly, PLOTLY)]:
        with as_file(source) as path:
            shutil.copyfile(path, folder / name)


def _plotly_style_ids(script: Path) -> list[str]:
    """Return the ids of style elements that plotly would add: its own, and those of libraries inside it."""
    bundled = re.findall(r'getElementById\("([0-9a-f]{64})"\)', script.read_text(encoding="utf-8"))
    return ["plotly.js-style-global", *dict.fromkeys(bundled)]
