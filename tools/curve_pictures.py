"""Draw docs/images/curve-*.png, the pictures of docs/guides/reading-curves.md, from the runs in tests/data/curves.

Needs a Chromium browser: ``.venv/bin/python tools/curve_pictures.py``. ``--list`` prints the names of the pictures.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright
from plotly.subplots import make_subplots

ROOT = Path(__file__).resolve().parents[1]
CURVES = ROOT / "tests" / "data" / "curves"
IMAGES = ROOT / "docs" / "images"
WIDTH_PX, HEIGHT_PX, LEGEND_PX = 860, 260, 34
BROWSER_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WINNER, LOSER, THIRD, FOURTH, ALARM = "#1f6fb4", "#d1662b", "#3a8f5c", "#7d5ba6", "#b3261e"
SMOOTHED_ROWS = 10

Row = Mapping[str, float]
Value = str | Callable[[Row], float]


@dataclass(frozen=True)
class Line:
    """One quantity of one run: a metric's name, or a function of a row that has ``needs``."""

    label: str
    value: Value
    colour: str = WINNER
    needs: str = ""


@dataclass(frozen=True)
class Panel:
    """One run, or several, with the quantities to draw."""

    title: str
    lines: tuple[tuple[str, Line], ...]


@dataclass(frozen=True)
class Picture:
    """Healthy beside sick. ``marks`` are horizontal lines with a word each."""

    name: str
    axis: str
    healthy: Panel
    sick: Panel
    marks: tuple[tuple[float, str], ...] = ()
    same_axis: bool = True
    powers: tuple[float, float] | None = None  # a logarithmic axis from and to these powers of ten


def of(run: str, *lines: Line) -> tuple[tuple[str, Line], ...]:
    """Say that all ``lines`` are of one run."""
    return tuple((run, line) for line in lines)


def relative(side: str, prefix: str = "") -> Callable[[Row], float]:
    """Return the change of a side's error in percent of the reference's."""
    return lambda row: 100 * row[f"{prefix}{side}_change"] / row[f"{prefix}reference_winner_error"]


def spoilt_wins(row: Row) -> float:
    """Return the share of the frames won whose winner got worse."""
    return row["loser_dominant_ratio"] / row["rewards/accuracies"] if row["rewards/accuracies"] else 0.0


def changes(prefix: str = "") -> tuple[Line, Line]:
    """Return the winner's and the loser's change."""
    needs = f"{prefix}winner_change"
    return (
        Line("winner", relative("winner", prefix), WINNER, needs),
        Line("loser", relative("loser", prefix), LOSER, needs),
    )


LOSS = Line("loss", "loss")
NORM = Line("grad_norm", "grad_norm")
ACCURACY = (
    Line("training", "rewards/accuracies"),
    Line("held-out", "eval/rewards/accuracies", LOSER),
)
PROBE = tuple(
    Line(name, f"probe/{name}", colour)
    for name, colour in (("motion", WINNER), ("size", LOSER), ("saturation", THIRD), ("texture", FOURTH))
)
CHANGE_AXIS = "change of error, % of ref."
PICTURES = (
    Picture(
        "loss", "loss",
        Panel("healthy: falls slowly from log 2", of("healthy-dense", LOSS)),
        Panel("sick: learning_rate 1e-2", of("sick-learning-rate-high", LOSS)),
        ((math.log(2), "log 2"),), same_axis=False,
    ),
    Picture(
        "grad-norm", "grad_norm",
        Panel("healthy: noisy around a level", of("healthy-dense", NORM)),
        Panel("sick: a spike", of("planted-spike", NORM)),
        same_axis=False,
    ),
    Picture(
        "changes", CHANGE_AXIS,
        Panel("healthy: the winner stays near 0", of("healthy-dense", *changes())),
        Panel("sick: beta 100, both get worse", of("sick-beta-100", *changes())),
        ((2.0, "alarm"),),
    ),
    Picture(
        "loser-dominant", "wins with a worse winner",
        Panel("healthy: around a half", of("healthy-dense", Line("share", spoilt_wins, WINNER, "winner_change"))),
        Panel("sick: four pairs", of("sick-four-pairs", Line("share", spoilt_wins, WINNER, "winner_change"))),
        ((0.75, "alarm"),),
    ),
    Picture(
        "accuracy", "rewards/accuracies",
        Panel("healthy: rises slowly, 0.6 to 0.8", of("healthy-dense", *ACCURACY)),
        Panel("sick: a giveaway in the pairs", of("sick-giveaway", *ACCURACY)),
        ((0.98, "alarm, early"),),
    ),
    Picture(
        "z", "z_median_abs",
        Panel("healthy: 0.1 to 1 after warm-up", of("healthy-dense", Line("median |z|", "z_median_abs"))),
        Panel(
            "sick: too strong; too weak",
            (
                ("sick-beta-50000", Line("beta 50000", "z_median_abs", LOSER)),
                ("sick-learning-rate-low", Line("learning_rate 1e-6", "z_median_abs", THIRD)),
            ),
        ),
        ((4.0, "saturated"), (0.02, "hardly moved")), powers=(-3.3, 2),
    ),
    Picture(
        "saturated", "z_saturated_share",
        Panel("healthy: near 0", of("healthy-dense", Line("share", "z_saturated_share"))),
        Panel("sick: beta 50000", of("sick-beta-50000", Line("share", "z_saturated_share"))),
        ((0.5, "alarm"),),
    ),
    Picture(
        "held-out", "held-out change, % of ref.",
        Panel("healthy: 249 pairs, beta 2000", of("healthy-dense-beta-2000", *changes("eval/"))),
        Panel("sick: 58 pairs", of("sick-58-pairs", *changes("eval/"))),
        ((2.0, "alarm"),),
    ),
    Picture(
        "held-out-margin", "eval/rewards/margins",
        Panel("healthy: above 0", of("healthy-dense", Line("labels as given", "eval/rewards/margins"))),
        Panel(
            "sick: at 0 or below",
            (
                ("sick-shuffled-labels", Line("shuffled labels", "eval/rewards/margins", THIRD)),
                ("sick-58-pairs", Line("58 pairs", "eval/rewards/margins", LOSER)),
            ),
        ),
        ((0.0, "no margin"),),
    ),
    Picture(
        "probe-motion", "probe/motion",
        Panel("healthy: guided pairs", of("healthy-dense-gentle", PROBE[0])),
        Panel("sick: the slower side is preferred", of("sick-slower-preferred", PROBE[0])),
        ((0.9, "alarm"),),
    ),
    Picture(
        "probe-drift", "policy / base",
        Panel("healthy: all near 1", of("healthy-dense-gentle", *PROBE[1:])),
        Panel("sick: learning_rate 1e-2", of("sick-learning-rate-high", *PROBE[1:])),
        ((1.0, "base"),),
    ),
)  # fmt: skip


def rows_of(run: str, line: Line) -> list[dict[str, float]]:
    """Return the rows that have the line's metric, from step 2: before the first update all is 0 by construction."""
    needs = line.value if isinstance(line.value, str) else line.needs
    text = (CURVES / f"{run}.jsonl").read_text(encoding="utf-8")
    return [row for row in map(json.loads, text.splitlines()) if needs in row and row["step"] > 1]


def interval(rows: list[dict[str, float]], line: Line) -> dict[str, Any]:
    """Return the error bars of a line whose metric has an interval."""
    if not isinstance(line.value, str) or f"{line.value}_low" not in rows[0]:
        return {}
    value = line.value
    above = [row[f"{value}_high"] - row[value] for row in rows]
    below = [row[value] - row[f"{value}_low"] for row in rows]
    return {"error_y": {"array": above, "arrayminus": below, "thickness": 1, "width": 3}}


def traces(run: str, line: Line) -> list[go.Scatter]:
    """Return a faint line of raw values with its running median, or points where it is measured now and then."""
    rows, value = rows_of(run, line), line.value
    steps = [row["step"] for row in rows]
    values = [row[value] if isinstance(value, str) else value(row) for row in rows]
    plain: dict[str, Any] = {"x": steps, "name": line.label, "legendgroup": line.label}
    if steps[1] - steps[0] > 1:
        look = {"line": {"color": line.colour, "width": 2}, "marker": {"size": 7}, "mode": "lines+markers"}
        return [go.Scatter(y=values, **plain, **look, **interval(rows, line))]
    smooth = [statistics.median(values[max(0, place + 1 - SMOOTHED_ROWS) : place + 1]) for place in range(len(values))]
    faint = {"line": {"color": line.colour, "width": 1}, "opacity": 0.35, "mode": "lines", "showlegend": False}
    bold = {"line": {"color": line.colour, "width": 2.2}, "mode": "lines"}
    return [go.Scatter(y=values, **plain, **faint), go.Scatter(y=smooth, **plain, **bold)]


def figure(picture: Picture) -> go.Figure:
    """Return both panels of a picture."""
    panels = (picture.healthy, picture.sick)
    drawn = make_subplots(1, 2, shared_yaxes=picture.same_axis, horizontal_spacing=0.07,
                          subplot_titles=[f"<b>{panel.title}</b>" for panel in panels])  # fmt: skip
    shown: set[str] = set()
    for column, panel in enumerate(panels, start=1):
        for run, line in panel.lines:
            for trace in traces(run, line):
                if trace.showlegend is not False:
                    trace.showlegend = line.label not in shown
                    shown.add(line.label)
                drawn.add_trace(trace, row=1, col=column)
        for level, word in picture.marks:
            drawn.add_hline(level, row=1, col=column, line={"color": ALARM, "width": 1.3, "dash": "dash"})
            if column == 1:  # beside the sick curve there is no room
                look = {"showarrow": False, "font": {"color": ALARM, "size": 11}}
                place = {"x": 0.99, "xref": "x domain", "xanchor": "right", "yanchor": "bottom"}
                height = math.log10(level) if picture.powers else level
                drawn.add_annotation(text=word, y=height, **place, **look, row=1, col=1)
    for title, colour in zip(drawn.layout.annotations[:2], (THIRD, ALARM), strict=True):
        title.font = {"size": 13.5, "color": colour}
    drawn.update_xaxes(title_text="step", title_standoff=6, showgrid=False, zeroline=False, ticks="outside")
    drawn.update_yaxes(showgrid=True, gridcolor="#e9e9e9", zeroline=False)
    drawn.update_yaxes(title_text=picture.axis, title_standoff=8, col=1)
    if picture.powers:
        drawn.update_yaxes(type="log", range=picture.powers, dtick=1)
    legend = len(shown) > 1
    drawn.update_layout(
        width=WIDTH_PX, height=HEIGHT_PX + LEGEND_PX * legend, showlegend=legend, template="simple_white",
        margin={"l": 62, "r": 14, "t": 32, "b": 44 + LEGEND_PX * legend},
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 12},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.22, "yanchor": "top"},
    )  # fmt: skip
    return drawn


def draw() -> None:
    """Write all pictures."""
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("no Chromium on this machine; apt-get install chromium")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=browser_path, args=BROWSER_FLAGS)
        page = browser.new_page()
        for picture in PICTURES:
            html = Path(folder) / f"{picture.name}.html"
            config = {"staticPlot": True, "displayModeBar": False}
            drawn = figure(picture)
            page.set_viewport_size({"width": WIDTH_PX, "height": drawn.layout.height})
            body = drawn.to_html(include_plotlyjs=True, full_html=False, config=config)
            html.write_text(f'<meta charset="utf-8"><style>body{{margin:0}}</style>{body}', encoding="utf-8")
            page.goto(html.as_uri())
            page.wait_for_selector(".main-svg")
            page.screenshot(path=IMAGES / f"curve-{picture.name}.png")
            print(IMAGES / f"curve-{picture.name}.png")
        browser.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print("\n".join(picture.name for picture in PICTURES))
    else:
        draw()
