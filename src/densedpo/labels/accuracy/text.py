"""The accuracy report as a table for people: one line a judge and kind of question, then what else is worth saying."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densedpo.labels.accuracy.table import COLUMNS, ROWS

_CELL = 30


def accuracy_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the report of ``accuracy_of`` as lines."""
    known = found["reference"]
    lines = [
        f"judges against {known['against']}: {known['segments']} segments ({known['preferences']} preferences), "
        f"{known['clips']} whole videos ({known['clips_asked']} asked)"
    ]
    if not found["judges"]:
        return [*lines, "no judge has answered yet; run `densedpo label judge`"]
    width = max(len(judge["judge"]) for judge in found["judges"]) + 2
    lines.append("".ljust(width + 21) + "".join(words.ljust(_CELL) for words in COLUMNS.values()))
    for judge in found["judges"]:
        for row, words in ROWS.items():
            cells = "".join(_cell(judge["table"][row][column]).ljust(_CELL) for column in COLUMNS)
            lines.append(f"{judge['judge'].ljust(width)}{words.ljust(21)}{cells}".rstrip())
    for judge in found["judges"]:
        lines += [f"{judge['judge']}: {line}" for line in _more(judge)]
    return lines


def told(item: Mapping[str, Any]) -> str:
    """Return an estimate in words: value, interval, number of units, or why it does not exist."""
    if item["value"] is None:
        return f"undefined {item['undefined']}"
    interval = f"{item['low']:.3f} to {item['high']:.3f}" if item["low"] is not None else item["undefined"]
    return f"{item['value']:.3f} ({interval}; n = {item['n']})"


def calibration_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what ``label calibrate`` found as lines; the measures are of pairs that the fit had not seen."""
    report = found["report"]
    names = {
        "with_ties_as_said": "accuracy with ties, as said",
        "with_ties_by_threshold": "accuracy with ties, by threshold",
        "gain_by_threshold": "gain by the threshold",
        "label_plain": "what a preference is worth, -1 to 1, unweighted",
        "label_weighted": "what a preference is worth, -1 to 1, weighted",
        "ece_stated": "calibration error as stated",
        "ece_calibrated": "calibration error, calibrated",
    }
    head = f"{found['judge']}: fitted on {found['answers']} answers in {found['pairs']} pairs of {found['against']}; "
    ties = "no threshold surely helps" if not found["threshold"] else f"weaker than {found['threshold']:.3g} is a tie"
    lines = [head + ties, *(f"{words}: {told(report[name])}" for name, words in names.items())]
    if found["whole_clips"]:
        lines.append(f"{found['whole_clips']} answers about whole clips are not calibrated: they weigh 1")
    return lines


def _cell(item: Mapping[str, Any]) -> str:
    if item["value"] is None:
        return "-"
    reach = f"{item['low']:.3f}-{item['high']:.3f}" if item["low"] is not None else "one pair"
    return f"{item['value']:.3f} ({reach}; {item['n']})"


def _more(judge: Mapping[str, Any]) -> list[str]:
    lines = [f"{judge['untrusted']} answers are marked untrusted"] if judge["untrusted"] else []
    unanswered = {name: item for name, item in judge["unanswered"].items() if item["value"]}
    lines += [f"{name.replace('_', ' ')}: {told(item)}" for name, item in unanswered.items()]
    lines += [f"{name.replace('_', ' ')}: {told(item)}" for name, item in judge["position"].items() if item["n"]]
    error = judge["calibration"]["ece"]
    if error["n"]:
        chance = judge["calibration"]["ece_by_chance"]
        lines.append(f"calibration error: {told(error)}; {chance:.3f} by chance alone")
    return lines
