"""Scores are kept as soon as they are there, exactly."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from densedpo.errors import ProjectError
from densedpo.outside.cache import ScoreCache, score_key


def test_numbers_come_back_exactly_and_survive_closing(tmp_path: Path) -> None:
    scores = {"VQ": 0.1 + 0.2, "TA": -1e-300}
    with ScoreCache(tmp_path / "cache" / "scores.db") as cache:
        assert cache.get("k") is None
        cache.put("k", scores)
        assert cache.get("k") == scores
    with ScoreCache(tmp_path / "cache" / "scores.db") as cache:
        assert cache.get("k") == scores


def test_a_newer_score_replaces_an_older_one(tmp_path: Path) -> None:
    with ScoreCache(tmp_path / "scores.db") as cache:
        cache.put("k", {"VQ": 1.0})
        cache.put("k", {"VQ": 2.0})
        assert cache.get("k") == {"VQ": 2.0}


def test_two_users_of_one_file_and_many_threads(tmp_path: Path) -> None:
    with ScoreCache(tmp_path / "scores.db") as first, ScoreCache(tmp_path / "scores.db") as second:

        def fill(cache: ScoreCache, half: int) -> None:
            for number in range(half, 40, 2):
                cache.put(str(number), {"n": float(number)})

        threads = [threading.Thread(target=fill, args=(cache, half)) for half, cache in enumerate((first, second))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [first.get(str(number)) for number in range(40)] == [{"n": float(number)} for number in range(40)]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.db").write_text("not a database, but longer than a hundred bytes " * 10, encoding="utf-8")
    with pytest.raises(ProjectError, match="not usable as a store of scores"):
        ScoreCache(tmp_path / "scores.db")


def test_the_key_follows_model_video_and_prompt() -> None:
    keys = {score_key(*parts) for parts in [("m", "v", "p"), ("n", "v", "p"), ("m", "w", "p"), ("m", "v", "q")]}
    assert len(keys) == 4
