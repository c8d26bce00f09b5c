"""The page as HTML: templates with everything from data escaped, and figures as JSON that no text can break out of."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from densedpo.report.looks import look_of
from densedpo.report.plots import Figure
from densedpo.report.text import bracket, capitalised, estimate, number, p_value, signed_estimate, tone, verdict

_CLOSERS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
ANSWER_WORDS = {
    "a": "a is better",
    "b": "b is better",
    "tie": "tie",
    "both_bad": "both bad",
    "cannot_judge": "cannot judge",
    "unlabelled": "not labelled",
}
ANSWER_MARKS = {"a": "a", "b": "b", "tie": "=", "both_bad": "✕", "cannot_judge": "?", "unlabelled": ""}


def page_json(value: Any) -> Markup:
    """Return ``value`` as JSON that is safe inside a script element: no ``<``, ``>`` or ``&`` is left in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character, code in _CLOSERS.items():
        text = text.replace(character, code)
    return Markup(text)  # noqa: S704 - every character that could end the element is an escape by now


def environment() -> Environment:
    """Return the template environment of the report; an unknown name in a template is an error."""
    jinja = Environment(
        loader=PackageLoader("densedpo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters.update(num=number, estimate=estimate, signed=signed_estimate, bracket=bracket)
    jinja.filters.update(p=p_value, capitalised=capitalised)
    jinja.globals.update(
        verdict=verdict, tone=tone, look_of=look_of, answer_words=ANSWER_WORDS, answer_marks=ANSWER_MARKS
    )
    return jinja


def render(page: dict[str, Any]) -> str:
    """Return the whole page as HTML."""
    figures: list[Figure] = [figure for _, _, figure in page["audit_figures"]]
    figures += [figure for figure, _ in page["training_figures"]]
    for _, drawn in page["evaluations"]:
        figures += drawn.figures
    figures += [pairing.figure for study in page["studies"] for pairing in study.pairings]
    if page["judge_figure"]:
        figures.append(page["judge_figure"])
    shown = page_json([figure.as_json() for figure in figures])
    return environment().get_template("index.html").render(**page, figures_json=shown)
