"""All figures of one evaluation, so that the page and its templates find them by name."""

from __future__ import annotations

from dataclasses import dataclass

from densedpo.report.curves import curve_figure
from densedpo.report.evaluation import Evaluation
from densedpo.report.evaluation_plots import difference_figure, plane_figures, property_figure
from densedpo.report.plots import Figure


@dataclass(frozen=True)
class Drawn:
    """Figures of one evaluation; None or empty where there is nothing to draw."""

    differences: Figure
    planes: list[Figure]
    curve: Figure | None
    properties: Figure | None
    by_step: bool  # whether points of the curves are checkpoints rather than scales

    @property
    def figures(self) -> list[Figure]:
        """Those that have something in them, in the order of the page."""
        found = [self.curve, self.differences, *self.planes, self.properties]
        return [figure for figure in found if figure is not None and figure.data]


def draw(evaluation: Evaluation, place: int) -> Drawn:
    """Draw the evaluation that is number ``place`` on the page."""
    lines = (evaluation.part("curves") or {}).get("lines") or []
    return Drawn(
        differences=difference_figure(evaluation, place),
        planes=plane_figures(evaluation, place),
        curve=curve_figure(evaluation, place),
        properties=property_figure(evaluation, place),
        by_step=any(line["by"] == "step" for line in lines),
    )
