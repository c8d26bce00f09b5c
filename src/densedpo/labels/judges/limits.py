"""When the next request may be sent: what a service says of its limits, heeded by all workers together.

A service speaks through headers: ``Retry-After`` with a refusal, and how many requests and tokens are left until when.
One worker hears it, and all wait. Times are of the event loop's clock, in seconds.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from densedpo.observe import say

_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WORTH_SAYING_S = 20.0


@dataclass
class _Allowance:
    """What is left of something until it is given anew at ``until``; infinite where the service does not say."""

    left: float = math.inf
    until: float = 0.0

    def report(self, left: float | None, reset_s: float | None, now: float) -> None:
        if left is None or reset_s is None:
            return
        if now >= self.until:
            self.left, self.until = left, now + reset_s
        elif left < self.left:  # replies overtake each other: within one period the smaller number is the later one
            self.left, self.until = left, max(self.until, now + reset_s)

    def wait_s(self, wanted: float, now: float) -> float:
        if now >= self.until:
            self.left = math.inf
        return 0.0 if wanted <= self.left else self.until - now


class Gate:
    """The gate that all requests to a service pass. Its methods belong to one event loop."""

    def __init__(self) -> None:
        """Let everything pass until the service says otherwise."""
        self._closed_until = 0.0
        self._requests, self._tokens = _Allowance(), _Allowance()

    async def enter(self, tokens: float) -> None:
        """Wait until a request of about ``tokens`` tokens may be sent, and count it."""
        clock = asyncio.get_running_loop()
        while True:
            now = clock.time()
            # more tokens than are ever given at once: then alone, and the service may say no
            waits = (self._closed_until - now, self._requests.wait_s(1, now), self._tokens.wait_s(tokens, now))
            if max(waits) <= 0:
                break
            await asyncio.sleep(max(waits))
        self._requests.left -= 1
        self._tokens.left -= tokens

    def close(self, wait_s: float) -> None:
        """Let nothing pass for ``wait_s`` seconds."""
        until = asyncio.get_running_loop().time() + wait_s
        if wait_s >= _WORTH_SAYING_S and until > self._closed_until + 1:
            say(f"the judge's service asks to wait {wait_s:.0f} s; waiting")
        self._closed_until = max(self._closed_until, until)

    def heed(self, headers: Mapping[str, str]) -> None:
        """Take note of what a response says is left."""
        now = asyncio.get_running_loop().time()
        for name, allowance in (("requests", self._requests), ("tokens", self._tokens)):
            left, reset = headers.get(f"x-ratelimit-remaining-{name}"), headers.get(f"x-ratelimit-reset-{name}")
            allowance.report(_number(left), duration_s(reset), now)


def retry_after_s(headers: Mapping[str, str], now_s: float | None = None) -> float | None:
    """Return how long a response asks to wait: ``retry-after-ms``, or ``Retry-After`` in seconds or as a date.

    None where it does not ask, or what it says makes no sense; never negative. ``now_s`` is the time since 1970.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if text is None or seconds is not None:
        return seconds
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - (time.time() if now_s is None else now_s))


def duration_s(text: str | None) -> float | None:
    """Return a duration as services write it (``6m0s``, ``20ms``, or seconds alone) in seconds, or None."""
    if text is None:
        return None
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text.strip():
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return _number(text)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) and value >= 0 else None
