"""How numbers and intervals are written in the report, and what a difference is allowed to say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """Write ``value`` to ``digits`` significant digits without an exponent where that is readable."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def decimals_of(interval: Mapping[str, Any]) -> int:
    """Return the decimals that the width of an interval supports: two significant digits of it."""
    width = interval["high"] - interval["low"]
    if not math.isfinite(width) or width <= 0:
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(width))))


def estimate(interval: Mapping[str, Any]) -> str:
    """Write an estimate to the digits that its interval supports."""
    return _fixed(float(interval["mean"]), decimals_of(interval))


def signed_estimate(interval: Mapping[str, Any]) -> str:
    """Write an estimated difference with its sign, to the digits that its interval supports."""
    written = estimate(interval)
    return f"+{written}" if interval["mean"] > 0 else written


def _fixed(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """Write a share in [0, 1] as whole per cent."""
    return "–" if share is None else f"{100 * share:.0f} %"


def share_with_interval(share: Mapping[str, Any]) -> str:
    """Write a share with its 95 % interval: ``74 % [69, 79]``."""
    return f"{percent(share['mean'])} [{100 * share['low']:.0f}, {100 * share['high']:.0f}]"


def bracket(interval: Mapping[str, Any]) -> str:
    """Write the 95 % interval of an estimate: ``[0.12, 0.15]``."""
    decimals = decimals_of(interval)
    return f"[{_fixed(float(interval['low']), decimals)}, {_fixed(float(interval['high']), decimals)}]"


def verdict(difference: Mapping[str, Any], better: str) -> str:
    """Say what a difference shows: better, worse, or nothing where its interval touches zero.

    A score of which neither more nor less is ``better`` is only said to be higher or lower.
    """
    if difference["low"] <= 0 <= difference["high"]:
        return "not told apart"
    if better == "neither":
        return "higher" if difference["mean"] > 0 else "lower"
    return "better" if (difference["mean"] > 0) == (better == "higher") else "worse"


def tone(said: str) -> str:
    """Return the tone of a verdict: good, bad or open."""
    if said == "better":
        return "good"
    return "bad" if said in ("worse", "bought with motion") else "open"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Write a count with its noun: ``1 pair``, ``12 pairs``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def capitalised(text: str) -> str:
    """Write the first letter large and leave the rest alone."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """Write names as a list: ``base, dense and vanilla``."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
