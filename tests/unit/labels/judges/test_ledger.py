"""The budget is never passed, however many ask at once; a twin that sets nothing aside is caught."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.fake_endpoint import FakeEndpoint, blind
from tests.unit.labels.judges.asking import question, settings

from densedpo.labels.judges.answerer import Question, Reply
from densedpo.labels.judges.base import BudgetError
from densedpo.labels.judges.endpoint import Endpoint
from densedpo.labels.judges.ledger import Ledger, Prices, Reservation
from densedpo.labels.judges.replies import Replies

PRICES = {"price_input": 10.0, "price_output": 100.0}


def spend(fake: FakeEndpoint, path: Path, budget: float, questions: range, **changes: object) -> list[Reply | None]:
    """Ask with 16 threads until the budget stops them; None is a question that was not asked."""

    def ask(number: int) -> Reply | None:
        try:
            return endpoint.ask(question(number))
        except BudgetError as error:
            assert "judge.budget" in str(error) and "\n" not in str(error)
            return None

    chosen = settings(fake.url, budget=budget, **PRICES, **changes)
    with (
        Replies(path, alone=True) as replies,
        Endpoint(chosen, replies, backoff_s=0.01) as endpoint,
        ThreadPoolExecutor(16) as pool,
    ):
        return list(pool.map(ask, questions))


def check_budget(fake: FakeEndpoint, path: Path, budget: float) -> list[Reply | None]:
    found = spend(fake, path, budget, range(60))
    charged = fake.cost(PRICES["price_input"], PRICES["price_output"])
    assert 0 < charged <= budget, f"${charged:.3f} of ${budget:g}"
    assert None in found and any(reply is not None for reply in found)
    with Replies(path) as replies:
        assert charged <= replies.spent() + 1e-9 <= budget + 2e-9
    return found


# by the byte a question of the tests is at most some 1800 tokens
@pytest.mark.parametrize("tokens", [(1000, 20), (1500, 100)])
def test_many_at_once_stay_within_the_budget(tmp_path: Path, tokens: tuple[int, int]) -> None:
    with FakeEndpoint(blind, latency_s=0.03, tokens=tokens) as fake:
        found = check_budget(fake, tmp_path / "r.db", 0.3)
        assert fake.record.most_at_once > 1
    answered = [reply for reply in found if reply is not None]
    # what was set aside and not needed is used by others
    assert tokens != (1000, 20) or len(answered) >= 0.3 / (0.01 + 0.002) - 4


def test_a_service_that_counts_more_than_we_do_is_learned_from(tmp_path: Path) -> None:
    with FakeEndpoint(blind, latency_s=0.02, tokens=(9000, 300)) as fake:
        check_budget(fake, tmp_path / "r.db", 1.0)


def test_with_broken_calls_too(tmp_path: Path) -> None:
    plan = {"timeout": 0.05, "cut": 0.2, "500": 0.1, "reset_mid": 0.1}
    with FakeEndpoint(blind, plan, hang_s=2.0, latency_s=0.01) as fake:
        found = spend(fake, tmp_path / "r.db", 0.3, range(60), timeout_s=1.0)
        assert None in found
        assert 0 < fake.cost(PRICES["price_input"], PRICES["price_output"]) <= 0.3


async def no_reserve(self: Ledger, asked: Question) -> Reservation:
    """The twin looks at what is spent, not at what is under way."""
    assert self._budget is not None
    if self._spent + self._most(asked) > self._budget:
        raise BudgetError("judge.budget")
    return Reservation(None, 0.0, self.prices.most(asked))


async def settle_only(self: Ledger, reservation: Reservation, dollars: float, tokens: object = None) -> None:
    del reservation, tokens
    self._spent += dollars
    self._replies.book(None, dollars)


def test_a_twin_that_reserves_nothing_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "reserve", no_reserve)
    monkeypatch.setattr(Ledger, "settle", settle_only)
    with (
        FakeEndpoint(blind, latency_s=0.2, tokens=(1500, 100)) as fake,
        pytest.raises(AssertionError, match=r"of \$0\.3"),
    ):
        check_budget(fake, tmp_path / "r.db", 0.3)


def test_what_earlier_runs_spent_counts(tmp_path: Path) -> None:
    with FakeEndpoint(blind) as fake:
        first = spend(fake, tmp_path / "r.db", 0.1, range(60))
        assert any(first)
        before = fake.calls
        second = spend(fake, tmp_path / "r.db", 0.1, range(60))
        assert fake.calls == before
        assert [reply is None for reply in second] == [reply is None for reply in first]
        assert all(reply.cached and not reply.cost for reply in second if reply is not None)
        more = spend(fake, tmp_path / "r.db", 0.2, range(60))
        assert fake.calls > before and sum(map(bool, more)) > sum(map(bool, first))
        assert fake.cost(PRICES["price_input"], PRICES["price_output"]) <= 0.2


def test_prices_and_estimates() -> None:
    prices = Prices(2.0, 8.0, image_tokens=300)
    assert prices.cost({"input": 1_000_000, "output": 500_000}) == pytest.approx(6.0)
    asked = question()
    likely, most = prices.expected(asked, "x" * 400), prices.most(asked)
    assert likely["output"] == 100 and most["output"] == 100
    assert 4 * 300 < likely["input"] < most["input"]


LEARNED: list[tuple[dict[str, int] | None, int]] = [({"input": 5, "output": 5}, 5), ({}, 5), (None, 1)]


@pytest.mark.parametrize(("counted", "at_once"), LEARNED, ids=["counts", "counts nothing", "failed"])
def test_until_a_service_is_known_one_asks_at_a_time(
    tmp_path: Path, counted: dict[str, int] | None, at_once: int
) -> None:
    async def run(replies: Replies) -> int:
        ledger = Ledger(Prices(1.0, 1.0), 100.0, replies)
        await ledger.settle(await ledger.reserve(question()), 0.1, counted)
        tasks = [asyncio.create_task(ledger.reserve(question(number))) for number in range(5)]
        await asyncio.wait_for(asyncio.gather(*tasks[:at_once]), 60)
        await asyncio.sleep(0.3)  # for those that should not follow
        through = sum(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        return through

    with Replies(tmp_path / "r.db") as replies:
        assert asyncio.run(run(replies)) == at_once
