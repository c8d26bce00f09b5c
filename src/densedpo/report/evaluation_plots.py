"""The evaluation as plotly figures: differences around zero, and quality against motion."""

from __future__ import annotations

from typing import Any

from densedpo.report.evaluation import Evaluation
from densedpo.report.plots import BASE_COLOUR, RUN_COLOURS, RUN_SYMBOLS, Figure, error_bar, escape, rule
from densedpo.report.text import bracket, estimate, signed_estimate, verdict

_ROW_PX = 78


def difference_figure(evaluation: Evaluation, place: int) -> Figure:
    """Draw tuned minus base, a row a score in its own unit, turned so that right is better wherever one side is."""
    scores = [score for score in evaluation.info if any(found.get(score) for found in evaluation.differences.values())]
    layout: dict[str, Any] = {
        "showlegend": len(evaluation.differences) > 1,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "margin": {"l": 8, "r": 16, "t": 34, "b": 8},
        "shapes": [],
    }
    data = []
    gap = 0.42 / max(1, len(scores))
    for row, score in enumerate(scores):
        axis = "" if row == 0 else str(row + 1)
        top = 1 - row / len(scores)
        rows = [(model, found[score]) for model, found in evaluation.differences.items() if found.get(score)]
        reach = 1.15 * max(max(abs(found["low"]), abs(found["high"])) for _, found in rows) or 1.0
        info = evaluation.info[score]
        ends = [reach, -reach] if info["better"] == "lower" else [-reach, reach]
        unit = f" ({info['unit']})" if info.get("unit") else ""
        layout[f"xaxis{axis}"] = {"range": ends, "anchor": f"y{axis}", "zeroline": False, "nticks": 6}
        layout[f"yaxis{axis}"] = {
            "domain": [max(0.0, top - 1 / len(scores) + gap), top],
            "anchor": f"x{axis}",
            "range": [-0.7, len(rows) - 0.3],
            "tickmode": "array",
            "tickvals": [(len(rows) - 1) / 2],
            "ticktext": [escape(info["label"] + unit)],
            "showgrid": False,
            "zeroline": False,
            "automargin": True,
        }
        layout["shapes"].append(rule(0.0, "x", f"x{axis}", f"y{axis} domain"))
        for order, (model, found) in enumerate(rows):
            look = evaluation.models.index(model) - 1
            colour = RUN_COLOURS[look % len(RUN_COLOURS)]
            said = f"{model} minus {evaluation.base}: {signed_estimate(found)} {bracket(found)}, "
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": escape(f"{model} minus {evaluation.base}"),
                    "legendgroup": escape(model),
                    "showlegend": row == 0,
                    "x": [found["mean"]],
                    "y": [len(rows) - 1 - order],
                    "xaxis": f"x{axis}",
                    "yaxis": f"y{axis}",
                    "error_x": error_bar([found["mean"]], [found["low"]], [found["high"]], colour),
                    "marker": {"color": colour, "size": 11, "symbol": RUN_SYMBOLS[look % len(RUN_SYMBOLS)]},
                    "text": [escape(said + verdict(found, info["better"]))],
                    "hoverinfo": "text",
                }
            )
    height = 40 + (_ROW_PX + 14 * (len(evaluation.differences) - 1)) * len(scores)
    alt = "Differences to the base with 95 % intervals, one row a score; right of the line is better"
    return Figure(f"differences-{place}", data, layout, height, alt)


def plane_figures(evaluation: Evaluation, place: int) -> list[Figure]:
    """Draw each quality score against motion, base and runs with their intervals; up is always better."""
    motion = evaluation.motion
    if motion is None:
        return []
    return [
        _plane(evaluation, motion, score, f"plane-{place}-{order}")
        for order, score in enumerate(evaluation.qualities)
        if any(found.get(score) and found.get(motion) for found in evaluation.scores.values())
    ]


def _plane(evaluation: Evaluation, motion: str, score: str, figure_id: str) -> Figure:
    info = evaluation.info[score]
    named = info["label"].lower()
    data = []
    for order, model in enumerate(evaluation.models):
        found = evaluation.scores.get(model, {})
        x, y = found.get(motion), found.get(score)
        if not x or not y:
            continue
        colour = BASE_COLOUR if order == 0 else RUN_COLOURS[(order - 1) % len(RUN_COLOURS)]
        symbol = "circle-open" if order == 0 else RUN_SYMBOLS[(order - 1) % len(RUN_SYMBOLS)]
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": escape(model),
                "x": [x["mean"]],
                "y": [y["mean"]],
                "error_x": error_bar([x["mean"]], [x["low"]], [x["high"]], colour),
                "error_y": error_bar([y["mean"]], [y["low"]], [y["high"]], colour),
                "marker": {"color": colour, "size": 12, "symbol": symbol, "line": {"color": colour, "width": 2}},
                "text": [escape(model)],
                "textposition": "top right",
                "textfont": {"color": colour},
                "hovertext": [
                    escape(f"{model}: motion {estimate(x)} {bracket(x)}, {named} {estimate(y)} {bracket(y)}")
                ],
                "hoverinfo": "text",
                "cliponaxis": False,
            }
        )
    layout = {
        "showlegend": False,
        "xaxis": {"title": {"text": escape(_named(evaluation.info[motion]))}, "zeroline": False, "nticks": 6},
        "yaxis": {
            "title": {"text": escape(_named(info))},
            "zeroline": False,
            "automargin": True,
            "autorange": "reversed" if info["better"] == "lower" else True,
        },
        "margin": {"l": 8, "r": 40, "t": 16, "b": 44},
    }
    return Figure(figure_id, data, layout, 280, f"{info['label']} and motion")


def _named(info: dict[str, str]) -> str:
    return f"{info['label']} ({info['unit']})" if info.get("unit") else info["label"]
