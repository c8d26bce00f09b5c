"""What an evaluation has to say, in a few lines, each as careful as its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densedpo.evaluation.properties import LARGE


def headlines(summary: Mapping[str, Any]) -> list[str]:
    """Return the sentences of a summary: models first, then curves, controls, alarms and what can be seen at all."""
    lines = [f"{model}: {found['sentence']}" for model, found in summary["overall"].items()]
    curves = summary["curves"]
    if curves and curves["lines"]:
        lines.append(curves["ship"]["sentence"])
        for matches in curves["matched"].values():
            # of each two curves the middle level; the others are in the summary
            lines += [match["sentence"] for match in matches[1::3]]
    if summary["bradley_terry"]:
        lines.append(summary["bradley_terry"]["sentence"])
    lines.append(summary["controls"]["frozen"]["sentence"])
    if summary["controls"]["identical"]:
        lines.append(summary["controls"]["identical"]["sentence"])
    alarms = summary["properties"]["alarms"]
    lines += [alarm["sentence"] for alarm in alarms if alarm["large"]]
    if small := sum(not alarm["large"] for alarm in alarms):
        lines.append(f"Held-out properties: {small} small shifts, below {100 * LARGE:.0f} %; they are in summary.json.")
    return [*lines, summary["power"]["sentence"]]
