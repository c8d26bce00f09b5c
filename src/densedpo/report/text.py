"""How numbers and intervals are written in the report, and what a difference is allowed to say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "\N{MINUS SIGN}"
_MOST_DECIMALS = 6


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
    """Return the decimals that the width of an interval supports: two significant digits of it.

    One more where a bound would be written as 0 without being 0: on which side of 0 it lies is what it is read for.
    """
    width = interval["high"] - interval["low"]
    if not math.isfinite(width) or width <= 0:
        return 3
    decimals = min(_MOST_DECIMALS, max(0, 1 - math.floor(math.log10(width))))
    lost = any(0 < abs(interval[end]) < 0.5 * 10**-decimals for end in ("low", "high"))
    return min(_MOST_DECIMALS, decimals + lost)


def estimate(interval: Mapping[str, Any]) -> str:
    """Write an estimate to the digits that its interval supports."""
    return _fixed(float(interval["mean"]), decimals_of(interval))


def signed_estimate(interval: Mapping[str, Any]) -> str:
    """Write an estimated difference with its sign, to the digits that its interval supports."""
    written = estimate(interval)
    return f"+{written}" if interval["mean"] > 0 else written


def _fixed(value: float, decimals: int) -> str:
    if not value or (decimals == _MOST_DECIMALS and abs(value) < 0.5 * 10**-decimals):
        return "0"
    return f"{value:z,.{decimals}f}".replace("-", MINUS)


def p_value(p: float | None) -> str:
    """Write the p value of a test; nobody needs to know how far below a thousandth it is."""
    return "–" if p is None else "<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def change_in_percent(difference: Mapping[str, Any], base: float) -> tuple[str, str]:
    """Write a difference and its interval in per cent of the base's mean: ``+3.1 %``, ``[+1.8, +4.6]``.

    The interval covers 0 exactly where the difference's does.
    """
    relative = {end: 100 * difference[end] / base for end in ("mean", "low", "high")}
    return f"{signed_estimate(relative)} %", bracket(relative)


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
