"""Replies are durable before they are used, damaged files are set aside, and many writes share one sync."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from densedpo.errors import LabelError
from densedpo.labels.judges.answerer import Reply
from densedpo.labels.judges.replies import Replies

REPLY = Reply("ok", '{"answer": "tie"} – é', tokens={"input": 10, "output": 2}, cost=0.5, calls=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "replies.db"


def test_what_is_kept_is_there_again(path: Path) -> None:
    with Replies(path) as replies:
        assert replies.get("k") is None
        replies.keep("k", "m", REPLY).result()
        replies.keep("r", "m", Reply("refused", why="no")).result()
    with Replies(path) as replies:
        known = replies.get("k")
        assert known == Reply("ok", REPLY.text, cached=True, tokens=REPLY.tokens)
        refused = replies.get("r")
        assert refused is not None and (refused.outcome, refused.why) == ("refused", "no")


def test_a_failure_is_no_reply(path: Path) -> None:
    with Replies(path) as replies, pytest.raises(AssertionError):
        replies.keep("k", "m", Reply("failed"))


def test_another_process_sees_a_reply_once_its_future_is_done(path: Path) -> None:
    script = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT COUNT(*) FROM replies').fetchone()[0])"
    )
    with Replies(path) as replies:
        replies.keep("k", "m", REPLY).result()
        seen = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "1"


def test_who_no_longer_waits_does_not_stop_the_writer(path: Path) -> None:
    with Replies(path) as replies:
        assert not replies.keep("k", "m", REPLY).cancel()
        number = replies.reserve(1.0)
        assert not number.cancel()
        replies.book(number.result(timeout=10), 0.25)
        replies.keep("l", "m", REPLY).result(timeout=10)
    with Replies(path) as replies:
        assert replies.get("k") is not None and replies.get("l") is not None
        assert replies.spent() == 0.25


def test_many_workers_share_transactions(path: Path) -> None:
    with Replies(path) as replies:
        before = replies.transactions
        futures = [replies.keep(f"k{number}", "m", REPLY) for number in range(500)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda item: item.result(), futures))
        assert replies.transactions - before < 250
        assert all(replies.get(f"k{number}") for number in range(500))


def test_money_is_counted_over_all_runs_and_unfinished_requests_count_in_full(path: Path) -> None:
    with Replies(path) as replies:
        number = replies.reserve(2.0).result()
        replies.book(number, 0.5)
        replies.book(None, 0.25)
        replies.reserve(4.0).result()  # its process is killed
    with Replies(path) as replies:
        assert replies.spent() == pytest.approx(0.5 + 0.25 + 4.0)


@pytest.mark.parametrize("damage", ["text", "middle", "short"])
def test_a_damaged_file_is_set_aside(path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Replies(path) as replies:
        for number in range(200):
            replies.keep(f"k{number}", "m", REPLY)
    content = path.read_bytes()
    damaged = {
        "text": b"this is no database, but long enough to be taken for one" * 20,
        "middle": content[:4096] + b"\x5a" * 8192 + content[12288:],
        "short": content[: len(content) // 2],
    }[damage]
    path.write_bytes(damaged)
    with Replies(path) as replies:
        assert replies.get("k1") is None
        replies.keep("new", "m", REPLY).result()
        assert replies.get("new") is not None
    (aside,) = path.parent.glob("replies.db.damaged-*")
    assert aside.read_bytes() == damaged
    told = capsys.readouterr().err
    assert str(path) in told.replace("\n", "") and "set aside" in told


def test_a_file_that_cannot_be_written_is_named(path: Path) -> None:
    with Replies(path) as replies:
        with sqlite3.connect(path) as other:
            other.execute("DROP TABLE replies")
        with pytest.raises(LabelError, match=r"replies\.db"):
            replies.keep("k", "m", REPLY).result()
        with pytest.raises(LabelError, match=r"replies\.db"):
            replies.get("k")


def test_two_with_a_budget_do_not_work_at_once(path: Path) -> None:
    with Replies(path, alone=True), pytest.raises(LabelError, match="at work"):
        Replies(path)
    with Replies(path), Replies(path), pytest.raises(LabelError, match="at work"):
        Replies(path, alone=True)
