"""Reading ahead and writing behind: order, errors at their place, nothing lost and nothing without bound."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from densedpo.pairs.overlap import WriteBehind, read_ahead


def test_items_come_in_order_with_what_was_read() -> None:
    assert list(read_ahead(lambda n: n * n, range(5))) == [(n, n * n) for n in range(5)]
    assert list(read_ahead(str, [])) == []


def test_the_next_is_read_while_this_one_is_worked_on_and_no_more() -> None:
    read: list[int] = []
    second = threading.Event()

    def reading(number: int) -> int:
        read.append(number)
        if number == 1:
            second.set()
        return number

    items: Iterator[tuple[int, int]] = read_ahead(reading, range(10))
    next(items)
    assert second.wait(10)
    assert read == [0, 1]
    assert [item for item, _ in items] == list(range(1, 10))


def test_a_reading_error_comes_at_its_items_turn() -> None:
    def reading(number: int) -> int:
        if number == 2:
            raise ValueError("item 2")
        return number

    seen: list[int] = []
    with pytest.raises(ValueError, match="item 2"):
        for item, _ in read_ahead(reading, range(5)):
            seen.append(item)
    assert seen == [0, 1]


def test_all_is_written_in_order_when_the_block_ends() -> None:
    written: list[int] = []
    with WriteBehind() as write:
        for number in range(20):
            write(written.append, number)
    assert written == list(range(20))


def test_at_most_a_few_wait() -> None:
    gate, started = threading.Event(), threading.Semaphore(0)
    done = threading.Event()

    def slow() -> None:
        started.release()
        assert gate.wait(10)

    def fill() -> None:
        with WriteBehind(most=2) as write:
            for _ in range(3):
                write(slow)
        done.set()

    thread = threading.Thread(target=fill)
    thread.start()
    assert started.acquire(timeout=10)
    assert not done.wait(0.2) and not started.acquire(timeout=0.1)  # one runs, one waits, the third has no room
    gate.set()
    thread.join(10)
    assert done.is_set()


def test_a_writing_error_ends_the_work() -> None:
    def fails() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), WriteBehind() as write:
        write(fails)
    with pytest.raises(OSError, match="disk full"), WriteBehind(most=1) as write:
        write(fails)
        write(fails)
        write(fails)


def test_an_error_in_the_block_drops_what_waits() -> None:
    written: list[int] = []
    gate = threading.Event()
    with pytest.raises(KeyError), WriteBehind(most=9) as write:
        write(gate.wait, 10)
        write(written.append, 1)
        threading.Timer(0.2, gate.set).start()
        raise KeyError
    assert written == []
