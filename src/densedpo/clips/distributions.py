"""The picture of ``clips filter``: a histogram a criterion with its limits drawn in, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.criteria import Limit
from densedpo.store.tables import Row

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

_PANEL_PX = (380, 640)  # height, width
_PLOT_PX = (70, 300, 60, 610)  # top, bottom, left, right of the axes inside a panel
_BINS = 40
_INK: Colour = (34, 34, 34)
_SOFT: Colour = (120, 120, 120)
_IN: Colour = (66, 121, 189)
_OUT: Colour = (226, 132, 62)
_LIMIT: Colour = (178, 34, 34)
_FONT_PX = 17


def draw(rows: Sequence[Row], limits: Sequence[Limit], broken: dict[str, int], captions: dict[str, int]) -> Picture:
    """Return the picture [H, W, 3], 8-bit RGB: two panels a line.

    Args:
        rows: decisions with their measures; those without measures are not in the histograms.
        limits: the criteria, in the order they are drawn.
        broken: clips left out by criterion.
        captions: clips by the answer on their caption; no panel if empty.
    """
    measured = [row for row in rows if row[limits[0].measure] is not None]
    kept = sum(not row["reasons"] for row in rows)
    counts = {"kept": kept, **dict(sorted(broken.items(), key=lambda item: -item[1]))}
    panels = [_bars(f"{len(rows)} clips: kept, and what the others break", counts)]
    panels += [
        _histogram(limit, np.array([row[limit.measure] for row in measured], dtype=np.float64)) for limit in limits
    ]
    if captions:
        panels.append(_bars("Answers on captions", captions))
    if len(panels) % 2:
        panels.append(_blank())
    lines = [np.concatenate(panels[i : i + 2], axis=1) for i in range(0, len(panels), 2)]
    return np.concatenate(lines)


def _blank() -> Picture:
    return np.full((*_PANEL_PX, 3), 255, np.uint8)


def _histogram(limit: Limit, values: NDArray[np.float64]) -> Picture:
    """Draw one measure; values beyond the axis are counted in its last bin."""
    panel = _blank()
    top, bottom, left, right = _PLOT_PX
    outside = sum(limit.breaks(float(value)) is not None for value in values)
    _write(panel, limit.title, 20, 34, size=_FONT_PX + 2)
    about = f"{limit.criterion}: {outside} of {len(values)} outside" if len(values) else f"{limit.criterion}: no clips"
    _write(panel, about, 20, 57, _OUT if outside else _SOFT)
    borders = [border for border in (limit.low, limit.high) if border is not None]
    end = _tidy(max([*np.quantile(values, [0.99] if len(values) else []), *(1.2 * border for border in borders), 0.01]))
    power = 0.5 if limit.measure.endswith("px_s") else 1.0  # speeds crowd near zero, where their limit is
    place_of = (np.clip(values / end, 0, 1 - 1e-9) ** power * _BINS).astype(int)
    is_out = np.array([limit.breaks(float(value)) is not None for value in values], dtype=bool)
    counts = [np.bincount(place_of[mask], minlength=_BINS) for mask in (~is_out, is_out)]
    highest = max(1, int((counts[0] + counts[1]).max()))
    for place in range(_BINS):
        x0, x1 = (round(left + (right - left) * (place + k) / _BINS) for k in (0, 1))
        base = bottom
        for number, colour in ((counts[0][place], _IN), (counts[1][place], _OUT)):
            if number:
                height = max(2, round((bottom - top) * number / highest))
                cv2.rectangle(panel, (x0 + 1, base - height), (x1 - 1, base - 1), colour, cv2.FILLED)
                base -= height
    cv2.line(panel, (left, bottom), (right, bottom), _SOFT, 1)
    _write(panel, str(highest), left - 8, top + 8, _SOFT, align=1.0)
    _write(panel, "0", left - 8, bottom + 2, _SOFT, align=1.0)
    for tick in range(5):
        value = end * (tick / 4) ** (1 / power)
        more = "+" if tick == 4 and len(values) and values.max() > end else ""
        _write(panel, f"{value:.4g}{more}", left + (right - left) * tick // 4, bottom + 22, _SOFT, align=0.5)
    for border, name in ((limit.low, "at least"), (limit.high, "at most")):
        if border is not None:
            x = round(left + (right - left) * (border / end) ** power)
            for y in range(top - 6, bottom, 8):
                cv2.line(panel, (x, y), (x, y + 4), _LIMIT, 2)
            _write(panel, f"{name} {border:.3g}", x, bottom + 46, _LIMIT, align=0.5)
    return panel


def _tidy(end: float) -> float:
    """Return the next number from ``end`` up whose quarters are easy to read."""
    unit = 10.0 ** np.floor(np.log10(end))
    return next(
        float(step * unit) for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * unit >= end * (1 - 1e-9)
    )


def _bars(title: str, counts: dict[str, int]) -> Picture:
    panel = _blank()
    _write(panel, title, 20, 34, size=_FONT_PX + 2)
    left, right = 150, _PANEL_PX[1] - 90
    most = max(1, *counts.values())
    step = min(44, (_PANEL_PX[0] - 90) // max(1, len(counts)))
    for place, (name, number) in enumerate(counts.items()):
        y = 66 + place * step
        length = round((right - left) * number / most)
        colour = _IN if name in ("kept", "yes") else _OUT
        if number:
            cv2.rectangle(panel, (left, y), (left + max(2, length), y + step - 12), colour, cv2.FILLED)
        _write(panel, name, left - 10, y + (step + 2) // 2, align=1.0)
        _write(panel, str(number), left + length + 10, y + (step + 2) // 2)
    return panel


def _write(
    panel: Picture, text: str, x: int, y: int, colour: Colour = _INK, *, size: int = _FONT_PX, align: float = 0.0
) -> None:
    """Write ``text`` with its base line at y; ``align`` is the share of its width that lies left of x."""
    font = cv2.FontFace("sans")
    extent = cv2.getTextSize(panel.shape[1::-1], text, (0, 0), font, size, 400)
    width = extent[2] if len(extent) == 4 else 0
    x = min(max(4, round(x - align * width)), panel.shape[1] - width - 4)
    cv2.putText(panel, text, (x, y), colour, font, size, 400)
