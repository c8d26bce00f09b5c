"""The plane of quality against motion: every model a point with its region, every run a curve.

What a run gains in quality it may pay in motion, and how much depends on how hard it was trained; so runs are compared
along their curves (DESIGN: never at one point). Reads the entry ``curves`` of an evaluation's summary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from densedpo.report.evaluation import Evaluation
from densedpo.report.looks import Look, look_of
from densedpo.report.plots import Figure, axis_title, escape, rule
from densedpo.report.text import bracket, estimate

_STEPS = 48  # corners of an ellipse
_HEIGHT_PX = 460


def curve_figure(evaluation: Evaluation, place: int) -> Figure | None:
    """Draw the main quality against motion; up is better, right moves more. None where there is nothing to compare."""
    curves = evaluation.summary.get("curves")
    if not curves or len(curves["points"]) < 2:
        return None
    points = {point["model"]: point for point in curves["points"] if point.get("motion") and point.get("quality")}
    if len(points) < 2:
        return None
    lines = [line for line in curves["lines"] if sum(model in points for model in line["models"]) > 1]
    on_a_line = {model for line in lines for model in line["models"]}
    data = [trace for point in points.values() for trace in _region(evaluation, point)]
    for line in lines:
        models = [model for model in line["models"] if model in points and model != evaluation.base]
        drawn = [points[model] for model in line["models"] if model in points]
        data.append(_path(drawn, look_of(evaluation, models[0])))
        data.append(_markers(evaluation, [points[model] for model in models], line["name"], line["by"]))
    alone = [model for model in points if model not in on_a_line or model == evaluation.base]
    data += [_markers(evaluation, [points[model]], model, None) for model in alone]
    data += [_shipped(point) for point in points.values() if point.get("ship") and point["model"] != evaluation.base]
    info = evaluation.info
    layout: dict[str, Any] = {
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": escape(axis_title(info[curves["motion"]]))}, "zeroline": False, "nticks": 7},
        "yaxis": {
            "title": {"text": escape(axis_title(info[curves["quality"]]))},
            "zeroline": False,
            "automargin": True,
            "autorange": "reversed" if curves["better"] == "lower" else True,
        },
        "margin": {"l": 8, "r": 30, "t": 36, "b": 46},
        "shapes": [],
        "annotations": [],
    }
    base = points.get(evaluation.base)
    if base:
        kept = curves["ship"]["motion_kept"]
        layout["shapes"].append(rule(kept * base["motion"]["mean"]))
        layout["annotations"].append(
            {
                "x": kept * base["motion"]["mean"],
                "xref": "x",
                "y": 0,
                "yref": "paper",
                "yanchor": "bottom",
                "xanchor": "right",
                "text": f"{100 * kept:.0f} % of {escape(evaluation.base)}'s motion",
                "textangle": -90,
                "showarrow": False,
                "font": {"size": 11, "color": "var(--soft)"},
            }
        )
    title = f"{info[curves['quality']]['label']} against motion"
    return Figure(f"curves-{place}", data, layout, _HEIGHT_PX, title)


def ellipse_path(ellipse: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return x and y of a closed curve around ``center`` with ``radii`` (a, b), a along ``angle_rad``."""
    (x, y), (a, b), angle = ellipse["center"], ellipse["radii"], ellipse["angle_rad"]
    turns = [2 * math.pi * step / _STEPS for step in range(_STEPS + 1)]
    across = [x + a * math.cos(angle) * math.cos(turn) - b * math.sin(angle) * math.sin(turn) for turn in turns]
    up = [y + a * math.sin(angle) * math.cos(turn) + b * math.cos(angle) * math.sin(turn) for turn in turns]
    return across, up


def _region(evaluation: Evaluation, point: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Draw the region of a model's difference to the base around the model's own means; the base has none."""
    ellipse = point.get("paired_ellipse")
    if not ellipse:
        return []
    x, y = ellipse_path(ellipse)
    colour = look_of(evaluation, point["model"]).colour
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": y,
            "line": {"color": colour, "width": 1},
            "opacity": 0.55,
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]


def _path(points: Sequence[Mapping[str, Any]], look: Look) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [point["motion"]["mean"] for point in points],
        "y": [point["quality"]["mean"] for point in points],
        "line": {"color": look.colour, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _markers(evaluation: Evaluation, points: Sequence[Mapping[str, Any]], name: str, by: str | None) -> dict[str, Any]:
    look = look_of(evaluation, points[0]["model"])
    written = [_short(point, by) for point in points]
    return {
        "type": "scatter",
        "mode": "markers+text" if by else "markers",
        "name": escape(name),
        "x": [point["motion"]["mean"] for point in points],
        "y": [point["quality"]["mean"] for point in points],
        "marker": {"color": look.colour, "size": 10, "symbol": look.symbol, "line": {"color": look.colour, "width": 2}},
        "text": written,
        "textposition": "top center",
        "textfont": {"color": look.colour, "size": 11},
        "hovertext": [escape(_hover(evaluation, point)) for point in points],
        "hoverinfo": "text",
        "cliponaxis": False,
    }


def _shipped(point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "to ship",
        "x": [point["motion"]["mean"]],
        "y": [point["quality"]["mean"]],
        "marker": {"color": "var(--ink)", "size": 20, "symbol": "circle-open", "line": {"width": 2}},
        "hoverinfo": "skip",
    }


def _short(point: Mapping[str, Any], by: str | None) -> str:
    if by == "step":
        return "" if point.get("step") is None else str(point["step"])
    return "" if point.get("lora_scale") is None else f"{point['lora_scale']:g}"


def _hover(evaluation: Evaluation, point: Mapping[str, Any]) -> str:
    curves = evaluation.summary["curves"]
    quality = evaluation.info[curves["quality"]]["label"].lower()
    x, y = point["motion"], point["quality"]
    return f"{point['model']}: motion {estimate(x)} {bracket(x)}, {quality} {estimate(y)} {bracket(y)}"
