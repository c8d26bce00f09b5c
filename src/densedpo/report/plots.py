"""Plotly figures as plain JSON: what is drawn, in colour names of the style sheet.

A colour is written ``var(--name)``; the page's script replaces it by the theme's value, so one figure serves light,
dark and print. Text from data is escaped for plotly's small markup. The audit's figure is here; training and evaluation
have files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densedpo.report.audit import Bias
from densedpo.report.text import percent, share_with_interval

RUN_COLOURS = ("var(--run-1)", "var(--run-2)", "var(--run-3)", "var(--run-4)", "var(--run-5)")
RUN_SYMBOLS = ("circle", "square", "triangle-up", "cross", "star")
BASE_COLOUR = "var(--soft)"


@dataclass(frozen=True)
class Figure:
    """One plotly figure: where it goes (id), its traces and layout, its height and what it shows in words."""

    id: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height_px: int
    alt: str

    def as_json(self) -> dict[str, Any]:
        """Return the part the page's script reads."""
        return {"id": self.id, "data": self.data, "layout": self.layout, "height": self.height_px}


def escape(text: str) -> str:
    """Return ``text`` such that plotly, which reads a little HTML in names and labels, shows it as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%&#123;")


def axis_title(info: Mapping[str, str]) -> str:
    """Return a score's label with its unit, as the title of an axis."""
    return f"{info['label']} ({info['unit']})" if info.get("unit") else info["label"]


def rule(at: float, axis: str = "x", ref: str = "x", span: str = "paper") -> dict[str, Any]:
    """Return a thin reference line at one value of an axis, over the whole of the other one."""
    ends = {"x0": at, "x1": at, "y0": 0, "y1": 1} if axis == "x" else {"x0": 0, "x1": 1, "y0": at, "y1": at}
    refs = {"xref": ref, "yref": span} if axis == "x" else {"xref": span, "yref": ref}
    look = {"color": "var(--soft)", "width": 1.5, "dash": "dot"}
    return {"type": "line", "layer": "below", "line": look, **ends, **refs}


def error_bar(values: Sequence[float], lows: Sequence[float], highs: Sequence[float], colour: str) -> dict[str, Any]:
    """Return plotly's error bar for estimates with asymmetric intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, high in zip(values, highs, strict=True)],
        "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
        "color": colour,
        "thickness": 2,
        "width": 0,
    }


_MODE_LOOKS = {  # colour, symbol, shift from the middle of the row
    "independent": ("var(--warm)", "diamond", 0.16),
    "guided": ("var(--cool)", "circle", -0.16),
    "all": ("var(--soft)", "circle", 0.0),
}


def audit_figure(biases: Sequence[Bias], level: str, title: str) -> Figure:
    """Draw the shares of non-tie answers that go to each named side, with intervals, around the 50 % line."""
    here = [bias for bias in biases if bias.level == level and bias.mode in _MODE_LOOKS]
    sides = list(dict.fromkeys(bias.side for bias in here))
    places = {side: len(sides) - 1 - place for place, side in enumerate(sides)}
    data = []
    for mode, (colour, symbol, shift) in _MODE_LOOKS.items():
        rows = [bias for bias in here if bias.mode == mode]
        if not rows:
            continue
        x = [100 * bias.share["mean"] for bias in rows]
        lows, highs = ([100 * bias.share[end] for bias in rows] for end in ("low", "high"))
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"{mode} pairs",
                "x": x,
                "y": [places[bias.side] + shift for bias in rows],
                "error_x": error_bar(x, lows, highs, colour),
                "marker": {"color": colour, "symbol": symbol, "size": 11},
                "text": [_hover(bias) for bias in rows],
                "hoverinfo": "text",
            }
        )
    ends = [value for bias in here for value in (100 * bias.share["low"], 100 * bias.share["high"])]
    reach = max([15.0, *(abs(end - 50) + 4 for end in ends)])
    layout = {
        "xaxis": {"range": [max(-2, 50 - reach), min(102, 50 + reach)], "ticksuffix": " %", "zeroline": False},
        "yaxis": {
            "tickmode": "array",
            "tickvals": list(places.values()),
            "ticktext": [escape(side) for side in places],
            "range": [-0.6, len(sides) - 0.4],
            "showgrid": False,
            "zeroline": False,
            "automargin": True,
        },
        "shapes": [rule(50.0)],
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "reversed"},
        "margin": {"l": 8, "r": 26, "t": 30, "b": 32},
    }
    alt = f"{title}: " + "; ".join(f"{bias.mode}, {bias.side} {percent(bias.share['mean'])}" for bias in here)
    return Figure(f"audit-{level}", data, layout, 96 + 50 * len(sides), alt)


def _hover(bias: Bias) -> str:
    said = f"{bias.mode} pairs, {bias.side} side: {bias.written} of {bias.comparable:,}"
    gap = f"<br>where the two differ most: {share_with_interval(bias.large_gap)}" if bias.large_gap else ""
    return escape(said) + gap
