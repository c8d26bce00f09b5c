"""The benchmark of making pairs: its count is the counter's, and what it promises in operations holds."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT / "benchmarks"))
        import make_pairs

        return make_pairs


@pytest.fixture(scope="module")
def case(bench: ModuleType) -> Any:
    from _model import RandomWan, random_clips

    model = RandomWan(torch.device("cpu"))
    return bench.Case(model, bench.SMALL, random_clips(bench.SMALL, model.device)[0])


@torch.no_grad()
@pytest.mark.parametrize("way", ["ours", "text_to_video"])
def test_passes_tallied_and_counted_once_are_the_whole(
    way: str, bench: ModuleType, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "STEPS", 3)
    make = getattr(case, way)
    assert bench.count(case, make)[0] == bench.operations(make)


@torch.no_grad()
def test_a_guided_pair_costs_about_half_of_two_runs(bench: ModuleType, case: Any) -> None:
    base, _ = bench.count(case, case.text_to_video)
    assert bench.count(case, case.ours)[0] / base <= 0.55
    assert bench.count(case, lambda: case.ours(shift=1.0))[0] / base <= 0.80
    assert bench.count(case, case.ours)[0] < bench.count(case, lambda: case.video_to_video(0.5))[0]


def test_a_gate_that_is_missed_fails(bench: ModuleType) -> None:
    good = {
        "operations_over_two_text_to_video_runs": 0.5,
        "unshifted_operations_over_two_text_to_video_runs": 0.76,
        "wall_over_two_pipeline_calls": 0.57,
    }
    assert all(gate["passed"] for gate in bench.gates_of(good))
    for name in good:
        assert not all(gate["passed"] for gate in bench.gates_of(good | {name: 0.9}))
