"""What a service says of its limits, in all the ways services say it, and that everybody heeds it."""

from __future__ import annotations

import asyncio
import time

import pytest

from densedpo.labels.judges.limits import Gate, duration_s, retry_after_s


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:40 GMT"}, 900.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, now_s=100.0) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", 1.0), ("20ms", 0.02), ("6m0s", 360.0), ("1h2m3.5s", 3723.5), ("12", 12.0), (None, None), ("later", None),
        ("5x", None), ("-3", None), ("1s tomorrow", None),
    ],
)  # fmt: skip
def test_durations(text: str | None, expected: float | None) -> None:
    assert duration_s(text) == expected


class Clocked:
    """A gate and how long entering it takes."""

    def __init__(self) -> None:
        self.gate = Gate()

    async def entering_s(self, tokens: float = 1.0) -> float:
        began = time.monotonic()
        await self.gate.enter(tokens)
        return time.monotonic() - began


def left(requests: float, reset: str, name: str = "requests") -> dict[str, str]:
    return {f"x-ratelimit-remaining-{name}": f"{requests:g}", f"x-ratelimit-reset-{name}": reset}


def test_all_wait_while_one_was_told_to() -> None:
    async def run() -> list[float]:
        clocked = Clocked()
        clocked.gate.close(0.2)
        return await asyncio.gather(*(clocked.entering_s() for _ in range(5)))

    assert min(asyncio.run(run())) >= 0.19


def test_no_more_enter_than_are_left_until_the_reset() -> None:
    async def run() -> list[float]:
        clocked = Clocked()
        clocked.gate.heed(left(3, "200ms"))
        return sorted(await asyncio.gather(*(clocked.entering_s() for _ in range(5))))

    waits = asyncio.run(run())
    assert waits[2] < 0.1 and waits[3] >= 0.19


def test_an_overtaken_reply_gives_nothing_back() -> None:
    async def run() -> float:
        clocked = Clocked()
        clocked.gate.heed(left(0, "200ms"))
        clocked.gate.heed(left(5, "200ms"))
        return await clocked.entering_s()

    assert asyncio.run(run()) >= 0.19


def test_tokens_are_a_limit_of_their_own() -> None:
    async def run() -> tuple[float, float]:
        clocked = Clocked()
        clocked.gate.heed(left(1000, "200ms", "tokens"))
        return await clocked.entering_s(900), await clocked.entering_s(900)

    first, second = asyncio.run(run())
    assert first < 0.1 and second >= 0.15


@pytest.mark.parametrize("nonsense", [left(-1, "1s"), left(0, "never"), left(float("nan"), "1s"), {}])
def test_nonsense_closes_nothing(nonsense: dict[str, str]) -> None:
    async def run() -> float:
        clocked = Clocked()
        clocked.gate.heed(nonsense)
        return await clocked.entering_s()

    assert asyncio.run(run()) < 0.1
