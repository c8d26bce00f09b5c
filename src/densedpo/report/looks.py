"""Which colour and symbol a model has on the page: its run's, open where it is a variant of it."""

from __future__ import annotations

from dataclasses import dataclass

from densedpo.report.evaluation import Evaluation
from densedpo.report.plots import BASE_COLOUR, RUN_COLOURS, RUN_SYMBOLS


@dataclass(frozen=True)
class Look:
    """A colour of the style sheet, a plotly symbol, the number of the run from 1 (the base: 0), and whose it is."""

    colour: str
    symbol: str
    number: int
    variant: bool = False

    @property
    def marker(self) -> str:
        """The symbol where a run and its variants stand side by side."""
        return f"{self.symbol}-open" if self.variant else self.symbol


def look_of(evaluation: Evaluation, model: str) -> Look:
    """Return the look of a model of this evaluation."""
    if model == evaluation.base:
        return Look(BASE_COLOUR, "circle-open", 0)
    runs = list(dict.fromkeys(evaluation.run_of(name) for name in evaluation.models[1:]))
    place = runs.index(evaluation.run_of(model))
    variant = model != evaluation.run_of(model)
    return Look(RUN_COLOURS[place % len(RUN_COLOURS)], RUN_SYMBOLS[place % len(RUN_SYMBOLS)], place + 1, variant)
