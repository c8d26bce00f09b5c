"""The training benchmark: its counter is right, and what it promises on the tiny model holds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from densedpo.models.operations import operations

ROOT = Path(__file__).parents[2]
KEYS = {
    "variant", "operations", "operations_ratio_over_b1", "wall_ms_median", "wall_ratio_over_b1", "wall_ratio_iqr",
    "graded_forwards", "ungraded_forwards", "peak_memory_bytes", "preparation", "loss_difference", "gradient_cosine",
}  # fmt: skip


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _measure

    return _measure


def test_attention_is_counted_forward_backward_and_again() -> None:
    heads, queries, keys, width = 3, 40, 24, 8
    q = torch.ones(1, heads, queries, width, requires_grad=True)
    k, v = (torch.ones(1, heads, keys, width, requires_grad=True) for _ in range(2))
    forward = 4 * heads * queries * keys * width  # two products of 2 m n k operations
    assert operations(lambda: scaled_dot_product_attention(q, k, v)) == forward
    assert operations(lambda: scaled_dot_product_attention(q, k, v).sum().backward()) == 3.5 * forward

    def again() -> None:
        checkpoint(scaled_dot_product_attention, q, k, v, use_reentrant=False).sum().backward()

    assert operations(again) == 4.5 * forward


def test_linear_layers_are_counted() -> None:
    layer, batch = torch.nn.Linear(16, 32), torch.ones(10, 16)
    assert operations(lambda: layer(batch)) == 2 * 10 * 16 * 32
    assert operations(lambda: layer(batch).sum().backward()) == 2 * (2 * 10 * 16 * 32)  # no input gradient


def test_forwards_are_counted_by_videos(counters: ModuleType) -> None:
    class Denoiser(torch.nn.Module):
        def forward(self, videos: torch.Tensor) -> tuple[torch.Tensor]:
            return (videos,)

    first, second = Denoiser(), Denoiser()
    with counters.counted_forwards([first, second]) as counts:
        first(torch.ones(2))
        with torch.no_grad():
            second(torch.ones(3))
    first(torch.ones(2))
    assert (counts.graded, counts.ungraded, counts.calls) == (2, 3, 2)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("benchmark") / "result.json"
    words = ["benchmarks/train_step.py", "--device", "cpu", "--json", "--repeats", "1", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    assert json.loads(out.read_text()) == printed
    return printed


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_variant_has_a_row(result: dict[str, Any]) -> None:
    rows = {row["variant"]: row for row in result["rows"]}
    ours = {"live", "cached", "cached+save-attention", "cached+no-checkpointing"}
    assert set(rows) == {"B0", "B1", "B1+", *ours}
    for row in rows.values():
        assert row.keys() >= KEYS
        assert row["wall_ms_median"] > 0 and row["peak_memory_bytes"] > 0
    assert all(rows[name]["ungraded_forwards"] == 0 for name in ours - {"live"})
    assert all(rows[name]["ungraded_forwards"] == 2 for name in ("B0", "B1", "B1+", "live"))
    assert all(row["graded_forwards"] == 2 for row in rows.values())
    assert "not compiled" in rows["B1+"]["note"]
    assert rows["B0"]["preparation"] == {} and "reference" not in rows["B1"]["preparation"]
    assert rows["cached"]["preparation"]["reference"]["operations"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_operations_and_equality_hold(result: dict[str, Any]) -> None:
    """Time is left to a quiet machine: ``train_step.py --check``."""
    gates = [gate for gate in result["gates"] if not gate["gate"].startswith("wall")]
    assert len(gates) == 2 * 7 + 3
    assert not [gate for gate in gates if not gate["passed"]]
    rows = {row["variant"]: row for row in result["rows"]}
    assert rows["live"]["operations"] == rows["B1"]["operations"]
    assert rows["cached"]["peak_memory_bytes"] < rows["cached+save-attention"]["peak_memory_bytes"]
    assert rows["cached+save-attention"]["peak_memory_bytes"] < rows["cached+no-checkpointing"]["peak_memory_bytes"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_result_names_no_host_and_no_path(result: dict[str, Any]) -> None:
    text = json.dumps(result)
    assert str(ROOT) not in text
    assert socket.gethostname() not in text
    assert result["machine"]["torch"] == torch.__version__
