"""Judges against people, as ``label agreement --against`` left it in ``labels/accuracy.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from densedpo.errors import ProjectError
from densedpo.labels.accuracy.table import COLUMNS, ROWS
from densedpo.report.plots import RUN_COLOURS, RUN_SYMBOLS, Figure, error_bar, escape
from densedpo.store.files import read_object
from densedpo.store.project import Project

_AGAINST = {"person": "people", "gold": "known answers", "simulated": "simulated annotators"}


@dataclass(frozen=True)
class JudgeAccuracy:
    """One judge: its table of estimates by row and column, and its reliability table."""

    name: str
    untrusted: int
    table: dict[str, dict[str, Any]]
    reliability: list[dict[str, Any]]

    def measured(self, row: str) -> bool:
        """Say whether the row holds any number."""
        return any(found["value"] is not None for found in self.table[row].values())


@dataclass(frozen=True)
class Accuracy:
    """All judges against one reference."""

    against: str
    judges: list[JudgeAccuracy]
    raw: dict[str, Any]

    @property
    def rows(self) -> dict[str, str]:
        """Titles of the rows."""
        return ROWS

    @property
    def columns(self) -> dict[str, str]:
        """Titles of the columns."""
        return COLUMNS


def read_accuracy(project: Project) -> Accuracy | None:
    """Read how right the judges are; None where nobody has asked.

    Raises:
        ProjectError: if the file is there and is not what the verb writes.
    """
    path = project.accuracy_file
    if not path.exists():
        return None
    found = read_object(path)
    try:
        judges = [
            JudgeAccuracy(
                str(judge["judge"]), int(judge["untrusted"]), judge["table"], judge["calibration"]["reliability"]
            )
            for judge in found["judges"]
        ]
        against = str(found["reference"]["against"])
    except (KeyError, TypeError, ValueError) as error:
        raise ProjectError(f"{path}: lacks {error}; run `densedpo label agreement --against people` again") from None
    return Accuracy(_AGAINST.get(against, against), judges, found) if judges else None


def reliability_figure(accuracy: Accuracy) -> Figure | None:
    """Draw how often a judge is right against the confidence it stated; None where no judge states any."""
    data: list[dict[str, Any]] = []
    for place, judge in enumerate(accuracy.judges):
        bins = [found for found in judge.reliability if found["right"]["low"] is not None]
        if not bins:
            continue
        colour = RUN_COLOURS[place % len(RUN_COLOURS)]
        x = [100 * found["stated"] for found in bins]
        y, low, high = ([100 * found["right"][part] for found in bins] for part in ("value", "low", "high"))
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": escape(judge.name),
                "x": x,
                "y": y,
                "error_y": error_bar(y, low, high, colour),
                "line": {"color": colour, "width": 1, "dash": "dot"},
                "marker": {"color": colour, "size": 9, "symbol": RUN_SYMBOLS[place % len(RUN_SYMBOLS)]},
                "hovertext": [f"says {stated:.0f} %, right {right:.0f} %" for stated, right in zip(x, y, strict=True)],
                "hoverinfo": "text",
            }
        )
    if not data:
        return None
    diagonal = {"type": "line", "layer": "below", "x0": 0, "y0": 0, "x1": 100, "y1": 100}
    layout = {
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": "confidence stated"}, "range": [-2, 102], "ticksuffix": " %", "zeroline": False},
        "yaxis": {
            "title": {"text": "right"},
            "range": [-2, 102],
            "ticksuffix": " %",
            "zeroline": False,
            "automargin": True,
        },
        "shapes": [diagonal | {"line": {"color": "var(--soft)", "width": 1.5, "dash": "dot"}}],
        "margin": {"l": 8, "r": 16, "t": 34, "b": 44},
    }
    return Figure(
        "judge-confidence", data, layout, 320, "How often judges are right, by the confidence that they state"
    )
