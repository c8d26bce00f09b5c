"""What a service says of its limits, in all the ways services say it, and that everybody heeds it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Sequence

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


class Jumps(selectors.DefaultSelector):
    """Never waits: the clock jumps to when the next thing is due, so that no busy machine can make a test late."""

    now_s = 100.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += timeout or 0.0
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = Jumps()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now_s


def entering_s(prepare: Callable[[Gate], None], wanted: Sequence[float] = (1.0,)) -> list[float]:
    """Return how long each request of so many tokens waits at a gate that was prepared, in the order they come."""

    async def run() -> list[float]:
        gate, clock = Gate(), asyncio.get_running_loop()
        prepare(gate)
        began = clock.time()

        async def enter(tokens: float) -> float:
            await gate.enter(tokens)
            return clock.time() - began

        return await asyncio.gather(*map(enter, wanted))

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(run())


def left(requests: float, reset: str, name: str = "requests") -> dict[str, str]:
    return {f"x-ratelimit-remaining-{name}": f"{requests:g}", f"x-ratelimit-reset-{name}": reset}


def test_all_wait_while_one_was_told_to() -> None:
    assert entering_s(lambda gate: gate.close(30.0), [1.0] * 5) == pytest.approx([30.0] * 5)


def test_no_more_enter_than_are_left_until_the_reset() -> None:
    assert entering_s(lambda gate: gate.heed(left(3, "2m")), [1.0] * 5) == pytest.approx([0, 0, 0, 120, 120])


def test_an_overtaken_reply_gives_nothing_back() -> None:
    def two_replies(gate: Gate) -> None:
        gate.heed(left(0, "2s"))
        gate.heed(left(5, "2s"))

    assert entering_s(two_replies) == pytest.approx([2.0])


def test_tokens_are_a_limit_of_their_own() -> None:
    assert entering_s(lambda gate: gate.heed(left(1000, "2s", "tokens")), [900, 900]) == pytest.approx([0, 2])


@pytest.mark.parametrize("nonsense", [left(-1, "1s"), left(0, "never"), left(float("nan"), "1s"), {}])
def test_nonsense_closes_nothing(nonsense: dict[str, str]) -> None:
    assert entering_s(lambda gate: gate.heed(nonsense)) == [0.0]
