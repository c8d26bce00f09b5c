"""The evaluation as plotly figures: paired differences to the base, a row each, and of quality against motion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densedpo.report.evaluation import Evaluation
from densedpo.report.looks import look_of
from densedpo.report.plots import BASE_COLOUR, Figure, axis_title, error_bar, escape, rule
from densedpo.report.text import bracket, capitalised, signed_estimate, verdict

_ROW_PX = 78


def difference_figure(evaluation: Evaluation, place: int) -> Figure:
    """Draw tuned minus base, a row a score in its own unit, turned so that right is better wherever one side is."""
    alt = "Differences to the base with 95 % intervals, one row a score; right of the line is better"
    return _differences(evaluation, evaluation.main_info, evaluation.main_differences, f"differences-{place}", alt)


def property_figure(evaluation: Evaluation, place: int) -> Figure | None:
    """Draw how properties that nothing was trained on differ from the base's; None where they were not measured."""
    found = evaluation.part("properties")
    if not found:
        return None
    info = {
        name: {"better": "neither"} | one | {"label": capitalised(one["label"])} for name, one in found["info"].items()
    }
    differences = {model: one for model, one in found["differences"].items() if model in evaluation.main_models}
    alt = "Properties of the tuned models minus the base's, with 95 % intervals"
    return _differences(evaluation, info, differences, f"properties-{place}", alt)


def _differences(
    evaluation: Evaluation,
    infos: Mapping[str, Mapping[str, str]],
    differences: Mapping[str, Mapping[str, Any]],
    figure_id: str,
    alt: str,
) -> Figure:
    scores = [score for score in infos if any(found.get(score) for found in differences.values())]
    layout: dict[str, Any] = {
        "showlegend": len(differences) > 1,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "margin": {"l": 8, "r": 16, "t": 34, "b": 8},
        "shapes": [],
    }
    data = []
    gap = 0.42 / max(1, len(scores))
    for row, score in enumerate(scores):
        axis = "" if row == 0 else str(row + 1)
        top = 1 - row / len(scores)
        rows = [(model, found[score]) for model, found in differences.items() if found.get(score)]
        reach = 1.15 * max(max(abs(found["low"]), abs(found["high"])) for _, found in rows) or 1.0
        info = infos[score]
        ends = [reach, -reach] if info["better"] == "lower" else [-reach, reach]
        unit = f" ({info['unit']})" if info.get("unit") else ""
        layout[f"xaxis{axis}"] = {"range": ends, "anchor": f"y{axis}", "zeroline": False, "nticks": 5, "tickangle": 0}
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
            look = look_of(evaluation, model)
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
                    "error_x": error_bar([found["mean"]], [found["low"]], [found["high"]], look.colour),
                    "marker": {"color": look.colour, "size": 11, "symbol": look.marker},
                    "text": [escape(said + verdict(found, info["better"]))],
                    "hoverinfo": "text",
                }
            )
    height = 40 + (_ROW_PX + 14 * (len(differences) - 1)) * len(scores)
    return Figure(figure_id, data, layout, height, alt)


def plane_figures(evaluation: Evaluation, place: int) -> list[Figure]:
    """Draw each quality score against motion, both minus the base's with their intervals; up is always better."""
    motion = evaluation.motion
    if motion is None:
        return []
    return [
        _plane(evaluation, motion, score, f"plane-{place}-{order}")
        for order, score in enumerate(key for key in evaluation.main_info if key != motion)
        if any(found.get(score) and found.get(motion) for found in evaluation.main_differences.values())
    ]


def _plane(evaluation: Evaluation, motion: str, score: str, figure_id: str) -> Figure:
    info = evaluation.info[score]
    named = info["label"].lower()
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": escape(evaluation.base),
            "x": [0],
            "y": [0],
            "marker": {"color": BASE_COLOUR, "size": 10, "symbol": "circle-open", "line": {"width": 2}},
            "hoverinfo": "name",
        }
    ]
    for model, found in evaluation.main_differences.items():
        x, y = found.get(motion), found.get(score)
        if not x or not y:
            continue
        look = look_of(evaluation, model)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape(model),
                "x": [x["mean"]],
                "y": [y["mean"]],
                "error_x": error_bar([x["mean"]], [x["low"]], [x["high"]], look.colour),
                "error_y": error_bar([y["mean"]], [y["low"]], [y["high"]], look.colour),
                "marker": {
                    "color": look.colour,
                    "size": 12,
                    "symbol": look.marker,
                    "line": {"color": look.colour, "width": 2},
                },
                "text": [
                    escape(
                        f"{model} minus {evaluation.base}: motion {signed_estimate(x)} {bracket(x)}, "
                        f"{named} {signed_estimate(y)} {bracket(y)}"
                    )
                ],
                "hoverinfo": "text",
                "cliponaxis": False,
            }
        )
    layout = {
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "shapes": [rule(0.0), rule(0.0, "y", "y")],
        "xaxis": {"title": {"text": escape(axis_title(evaluation.info[motion]))}, "zeroline": False, "nticks": 5},
        "yaxis": {
            "title": {"text": escape(axis_title(info))},
            "zeroline": False,
            "automargin": True,
            "autorange": "reversed" if info["better"] == "lower" else True,
        },
        "margin": {"l": 8, "r": 16, "t": 34, "b": 44},
    }
    return Figure(figure_id, data, layout, 270 + 18 * len(data), f"{info['label']} and motion")
