"""The training curves as plotly figures: one a quantity, all runs over each other, and the four errors one a run."""

from __future__ import annotations

from typing import Any

from densedpo.report.plots import RUN_COLOURS, Figure, escape, rule
from densedpo.report.training import CHARTS, ERRORS, Chart, Run

_HEIGHT_PX = 270
_DASHES = ("solid", "dot", "dash", "longdash")
_ERROR_LOOKS = {
    "policy_winner_error": ("var(--run-1)", "solid"),
    "policy_loser_error": ("var(--run-3)", "solid"),
    "reference_winner_error": ("var(--run-1)", "dot"),
    "reference_loser_error": ("var(--run-3)", "dot"),
}


def training_figures(runs: list[Run]) -> list[tuple[Figure, Chart]]:
    """Return every chart that at least one run has numbers for, with the chart's reading help."""
    drawn = [(_errors(run, place, several=len(runs) > 1), ERRORS) for place, run in enumerate(runs)]
    drawn += [(_overlaid(chart, runs), chart) for chart in CHARTS]
    return [(figure, chart) for figure, chart in drawn if figure.data]


def _line(
    name: str, steps: list[int], values: list[float], colour: str, dash: str, group: str | None = None
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escape(name),
        **({"legendgroup": escape(group)} if group else {}),
        "x": steps,
        "y": values,
        "line": {"color": colour, "width": 2, "dash": dash},
        "hovertemplate": f"{escape(name)}: %{{y:.4g}}<extra></extra>",
    }


def _faint(line: dict[str, Any], raw: list[float]) -> dict[str, Any]:
    return line | {
        "y": raw,
        "opacity": 0.22,
        "line": {**line["line"], "width": 1, "dash": "solid"},
        "showlegend": False,
        "hoverinfo": "skip",
        "hovertemplate": None,
    }


def _layout(axis: str, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": "step"}, "zeroline": False},
        "yaxis": {"title": {"text": axis}, "zeroline": False, "automargin": True},
        "shapes": shapes,
        "hovermode": "x unified",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11.5}},
        "margin": {"l": 8, "r": 12, "t": 50, "b": 40},
    }


def _overlaid(chart: Chart, runs: list[Run]) -> Figure:
    data: list[dict[str, Any]] = []
    held_out = [key for key, _ in chart.lines if key.startswith("eval/")]
    for place, run in enumerate(runs):
        colour = RUN_COLOURS[place % len(RUN_COLOURS)]
        group = run.name if len(runs) > 1 else None
        for order, (key, short) in enumerate(chart.lines):
            series = run.series.get(key)
            if series is None:
                continue
            name = f"{run.name}, {short}" if len(runs) > 1 else short
            tint = colour if len(runs) > 1 or held_out else RUN_COLOURS[(2 * order) % len(RUN_COLOURS)]
            line = _line(name, series.steps, series.smooth, tint, _DASHES[order % len(_DASHES)], group)
            if key in held_out:
                data.append(line | {"mode": "lines+markers", "marker": {"size": 6, "color": tint}})
            else:
                data += [_faint(line, series.raw), line] if len(runs) == 1 else [line]
    shapes = [rule(chart.start, "y", "y")] if chart.start is not None else []
    layout = _layout(chart.axis, shapes)
    if chart.start is not None:
        layout["annotations"] = [_note(chart.start, chart.start_note)]
    return Figure(f"train-{chart.key}", data, layout, _HEIGHT_PX, chart.title)


def _note(at: float, text: str) -> dict[str, Any]:
    return {
        "text": text,
        "x": 1,
        "xref": "paper",
        "xanchor": "right",
        "y": at,
        "yref": "y",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 11, "color": "var(--soft)"},
    }


def _errors(run: Run, place: int, *, several: bool) -> Figure:
    data = []
    for key, short in ERRORS.lines:
        if key in run.series:
            colour, dash = _ERROR_LOOKS[key]
            data.append(_line(short, run.series[key].steps, run.series[key].smooth, colour, dash))
    title = f"{ERRORS.title}, {run.name}" if several else ERRORS.title
    return Figure(f"train-errors-{place}", data, _layout(ERRORS.axis, []), _HEIGHT_PX, title)
