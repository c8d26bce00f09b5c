"""What the report shows of the bias audit: what the labels secretly prefer, by pair mode and by level.

Input: the JSON that ``label audit`` wrote. Output: rows for the first picture and small figures with a sentence each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from densedpo.report.text import listed, share_with_interval
from densedpo.store.files import read_json
from densedpo.store.project import Project

LEVELS = {"segments": "Segment answers", "clips": "Whole-clip labels"}
_MODES = ("independent", "guided")
_ORDER = ("slower", "larger", "brighter", "sharper", "more_saturated")
_FIGURES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("segments", "ties"), "of the segment answers are ties: neither side is better."),
    (("both_signs",), "of the pairs have segments won by a and segments won by b; one label a clip would lose that."),
    (("contradicting_segments",), "of the non-tie segment labels contradict the label of their whole clip."),
)


@dataclass(frozen=True)
class Bias:
    """Share of comparable non-tie answers that go to one named side."""

    mode: str
    level: str
    side: str
    opposite: str
    share: Mapping[str, Any]
    comparable: int
    large_gap: Mapping[str, Any] | None
    shown: bool  # the audit found enough pairs and an interval that leaves out 50 %

    @property
    def written(self) -> str:
        """The share with its interval as text."""
        return share_with_interval(self.share)

    @property
    def too_few(self) -> bool:
        """Whether the interval leaves out 50 % but stands on too few pairs to be put in words."""
        return not self.shown and not self.share["low"] <= 0.5 <= self.share["high"]

    @property
    def leaning(self) -> str:
        """The side that is preferred, with its share and interval as text."""
        if self.share["mean"] >= 0.5:
            return f"{self.side} ({self.written})"
        flipped = {"mean": 1 - self.share["mean"], "low": 1 - self.share["high"], "high": 1 - self.share["low"]}
        return f"{self.opposite} ({share_with_interval(flipped)})"


@dataclass(frozen=True)
class SmallFigure:
    """One share for each mode, and what it means."""

    sentence: str
    shares: list[tuple[str, str]]


@dataclass(frozen=True)
class Audit:
    """The audit as the page shows it; ``raw`` is the file's content."""

    biases: list[Bias]
    figures: list[SmallFigure]
    leans: dict[str, list[tuple[str, str]]]  # by level: (mode, what it leans towards)
    raw: dict[str, Any]

    def bias(self, mode: str, side: str, level: str = "segments") -> Bias | None:
        """Return one row of the picture."""
        return next((row for row in self.biases if (row.mode, row.side, row.level) == (mode, side, level)), None)


def read_audit(project: Project) -> Audit | None:
    """Read the audit, None where it was not run."""
    if not project.audit_file.exists():
        return None
    return parse_audit(read_json(project.audit_file))


def parse_audit(raw: dict[str, Any]) -> Audit:
    """Arrange the content of ``labels/audit.json`` for the page."""
    groups = raw["groups"]
    modes = [mode for mode in _MODES if mode in groups] or ["all"]
    biases = [
        Bias(
            mode=mode,
            level=level,
            side=str(raw["properties"][key]["side"]),
            opposite=str(raw["properties"][key]["opposite"]),
            share=found["share"],
            comparable=int(found["comparable"]),
            large_gap=found["large_gap"]["share"],
            shown=found["finding"] is not None,
        )
        for mode in modes
        for level in LEVELS
        for key, found in sorted(groups[mode][level]["preferences"].items(), key=_place)
        if found["share"]
    ]
    figures = []
    for path, sentence in _FIGURES:
        shares = [(mode, share_with_interval(share)) for mode in modes if (share := _at(groups[mode], path))]
        if shares:
            figures.append(SmallFigure(sentence, shares))
    leans = {
        level: [(mode, _lean([bias for bias in biases if (bias.mode, bias.level) == (mode, level)])) for mode in modes]
        for level in LEVELS
    }
    return Audit(biases, figures, leans, raw)


def _place(item: tuple[str, Any]) -> tuple[int, str]:
    return (_ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER), item[0])


def _lean(biases: list[Bias]) -> str:
    shown = [bias.leaning for bias in biases if bias.shown]
    if shown:
        return f"labels lean towards the {listed(shown)} side."
    return "too few pairs to speak of a lean." if any(bias.too_few for bias in biases) else "no lean is shown."


def _at(group: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = group
    for name in path:
        found = found[name]
    return found
