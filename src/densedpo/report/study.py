"""What people prefer, blind: win, tie and lose of every pairing, as ``study results`` left it in ``study.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from densedpo.errors import ProjectError
from densedpo.report.plots import Figure, escape
from densedpo.report.text import MINUS, capitalised, counted
from densedpo.store.files import read_object
from densedpo.store.project import Project

_BARS = {"win": "var(--good)", "tie": "var(--tie)", "lose": "var(--warm)"}
_INKS = {"win": "var(--card)", "tie": "var(--tie-ink)", "lose": "var(--card)"}
_LEAST_WRITTEN = 6  # per cent: narrower parts have no room for their number


@dataclass(frozen=True)
class Pairing:
    """Two models as people saw them: ``a`` wins or loses against ``b``; a row a question, and the bars."""

    a: str
    b: str
    rows: list[dict[str, Any]]
    figure: Figure


@dataclass(frozen=True)
class Study:
    """One study of one evaluation."""

    name: str
    sentence: str
    notes: list[str]
    pairings: list[Pairing]
    raw: dict[str, Any]


def read_studies(project: Project) -> list[Study]:
    """Read the results of every study, in order of the evaluation's name; those without an answer are left out.

    Raises:
        ProjectError: if a file is there and is not what the verb writes.
    """
    paths = sorted(project.evaluations.glob("*/study.json")) if project.evaluations.is_dir() else []
    studies: list[Study] = []
    for path in paths:
        found = read_object(path)
        try:
            study = _study(path.parent.name, found, len(studies))
        except (KeyError, TypeError, ValueError) as error:
            raise ProjectError(f"{path}: lacks {error}; run `densedpo study results` again") from None
        if study.pairings:
            studies.append(study)
    return studies


def _study(name: str, found: dict[str, Any], place: int) -> Study:
    titles = {question["code"]: str(question["name"]) for question in found["questions"]}
    answered = [pairing for pairing in found["pairings"] if any(_count(row) for row in pairing["questions"])]
    pairings = [
        Pairing(
            pairing["a"],
            pairing["b"],
            [
                row | {"title": titles[row["question"]], "won": _won(row), "agreed": _agreed(row)}
                for row in pairing["questions"]
                if _count(row)
            ],
            _bars(pairing, titles, f"study-bars-{place}-{number}"),
        )
        for number, pairing in enumerate(answered)
    ]
    sentence = (
        f"{counted(found['people'], 'person', 'people')} compared whole videos of evaluation {name} without knowing "
        f"which model made which: {counted(found['answers'], 'answer')} on {counted(found['prompts'], 'prompt')}."
    )
    if found["power"]:
        sentence = f"{sentence} {found['power']['sentence']}"
    notes = [str(control["sentence"]) for control in found["controls"].values() if control["answers"]]
    if found["left_out"]:
        notes.append(f"Left out, because flagged: {counted(len(found['left_out']), 'person', 'people')}.")
    ranked = found["bradley_terry"] or {}
    notes += [f"{titles[code]}: {one['sentence']}" for code, one in ranked.items() if one]
    return Study(name, sentence, notes, pairings, found)


def _count(row: dict[str, Any]) -> int:
    return sum(int(row[outcome]) for outcome in _BARS)


def _agreed(row: dict[str, Any]) -> str:
    """Write the ordinal alpha between people: ``0.34 [-0.12, 0.72]``."""
    alpha = row["agreement"]["alpha_ordinal"]
    if alpha["value"] is None:
        return "–"
    shown = f"{alpha['value']:.2f}"
    if alpha["low"] is not None:
        shown += f" [{alpha['low']:.2f},\N{NO-BREAK SPACE}{alpha['high']:.2f}]"
    return shown.replace("-", MINUS)


def _won(row: dict[str, Any]) -> str:
    """Write wins minus losses in points of 100 answers: ``+79 [+63, +94]``, not to be broken inside the brackets."""
    if not row["net_win"]:
        return "–"
    points = {end: f"{100 * row['net_win'][end]:+.0f}".replace("-", MINUS) for end in ("mean", "low", "high")}
    return f"{points['mean']} [{points['low']},\N{NO-BREAK SPACE}{points['high']}]"


def _bars(pairing: dict[str, Any], titles: dict[str, str], figure_id: str) -> Figure:
    """Draw one stacked bar a question, in per cent of the answers that judged."""
    rows = [row for row in reversed(pairing["questions"]) if _count(row)]
    names = [escape(titles[row["question"]]) for row in rows]
    data = []
    for outcome, colour in _BARS.items():
        shares = [100 * row[outcome] / _count(row) for row in rows]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": escape({"win": pairing["a"], "tie": "tie", "lose": pairing["b"]}[outcome]),
                "x": shares,
                "y": names,
                "marker": {"color": colour},
                "text": [f"{share:.0f} %" if share >= _LEAST_WRITTEN else "" for share in shares],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "textfont": {"color": _INKS[outcome]},
                "hovertext": [f"{outcome}: {row[outcome]} of {_count(row)} answers" for row in rows],
                "hoverinfo": "text",
            }
        )
    layout = {
        "barmode": "stack",
        "bargap": 0.35,
        "uniformtext": {"minsize": 9, "mode": "hide"},
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        "xaxis": {"range": [0, 100], "dtick": 25, "ticksuffix": " %", "zeroline": False},
        "yaxis": {"automargin": True, "showgrid": False},
        "margin": {"l": 8, "r": 24, "t": 34, "b": 32},
    }
    alt = f"{capitalised(pairing['a'])} against {pairing['b']}"
    return Figure(figure_id, data, layout, 90 + 52 * len(rows), alt)
