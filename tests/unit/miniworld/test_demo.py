"""The demo: its contract, and that the same seed gives the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from densedpo.errors import ConfigError
from densedpo.miniworld.demo import DemoSize, headlines, run_demo
from densedpo.store.project import Project

SMALL = DemoSize(clips=6, independent_pairs=6, guided_per_clip=1, train_steps=2, seeds=1)
SCORES = {"artifact", "temporal_consistency", "dynamic_degree", "text_agreement"}


@pytest.mark.slow
def test_contract_and_repetition(tmp_path: Path) -> None:
    first = run_demo(Project(tmp_path / "first"), 0, "cpu", SMALL)
    assert Path(first["report"]).is_file()
    assert (first["pairs"], first["segments"]) == (12, 48)
    assert 0 <= first["non_tie_segments"] <= 48 and first["seconds"] > 0
    for model in ("base", "tuned"):
        assert set(first["scores"][model]) == SCORES
    for score in SCORES:
        assert {"mean", "low", "high"} <= set(first["differences"][score])
    second = run_demo(Project(tmp_path / "second"), 0, "cpu", SMALL)
    for changing in ("report", "seconds"):
        first.pop(changing), second.pop(changing)
    assert first == second
    with pytest.raises(ConfigError, match="holds a demo"):
        run_demo(Project(tmp_path / "first"), 1, "cpu", SMALL)
    again = run_demo(Project(tmp_path / "first"), 0, "cpu", SMALL)
    assert again["scores"] == first["scores"]


def test_headlines_carry_intervals() -> None:
    share: dict[str, Any] = {"mean": 0.8, "low": 0.7, "high": 0.9, "count": 10}
    group = {level: {"preferences": {"slower": {"share": share}}} for level in ("segments", "clips")}
    change = {"mean": -0.01, "low": -0.02, "high": -0.005, "count": 24}
    summary = {"differences": {"dense": {"artifact": change}}, "score_info": {"artifact": {"label": "artifact"}}}
    lines = headlines({"groups": {"all": group, "guided": group}}, summary)
    assert lines == [
        "guided pairs: 80 % [70, 90] of the preferred segments are the slower ones",
        "artifact, tuned - base: -0.0100 [-0.0200, -0.0050]",
    ]
