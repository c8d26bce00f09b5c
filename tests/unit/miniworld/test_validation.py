"""The examiner's contract: clean clips are perfect, planted defects move the right score."""

from __future__ import annotations

import numpy as np
import pytest

from densedpo.clips.decode import Video
from densedpo.miniworld import scenes, validation
from densedpo.miniworld.defects import DEFECTS


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_examiner_holds_its_contract() -> None:
    report = validation.validate(trials=100, seed=1)
    assert report["failures"] == []
    assert set(report["defects"]) == set(DEFECTS)
    assert report["clean"]["encoded"]["clips"] >= 200


def test_a_blind_examiner_fails_the_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    from densedpo.miniworld.examiner import Examination

    def blind(frames: np.ndarray, caption: str) -> Examination:
        count = len(frames)
        centre, found = np.zeros((count, 2)), np.ones(count, dtype=bool)
        still = np.ones(count - 1)
        return Examination(np.full(count, 0.001), still, still, 1.0, 1.0, np.ones(count), centre, found)

    few = scenes.subjects()[::6]
    monkeypatch.setattr(scenes, "subjects", lambda: few)
    monkeypatch.setattr(validation, "examine", blind)
    monkeypatch.setattr(validation, "write_video", lambda *_: None)
    monkeypatch.setattr(
        validation, "read_video", lambda _: Video(np.zeros((33, 32, 32, 3), np.uint8), np.zeros(33), 8.0)
    )
    report = validation.validate(trials=3, seed=0)
    failed = " ".join(report["failures"])
    assert "motion_correlation" in failed
    assert all(f"{kind}:" in failed for kind in validation.EXPECTED)
