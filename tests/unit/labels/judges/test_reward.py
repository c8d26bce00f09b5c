"""The judge that asks an outside model for the score of each side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.outside.stand_ins import command

from densedpo.errors import ConfigError
from densedpo.keys import stream
from densedpo.labels.accuracy.calibration import strength
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.judges.base import Judge, SegmentPair
from densedpo.labels.judges.reward import RewardJudge, choose_weights
from densedpo.outside.cache import ScoreCache
from densedpo.outside.environments import ADAPTERS
from densedpo.outside.pipe import Adapter, AdapterError
from densedpo.outside.wire import Hello

# Decodes nothing: the size of the file stands for quality. Every scoring is counted in a file.
COUNTING = """
def load():
    def score(video, prompt):
        with open({count!r}, "a") as file:
            file.write("x")
        with open({count!r} + "-paths", "a") as file:
            file.write(video + "\\n")
        if {fail!r} and os.path.getsize(video) > 10000:
            raise ValueError("too rich")
        return {{"VQ": os.path.getsize(video) / 1000, "TA": float(len(prompt)), "Overall": 9.0}}
    return score

serve(load, name="counting", scores=["VQ", "TA", "Overall"], prompted=["TA", "Overall"])
"""


def frames(seed: int, levels: int, count: int = 12) -> NDArray[np.uint8]:
    return stream(seed, "reward-test").integers(0, levels, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def pair() -> SegmentPair:
    return SegmentPair(frames(0, 256), frames(0, 2), 12.0, "a dog")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ScoreCache]:
    with ScoreCache(tmp_path / "scores.db") as made:
        yield made


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Adapter]:
    body = COUNTING.format(count=str(tmp_path / "count"), fail=False)
    with Adapter(command(tmp_path, body), tmp_path / "log", start_timeout_s=60) as made:
        yield made


def scorings(tmp_path: Path) -> int:
    path = tmp_path / "count"
    return len(path.read_text()) if path.exists() else 0


def test_the_higher_score_wins_and_the_margin_is_kept(adapter: Adapter, cache: ScoreCache, pair: SegmentPair) -> None:
    judge = RewardJudge(adapter, cache)
    assert isinstance(judge, Judge)
    assert judge.name == "reward:counting"
    said = judge.judge(pair)
    kept = json.loads(said.raw)
    assert said.answer == "a"
    assert kept["margin"] == pytest.approx(kept["a"]["VQ"] - kept["b"]["VQ"])
    assert kept["margin"] > 0
    assert said.confidence is None
    event = AnswerEvent("p", 0, said.answer, "ok", "judge", judge.name, 1.0, 0.0, 1.0, raw=said.raw)
    assert strength(event) == pytest.approx(kept["margin"])


def test_swapping_the_sides_swaps_the_answer_and_asks_nothing(
    adapter: Adapter, cache: ScoreCache, pair: SegmentPair, tmp_path: Path
) -> None:
    judge = RewardJudge(adapter, cache)
    first, second = judge.judge(pair), judge.judge(pair.mirrored())
    assert (first.answer, second.answer) == ("a", "b")
    assert json.loads(first.raw)["margin"] == -json.loads(second.raw)["margin"]
    assert (first.calls, first.cached, second.calls, second.cached) == (2, 0, 0, 2)
    assert scorings(tmp_path) == 2


def test_scores_survive_the_process(adapter: Adapter, pair: SegmentPair, tmp_path: Path) -> None:
    for _ in range(2):
        with ScoreCache(tmp_path / "kept.db") as kept:
            RewardJudge(adapter, kept).judge(pair)
    assert scorings(tmp_path) == 2


def test_what_is_shown_is_what_is_kept(adapter: Adapter, cache: ScoreCache, pair: SegmentPair, tmp_path: Path) -> None:
    judge = RewardJudge(adapter, cache, show_caption=True, chosen=["TA"])
    judge.judge(pair)
    judge.judge(SegmentPair(pair.frames_a, pair.frames_b, 24.0, "a dog"))
    judge.judge(SegmentPair(pair.frames_a, pair.frames_b, 12.0, "a cat"))
    assert scorings(tmp_path) == 6


def test_equal_sides_tie_and_are_scored_once(adapter: Adapter, cache: ScoreCache, tmp_path: Path) -> None:
    said = RewardJudge(adapter, cache).judge(SegmentPair(frames(1, 99), frames(1, 99), 12.0))
    assert said.answer == "tie"
    assert scorings(tmp_path) == 1


def test_the_tie_band_is_inclusive_and_part_of_the_digest(
    adapter: Adapter, cache: ScoreCache, pair: SegmentPair
) -> None:
    margin = json.loads(RewardJudge(adapter, cache).judge(pair).raw)["margin"]
    assert RewardJudge(adapter, cache, tie_band=margin).judge(pair).answer == "tie"
    assert RewardJudge(adapter, cache, tie_band=margin * 0.999).judge(pair).answer == "a"
    judges = [
        RewardJudge(adapter, cache),
        RewardJudge(adapter, cache, tie_band=0.1),
        RewardJudge(adapter, cache, show_caption=True),
        RewardJudge(adapter, cache, chosen=["VQ=-1"]),
    ]
    assert len({judge.settings_digest for judge in judges}) == 4


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_frames_cannot_be_judged(adapter: Adapter, cache: ScoreCache, count: int) -> None:
    said = RewardJudge(adapter, cache).judge(SegmentPair(frames(0, 9, count), frames(1, 9, count), 12.0))
    assert (said.answer, said.outcome) == ("cannot_judge", "ok")


def test_a_side_that_cannot_be_scored_is_a_failure_and_is_asked_again(
    cache: ScoreCache, pair: SegmentPair, tmp_path: Path
) -> None:
    body = COUNTING.format(count=str(tmp_path / "count"), fail=True)
    with Adapter(command(tmp_path, body), tmp_path / "log", start_timeout_s=60) as adapter:
        judge = RewardJudge(adapter, cache)
        said = judge.judge(pair)
        assert (said.answer, said.outcome) == (None, "failed")
        assert said.reason == "side a: ValueError: too rich"
        judge.judge(pair)
    assert scorings(tmp_path) == 3  # the side that could be scored is known


def test_no_file_stays_behind(adapter: Adapter, cache: ScoreCache, pair: SegmentPair, tmp_path: Path) -> None:
    RewardJudge(adapter, cache).judge(pair)
    paths = (tmp_path / "count-paths").read_text().split()
    assert len(paths) == 2
    assert not any(Path(path).exists() for path in paths)


def test_a_caption_is_told_only_if_it_may_be(adapter: Adapter, cache: ScoreCache, pair: SegmentPair) -> None:
    hidden = json.loads(RewardJudge(adapter, cache).judge(pair).raw)
    told = json.loads(RewardJudge(adapter, cache, show_caption=True).judge(pair).raw)
    assert hidden["a"]["TA"] == 0
    assert told["a"]["TA"] == len("a dog")


HELLO = Hello("x", "1", ("VQ", "MQ", "TA", "Overall"), ("TA", "Overall"), 1, "null")


def test_by_default_the_overall_score_counts_or_all_that_need_no_caption() -> None:
    assert choose_weights(HELLO, (), True) == {"Overall": 1.0}
    assert choose_weights(HELLO, (), False) == {"VQ": 0.5, "MQ": 0.5}
    assert choose_weights(HELLO, ("VQ", "MQ=-3"), False) == {"VQ": 0.25, "MQ": -0.75}


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (("XQ",), "has no score 'XQ'; it has VQ, MQ, TA, Overall"),
        (("TA",), "TA needs the caption"),
        (("VQ=much",), "the weight of 'VQ=much' is not a number"),
        (("VQ=nan",), "no score left"),
        (("VQ=0",), "no score left"),
    ],
)
def test_a_wrong_choice_is_refused(chosen: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        choose_weights(HELLO, chosen, False)


def test_an_adapter_that_does_not_start_stops_the_run(tmp_path: Path, cache: ScoreCache, pair: SegmentPair) -> None:
    with (
        Adapter(command(tmp_path, "import not_there"), tmp_path / "log", start_timeout_s=60) as adapter,
        pytest.raises(AdapterError, match="No module named 'not_there'"),
    ):
        RewardJudge(adapter, cache).judge(pair)


def test_the_example_adapter_prefers_the_sharp_side(tmp_path: Path, cache: ScoreCache) -> None:
    sharp = frames(3, 256)
    soft = np.repeat(np.repeat(sharp[:, ::4, ::4], 4, axis=1), 4, axis=2)
    example = [sys.executable, str(ADAPTERS / "sharpness.py")]
    with Adapter(example, tmp_path / "log", start_timeout_s=60) as adapter:
        judge = RewardJudge(adapter, cache, chosen=["sharpness"])
        assert judge.judge(SegmentPair(sharp, soft, 12.0)).answer == "a"
        assert judge.judge(SegmentPair(soft, sharp, 12.0)).answer == "b"
