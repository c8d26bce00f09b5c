"""One process at a time judges the same part of the pairs in a judge's name; other judges and parts are free."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.unit.labels.judges.doubles import Double, brighter

from densedpo.config import JudgeSettings
from densedpo.errors import LabelError
from densedpo.labels.judges.metric import MetricJudge
from densedpo.labels.judges.turn import judges_turn
from densedpo.labels.judges.vlm import VlmJudge
from densedpo.store.project import Project
from densedpo.store.shard import Shard

WHOLE, FIRST, SECOND = Shard(), Shard(1, 2), Shard(2, 2)
BUSY = "another process judges .*--shard"
HOLD = """
import sys
from pathlib import Path
from densedpo.labels.judges.metric import MetricJudge
from densedpo.labels.judges.turn import judges_turn
from densedpo.store.project import Project
from densedpo.store.shard import Shard
with judges_turn(Project(Path(sys.argv[1])), MetricJudge(), 1.0, "segments", Shard()):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("held", "wanted"), [(WHOLE, WHOLE), (WHOLE, FIRST), (FIRST, WHOLE), (FIRST, FIRST)])
def test_the_same_part_is_judged_by_one(tmp_path: Path, held: Shard, wanted: Shard) -> None:
    project = Project(tmp_path)
    with judges_turn(project, MetricJudge(), 1.0, "segments", held):
        other = judges_turn(project, MetricJudge(tie_band=0.5), 1.0, "segments", wanted)
        with pytest.raises(LabelError, match=BUSY), other:
            pass
    with judges_turn(project, MetricJudge(), 1.0, "segments", wanted):
        pass


def test_other_parts_judges_and_questions_are_free(tmp_path: Path) -> None:
    project = Project(tmp_path)
    with ExitStack() as held:
        for part in (FIRST, SECOND):
            held.enter_context(judges_turn(project, MetricJudge(), 1.0, "segments", part))
        held.enter_context(judges_turn(project, VlmJudge(Double(brighter), JudgeSettings()), 1.0, "segments", WHOLE))
        held.enter_context(judges_turn(project, MetricJudge(), 1.0, "clip", WHOLE))
        held.enter_context(judges_turn(project, MetricJudge(), 0.5, "segments", WHOLE))


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_here(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    with judges_turn(Project(tmp_path), MetricJudge(), 1.0, "segments", WHOLE):
        assert "no locks here" in capsys.readouterr().err


def test_a_killed_process_is_in_nobodys_way(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None and first.stdout.readline() == b"held\n"
    again = judges_turn(Project(tmp_path), MetricJudge(), 1.0, "segments", WHOLE)
    with pytest.raises(LabelError, match=BUSY), again:
        pass
    first.kill()
    first.communicate()
    with judges_turn(Project(tmp_path), MetricJudge(), 1.0, "segments", WHOLE):
        pass
