"""Several processes judge one project: each a part of the pairs, together all of them, none twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from densedpo.errors import ConfigError
from densedpo.labels.judges.metric import MetricJudge
from densedpo.labels.judges.run import judge_pairs, plan_judging
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project
from densedpo.store.shard import Shard, parse_shard


def test_parts_are_disjoint_and_together_everything(pairs_project: Path) -> None:
    project, judge = Project(pairs_project), MetricJudge()
    parts = [plan_judging(project, judge, 1.0, shard=Shard(number, 5)).work for number in range(1, 6)]
    ids = [work.pair_id for part in parts for work in part]
    assert len(ids) == len(set(ids)) == plan_judging(project, judge, 1.0).pairs
    assert all(parts)


def test_parts_judged_one_by_one_make_the_whole(pairs_project: Path) -> None:
    project, judge = Project(pairs_project), MetricJudge()
    counts = [judge_pairs(project, judge, 1.0, shard=Shard(number, 3)).judged for number in (1, 2, 3)]
    assert min(counts) > 0
    assert plan_judging(project, judge, 1.0).work == ()
    with LabelStore.open(project.label_store) as store:
        assert len(list(store.current())) == sum(counts)


def test_parts_judged_at_the_same_time_share_one_store(pairs_project: Path) -> None:
    line = [sys.executable, "-m", "densedpo", "label", "judge", "--project", str(pairs_project), "--allow-untrusted"]
    started = [
        subprocess.Popen([*line, "--shard", f"{number}/2"], stderr=subprocess.PIPE, text=True) for number in (1, 2)
    ]
    for process in started:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    project = Project(pairs_project)
    assert plan_judging(project, MetricJudge(), 1.0).work == ()


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give i/n with i from 1 to n"):
        parse_shard(text)
