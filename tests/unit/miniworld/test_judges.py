"""Simulated judges with planted failings: what they are, and what the measures of accuracy make of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from densedpo.errors import ConfigError
from densedpo.keys import stream
from densedpo.labels.accuracy.position import answers_in_order, position, torn
from densedpo.labels.agreement import agreement, lines
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent, Question
from densedpo.labels.judges.base import OrderedJudge, SegmentPair
from densedpo.labels.judges.metric import MetricJudge
from densedpo.labels.judges.run import judge_pairs
from densedpo.labels.store import current_answers
from densedpo.miniworld import judges
from densedpo.miniworld.annotators import SimulatedAnnotator
from densedpo.miniworld.judges import NoisyJudge
from densedpo.miniworld.labelling import label_pairs
from densedpo.store.project import Project

Frames = NDArray[np.uint8]
PER_NAT = 1000
COUNT = 600


def painted(badness: float, number: int, seconds: int = 1) -> Frames:
    """Return frames whose badness ``read`` knows, and no other frames are equal to."""
    frames = np.zeros((2 * seconds, 1, 3, 3), np.uint8)
    frames[0].reshape(-1)[:8] = np.frombuffer(np.int64(round(badness * PER_NAT)).tobytes(), np.uint8)
    frames[1].reshape(-1)[:8] = np.frombuffer(np.int64(number).tobytes(), np.uint8)
    return frames


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the examiner read what ``painted`` wrote."""

    def read(frames: Frames, caption: str, fps: float) -> Any:
        del caption, fps
        badness = int(np.frombuffer(frames[0].tobytes()[:8], np.int64)[0]) / PER_NAT
        return SimpleNamespace(badness=lambda: badness)

    monkeypatch.setattr(judges, "examine", read)


def shown(gap: float, number: int, seconds: int = 1) -> SegmentPair:
    return SegmentPair(painted(2.0, 2 * number, seconds), painted(2.0 + gap, 2 * number + 1, seconds), 2.0, "x")


def accuracy(judge: NoisyJudge, gaps: NDArray[np.float64], seconds: int = 1) -> tuple[float, float]:
    """Return the accuracy where both prefer a side, and with ties, against who sees everything."""
    truth = np.where(np.abs(gaps) < 0.15, 0, np.sign(gaps)).astype(int)
    answers = [judge.judge(shown(float(gap), number, seconds)).answer for number, gap in enumerate(gaps)]
    said = np.array([{"a": 1, "b": -1}.get(str(answer), 0) for answer in answers])
    both = (truth != 0) & (said != 0)
    return float((said == truth)[both].mean()), float((said == truth).mean())


GAPS = stream("test judges", "gaps").normal(0, 0.5, size=COUNT)


@pytest.mark.usefixtures("examined")
def test_without_failings_it_sees_everything() -> None:
    assert accuracy(NoisyJudge(noise=0), GAPS) == (1.0, 1.0)
    same = SegmentPair(painted(2, 1), painted(2, 1), 2.0, "x")
    assert NoisyJudge(noise=5).judge(same).answer == "tie"
    short = SegmentPair(painted(2, 1)[:1], painted(2, 2)[:1], 2.0, "x")
    assert NoisyJudge().judge(short).answer == "cannot_judge"


@pytest.mark.usefixtures("examined")
def test_noise_costs_accuracy_and_longer_clips_more() -> None:
    found = [accuracy(NoisyJudge(noise=noise), GAPS)[0] for noise in (0.1, 0.4, 1.6)]
    assert found[0] > found[1] + 0.05 > found[2] + 0.15
    assert accuracy(NoisyJudge(noise=0.3), GAPS, seconds=6)[0] < accuracy(NoisyJudge(noise=0.3), GAPS)[0] - 0.03


@pytest.mark.usefixtures("examined")
def test_exchanging_the_order_raises_the_accuracy_of_a_biased_judge() -> None:
    biased = NoisyJudge(noise=0.3, position_bias=0.5)
    once, both = accuracy(replace(biased, orders="one"), GAPS), accuracy(biased, GAPS)
    assert both[0] > once[0] + 0.1


@pytest.mark.usefixtures("examined")
def test_without_a_bias_the_order_does_not_matter() -> None:
    fair = NoisyJudge(noise=0.3)
    assert accuracy(replace(fair, orders="one"), GAPS) == accuracy(fair, GAPS)


@pytest.mark.usefixtures("examined")
def test_exchanged_sides_exchange_the_answer_and_the_report_sees_the_bias() -> None:
    biased, events = NoisyJudge(noise=0.3, position_bias=0.5), []
    truth: dict[Question, int] = {}
    for number, gap in enumerate(GAPS[:200]):
        pair = shown(float(gap), number)
        said = biased.judge(pair)
        assert biased.judge(pair.mirrored()).answer == said.mirrored().answer
        assert biased.judge_in_order(pair).answer == answers_in_order(of(said.answer, said.raw))[0][1]
        events.append(of(said.answer, said.raw, number))
        truth[f"p{number}", 0] = 1 if gap > 0 else -1
    found = position(events, truth)
    assert found["first_rate"]["low"] > 0.55
    assert found["first_when_torn"]["value"] == 1
    assert any(torn(event) for event in events)
    fair = [of((said := NoisyJudge().judge(shown(float(g), n))).answer, said.raw, n) for n, g in enumerate(GAPS[:200])]
    assert position(fair, truth)["first_rate"]["value"] == 0.5
    assert position(fair, truth)["same_in_both_orders"]["value"] == 1


def of(answer: Any, raw: str, number: int = 0) -> AnswerEvent:
    return AnswerEvent(f"p{number}", 0, answer, "ok", "judge", "m", 1.0, 0.0, 1.0, raw=raw)


def test_settings_are_checked_and_shape_the_digest() -> None:
    assert isinstance(NoisyJudge(), OrderedJudge)
    digests = {judge.settings_digest for judge in (NoisyJudge(), NoisyJudge(noise=0.2), NoisyJudge(orders="one"))}
    assert len(digests) == 3
    with pytest.raises(ConfigError, match="noise and tie_band must be at least 0"):
        NoisyJudge(noise=-1)
    with pytest.raises(ConfigError, match="need the caption"):
        NoisyJudge().judge(replace(shown(0.1, 1), caption=None))


def test_the_report_is_made_for_every_kind_of_judge(pairs_project: Path) -> None:
    project = Project(pairs_project)
    label_pairs(project, SimulatedAnnotator(), 1.0)
    judge_pairs(project, MetricJudge(), 1.0)
    judge_pairs(project, NoisyJudge(), 1.0)
    judge_pairs(project, NoisyJudge(), 1.0, ask="clip")
    judge_pairs(project, NoisyJudge(name="biased", position_bias=0.5, orders="one"), 1.0)
    found = agreement(project, 1.0, "simulated")
    json.dumps(found, allow_nan=False)
    reports = {report["judge"]: report for report in found["accuracy"]["judges"]}
    assert list(reports) == ["biased", "metric", "noisy"]
    for name, report in reports.items():
        table = report["table"]
        assert table["segments"]["with_ties"]["n"] == report["compared"] == 48
        assert 0 <= table["segments"]["with_ties"]["low"] <= table["segments"]["with_ties"]["high"] <= 1
        assert table["clips_by_majority"]["with_ties"]["n"] == 12
        assert table["clips_asked"]["with_ties"]["n"] == (12 if name == "noisy" else 0)
        assert sum(sum(row.values()) for row in report["confusion"]["segments"].values()) == 48
    assert reports["noisy"]["position"]["same_in_both_orders"]["value"] == 1
    assert reports["biased"]["position"]["same_in_both_orders"]["undefined"] is not None
    assert reports["noisy"]["calibration"]["ece"]["n"] > 0
    assert sum(e.segment == WHOLE_CLIP and e.author == "noisy" for e in current_answers(project.label_store)) == 12
    told = lines(found)
    assert any(line.startswith("noisy") and "videos, asked" in line for line in told)
