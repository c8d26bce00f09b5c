"""The stage that judges: each segment answered once, whatever goes wrong, and nothing lost that was answered."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fake_endpoint import FakeEndpoint, steady
from tests.judged_pairs import SEGMENTS, make_project
from tests.unit.labels.judges.asking import settings

from densedpo.clips.decode import Video, read_video
from densedpo.errors import MediaError
from densedpo.labels.answers import WHOLE_CLIP
from densedpo.labels.judges import work
from densedpo.labels.judges.base import Judgement, SegmentPair
from densedpo.labels.judges.crew import Crew, Done
from densedpo.labels.judges.endpoint import Endpoint
from densedpo.labels.judges.images import encode_image
from densedpo.labels.judges.replies import Replies
from densedpo.labels.judges.run import JudgeSummary, judge_pairs, plan_judging
from densedpo.labels.judges.vlm import VlmJudge
from densedpo.labels.store import LabelStore, current_answers
from densedpo.store.project import Project

PAIRS = 10
NEEDED = PAIRS * SEGMENTS * 2  # questions: both orders
TEN_PERCENT = {
    "429": 0.01, "429_after": 0.01, "429_date": 0.005, "500": 0.01, "502": 0.01, "reset": 0.01, "reset_mid": 0.01,
    "html": 0.005, "cut": 0.01, "huge": 0.005, "empty_body": 0.005, "drip": 0.003, "timeout": 0.002, "prose": 0.005,
}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judged") / "project"
    make_project(root, PAIRS)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    return Project(Path(shutil.copytree(template, tmp_path / "project")))


def judged(project: Project, fake: FakeEndpoint, stage: dict[str, Any] | None = None, **changes: Any) -> JudgeSummary:
    chosen = settings(fake.url, **{"timeout_s": 4.0, "parallel": 8, "max_attempts": 12, **changes})
    alone = chosen.budget is not None
    with (
        Replies(project.judge_replies, alone=alone) as replies,
        Endpoint(chosen, replies, backoff_s=0.01) as endpoint,
    ):
        return judge_pairs(project, VlmJudge(endpoint, chosen), 1.0, interrupt=endpoint.close, **(stage or {}))


def stored(project: Project) -> Counter[tuple[str, int]]:
    """Return how often each segment is in the store's whole history."""
    with LabelStore.open(project.labels_database) as store:
        return Counter((item.event.pair_id, item.event.segment) for item in store.events())


def check_each_once(project: Project) -> None:
    found = stored(project)
    assert set(found) == {(f"p{pair:03}", segment) for pair in range(PAIRS) for segment in range(SEGMENTS)}
    assert set(found.values()) == {1}


def check_right(project: Project) -> None:
    """The side that does not flicker: a in pairs of even number."""
    wrong = [e for e in current_answers(project.labels_database) if e.answer != "ab"[int(e.pair_id[1:]) % 2]]
    assert wrong == []


def test_ten_percent_errors_cost_little_and_lose_nothing(project: Project) -> None:
    with FakeEndpoint(steady, TEN_PERCENT, hang_s=8.0, drip_s=0.05) as fake:
        summary = judged(project, fake)
        assert sum(count for kind, count in fake.record.done.items() if kind != "ok") >= 3, "nothing went wrong"
        assert (summary.judged, summary.outcomes, summary.stopped) == (40, {"ok": 40}, "")
        assert summary.calls == fake.calls <= 1.2 * NEEDED
        assert max(fake.record.whole.values()) == 1
        again = judged(project, fake)
        assert (again.judged, again.skipped, again.calls, again.cached) == (0, 40, 0, 0)
        forced = judged(project, fake, {"force": True})
        assert (forced.judged, forced.calls, forced.cached, forced.cost) == (40, 0, NEEDED, 0.0)
        assert fake.calls == summary.calls
    check_each_once(project)
    check_right(project)


def test_half_of_all_calls_go_wrong(project: Project) -> None:
    plan = {kind: 5 * share for kind, share in TEN_PERCENT.items() if kind not in ("drip", "timeout")}
    with FakeEndpoint(steady, plan) as fake:
        for _ in range(5):
            judged(project, fake, parallel=16, max_attempts=6)
            if len(stored(project)) == PAIRS * SEGMENTS:
                break
        assert max(fake.record.whole.values()) == 1
    check_each_once(project)
    check_right(project)


def test_what_is_no_answer_is_counted_and_never_a_preference(project: Project) -> None:
    plan = dict.fromkeys(("prose", "nan", "enum", "half", "empty", "refusal", "filter", "length"), 0.08)
    with FakeEndpoint(steady, plan) as fake:
        summary = judged(project, fake)
        assert judged(project, fake).judged == 0
    assert min(summary.outcomes[outcome] for outcome in ("ok", "refused", "truncated", "malformed")) > 0
    assert summary.outcomes["failed"] == 0
    assert fake.calls <= 3 * NEEDED
    events = current_answers(project.labels_database)
    assert Counter(event.outcome for event in events) == summary.outcomes
    assert all(event.answer is None for event in events if event.outcome != "ok")
    check_each_once(project)


def test_the_whole_clip_as_a_baseline(project: Project) -> None:
    with FakeEndpoint(steady) as fake:
        summary = judged(project, fake, {"ask": "clip"})
        assert (summary.judged, summary.calls) == (PAIRS, 2 * PAIRS)
        assert judged(project, fake, {"ask": "clip"}).skipped == PAIRS
        assert judged(project, fake).judged == PAIRS * SEGMENTS
    whole = [event for event in current_answers(project.labels_database) if event.segment == WHOLE_CLIP]
    assert len(whole) == PAIRS
    assert {(event.start_s, event.end_s) for event in whole} == {(0.0, 33 / 8)}


def test_untrusted_answers_say_so(project: Project) -> None:
    with FakeEndpoint(steady) as fake:
        judged(project, fake, {"trusted": False})
    assert {event.trusted for event in current_answers(project.labels_database)} == {False}


def test_a_spent_budget_stops_and_more_money_goes_on(project: Project) -> None:
    prices: dict[str, Any] = {"price_input": 10.0, "price_output": 10.0}
    with FakeEndpoint(steady, tokens=(4000, 20), latency_s=0.02) as fake:
        summary = judged(project, fake, budget=1.5, **prices)
        assert "judge.budget" in summary.stopped
        assert 0 < summary.judged < 40
        assert fake.cost(10, 10) <= 1.5
        assert len(stored(project)) == summary.judged
        assert judged(project, fake, budget=20.0, **prices).stopped == ""
        assert fake.calls == NEEDED
    check_each_once(project)


def test_a_service_that_goes_down_stops_and_comes_back(project: Project) -> None:
    with FakeEndpoint(steady, at_call={NEEDED // 2: lambda fake: fake.plan.update({"502": 1.0})}) as fake:
        summary = judged(project, fake, max_attempts=2, parallel=4)
        assert "in a row" in summary.stopped and fake.url in summary.stopped
        assert 0 < len(stored(project)) == summary.judged - summary.outcomes["failed"] < 40
        fake.plan.clear()
        assert judged(project, fake).stopped == ""
        assert max(fake.record.whole.values()) == 1
    check_each_once(project)


def test_a_key_that_is_withdrawn_stops_with_what_was_answered_kept(project: Project) -> None:
    with FakeEndpoint(steady, at_call={NEEDED // 2: lambda fake: setattr(fake, "key", "another")}) as fake:
        summary = judged(project, fake, parallel=4)
        before = len(stored(project))
        assert "OPENAI_API_KEY" in summary.stopped
        assert 0 < before == summary.judged - summary.outcomes["failed"] < 40
        fake.key = None
        assert judged(project, fake).skipped == before
        assert max(fake.record.whole.values()) == 1
    check_each_once(project)


def test_a_failed_call_replaces_no_answer(project: Project) -> None:
    with FakeEndpoint(steady) as fake:
        judged(project, fake)
    before = current_answers(project.labels_database)
    breaks = {3: lambda fake: fake.plan.update({"500": 1.0})}
    with FakeEndpoint(steady, at_call=breaks) as fake:
        summary = judged(project, fake, {"force": True}, max_attempts=1, parallel=1)
        assert summary.outcomes["failed"] > 0 and summary.stopped
    assert current_answers(project.labels_database) == before


def test_as_many_at_once_as_allowed(project: Project) -> None:
    with FakeEndpoint(steady, latency_s=0.1) as fake:
        judged(project, fake, parallel=6)
        assert fake.record.most_at_once == 6


def test_each_side_is_decoded_and_encoded_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: Counter[str] = Counter()
    encoded: Counter[bytes] = Counter()

    def reading(path: Path) -> Video:
        decoded[str(path)] += 1
        return read_video(path)

    def encoding(pixels: Any, image_format: str) -> Any:
        encoded[np.ascontiguousarray(pixels).tobytes()] += 1
        return encode_image(pixels, image_format)

    monkeypatch.setattr(work, "read_video", reading)
    monkeypatch.setattr("densedpo.labels.judges.images.encode_image", encoding)
    with FakeEndpoint(steady) as fake:
        judged(project, fake)
    assert len(decoded) == 2 * PAIRS and set(decoded.values()) == {1}
    shown = PAIRS * 2 * 33  # at 8 frames a second nothing is left out
    assert sum(encoded.values()) <= shown


class Slow:
    """A judge that knows how many pairs' frames are in memory while it looks at them."""

    name, settings_digest, parallel = "slow", "0", 4

    def judge(self, pair: SegmentPair) -> Judgement:
        time.sleep(0.05)
        return Judgement("tie")


def in_memory_at_once(project: Project, monkeypatch: pytest.MonkeyPatch, held_bytes: int) -> int:
    """Return the most pairs whose frames were decoded and not all judged yet."""
    read: set[str] = set()
    most = 0
    left = Counter({f"p{number:03}": SEGMENTS for number in range(PAIRS)})

    def reading(path: Path) -> Video:
        nonlocal most
        read.add(path.parent.name)
        most = max(most, len(read))
        return read_video(path)

    monkeypatch.setattr(work, "read_video", reading)
    plan = plan_judging(project, Slow(), 1.0)
    crew = Crew(project, Slow(), plan.work, Judgement("tie"), held_bytes)
    real: Callable[..., list[Done]] = crew._after_judging

    def after(judged: Any, about: Any, segment: int) -> list[Done]:
        left[about.pair_id] -= 1
        if not left[about.pair_id]:
            read.discard(about.pair_id)
        return real(judged, about, segment)

    monkeypatch.setattr(crew, "_after_judging", after)
    assert sum(map(len, crew)) == PAIRS * SEGMENTS
    assert crew.error is None and crew.stop() == []
    return most


def test_memory_is_bounded(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pair_bytes = 2 * 3 * 33 * 32 * 32
    assert in_memory_at_once(project, monkeypatch, pair_bytes // 2) == 1
    assert in_memory_at_once(project, monkeypatch, 2 * pair_bytes) <= 2
    assert in_memory_at_once(project, monkeypatch, 100 * pair_bytes) >= 2


def test_damaged_pairs_are_named_and_the_rest_is_judged(project: Project) -> None:
    (project.pairs / "p003" / "a.mp4").write_bytes(b"no video")
    with FakeEndpoint(steady) as fake:
        summary = judged(project, fake)
        assert [item["pair_id"] for item in summary.rejected] == ["p003"]
        assert summary.judged == (PAIRS - 1) * SEGMENTS
        for pair in project.pairs.glob("p*/a.mp4"):
            pair.unlink()
        with pytest.raises(MediaError, match="none of 10 pairs"):
            judged(project, fake, {"force": True})
