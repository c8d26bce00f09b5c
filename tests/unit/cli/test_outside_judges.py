"""``label judge`` with models outside: how they are put together from the settings, and what is said without them."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.models.tiny_vision_language import write_tiny_vision_language
from tests.unit.outside.stand_ins import GOOD, command

from densedpo.cli.judges import JUDGES, JudgeName, Seated
from densedpo.cli.verb import Call
from densedpo.config import parse_settings
from densedpo.errors import ConfigError
from densedpo.labels.judges.run import judge_pairs
from densedpo.outside.environments import ADAPTERS
from densedpo.store.project import Project


def call(folder: Path, **judge: Any) -> Call:
    return Call(Project(folder), parse_settings({"device": "cpu", "judge": judge}))


def test_a_local_model_is_loaded_under_its_folders_name(tmp_path: Path) -> None:
    write_tiny_vision_language(tmp_path / "tiny-vl", "qwen3_vl")
    with JUDGES[JudgeName.local](call(tmp_path, model=str(tmp_path / "tiny-vl"))) as seated:
        assert isinstance(seated, Seated)
        assert seated.judge.name == "local:tiny-vl"


@pytest.mark.parametrize(
    ("name", "judge", "reason"),
    [
        (JudgeName.local, {}, "judge.model: give the folder or hub name"),
        (
            JudgeName.reward,
            {},
            "judge.reward_command: give the command of an adapter; see `densedpo doctor",
        ),
        (
            JudgeName.reward,
            {"reward_command": "no-such-python x.py"},
            "judge.reward_command: no program 'no-such-python'",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: JudgeName, judge: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason), JUDGES[name](call(tmp_path, **judge)):
        pass


def test_a_reward_model_judges_every_segment_and_a_repetition_asks_nothing(pairs_project: Path) -> None:
    words = shlex.join([sys.executable, str(ADAPTERS / "sharpness.py")])
    first_call = call(pairs_project, reward_command=words, dimensions=["sharpness"])
    with JUDGES[JudgeName.reward](first_call) as seated:
        first = judge_pairs(first_call.project, seated.judge, 1.0)
        assert seated.judge.name == "reward:sharpness"
        assert judge_pairs(first_call.project, seated.judge, 1.0).judged == 0
    assert first.judged == first.outcomes["ok"] > 0
    assert first.calls <= 2 * first.judged
    # all judgements lost, no score: nothing is scored again
    with JUDGES[JudgeName.reward](first_call) as seated:
        again = judge_pairs(first_call.project, seated.judge, 1.0, force=True)
    assert again.calls == 0
    assert again.cached == 2 * again.judged
    assert again.answers == first.answers


def test_a_folder_that_doctor_made_is_a_command(tmp_path: Path, pairs_project: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "adapter.json").write_text(json.dumps({"command": command(tmp_path, GOOD)}), encoding="utf-8")
    assert shutil.which(sys.executable)
    with JUDGES[JudgeName.reward](call(pairs_project, reward_command=str(made))) as seated:
        assert seated.judge.name == "reward:size"
