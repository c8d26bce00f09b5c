"""The plan for people's time, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plan_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the plan as lines for people."""
    why = ", ".join(f"{count} {reason}" for reason, count in found["why"].items())
    told = [f"{found['to_ask']} segments to ask about" + (f": {why}" if why else "")]
    if found["undefined"]:
        return [*told, f"accuracy over answers: undefined {found['undefined']}"]
    names = {"by_segment": "segment by segment", "by_pair": "pair by pair, as the page asks", "at_random": "at random"}
    for how, words in names.items():
        curve = ", ".join(
            f"{p['answers']}: {p['value']:.3f} ({p['low']:.3f} to {p['high']:.3f})" for p in found["curve"][how]
        )
        told.append(f"accuracy after so many answers, {words}: {curve}")
    for how, words in names.items():
        told.append(f"answers needed for {found['wanted']:g}, {words}: {_needed_words(found['needed'][how])}")
    return [*told, f"assumed: {found['assumes']}"]


def _needed_words(item: Mapping[str, Any]) -> str:
    if item["value"] is None:
        return f"undefined {item['undefined']}"
    low, high = ("open" if bound is None else bound for bound in (item["low"], item["high"]))
    return f"{item['value']} ({low} to {high})"
