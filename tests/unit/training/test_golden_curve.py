"""A training curve that must not change unnoticed: 100 steps on an untrained tiny model, kept in tests/data/golden/.

Another curve is a change of what users' runs do; it needs a line in CHANGELOG.md that says why. To write it anew, run

    WRITE_GOLDEN_CURVE=1 python -m pytest -n0 tests/unit/training/test_golden_curve.py

and look at ``git diff --stat tests/data/golden``.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.reference_maker import make_items

from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.observe import read_jsonl
from densedpo.training.options import DenseDPOConfig
from densedpo.training.trainer import DenseDPOTrainer

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "tiny-dense.jsonl"
WRITE = "WRITE_GOLDEN_CURVE"
# Of a metric's largest magnitude in the curve. Other kernels (AVX-512, AVX2, none; oneDNN off) and latents changed by
# 1e-6 move it by 1e-5 at most, the smallest of the twins below by 2e-2.
TOLERANCE = 2e-4
METRICS = (
    "loss",
    "grad_norm",
    "learning_rate",
    "rewards/margins",
    "rewards/chosen",
    "rewards/rejected",
    "policy_winner_error",
    "policy_loser_error",
    "reference_winner_error",
    "reference_loser_error",
    "z_median_abs",
    "non_tie_frames",
    "eval/loss",
    "eval/rewards/margins",
    "eval/winner_change",
    "eval/loser_change",
)
RECIPE: dict[str, Any] = {  # all that matters is written out, so that other defaults leave the curve as it is
    "method": "dense",
    "loss_type": "sigmoid",
    "beta": 100.0,
    "label_smoothing": 0.0,
    "confidence_weights": True,
    "dpop_lambda": 0.0,
    "sdpo_mu": None,
    "averaging": "batch",
    "latent_tie_rms": 0.0,
    "share_noise": True,
    "t_limit": "none",
    "max_steps": 100,
    "warmup_steps": 10,
    "lr_schedule": "linear",
    "learning_rate": 3e-4,
    "batch_size": 4,
    "micro_batch_size": 2,
    "optim": "adamw",
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "ema_decay": None,
    "lora_rank": 4,
    "lora_alpha": 4,
    "eval_steps": 25,
}


@pytest.fixture(scope="module")
def base(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


def curve(base: VideoModel, folder: Path, steps: int = 100, **changes: object) -> list[dict[str, float]]:
    """Train by the recipe, with changes, for the first ``steps`` steps; return the metrics of each."""
    items = make_items(folder / "latents", 8)
    config = DenseDPOConfig.model_validate({**RECIPE, **changes, "output_dir": folder / "run"})
    trainer = DenseDPOTrainer(copy.deepcopy(base), config, items[:6], items[6:])
    if steps == RECIPE["max_steps"]:
        rows = read_jsonl(trainer.train().saved.parent / "metrics.jsonl")
    else:
        trainer.prepare()
        rows = [{"step": step + 1, **trainer.train_step(step)} for step in range(steps)]
    return [{name: row[name] for name in ("step", *METRICS) if name in row} for row in rows]


def largest_differences(
    found: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Return each metric's largest difference, as a share of its largest magnitude in the expected curve."""
    assert [row["step"] for row in found] == [row["step"] for row in expected[: len(found)]]
    differences = {}
    for name in METRICS:
        pairs = [(row[name], other[name]) for row, other in zip(found, expected, strict=False) if name in row]
        scale = max(abs(row[name]) for row in expected if name in row)
        if pairs:
            differences[name] = max(abs(one - other) for one, other in pairs) / scale
    return differences


def test_the_curve_is_the_golden_one(base: VideoModel, tmp_path: Path) -> None:
    found = curve(base, tmp_path)
    if WRITE in os.environ:
        GOLDEN.parent.mkdir(exist_ok=True)
        rounded = [{name: float(f"{value:.6g}") for name, value in row.items()} for row in found]
        GOLDEN.write_text("".join(json.dumps(row) + "\n" for row in rounded), encoding="utf-8")
    expected = read_jsonl(GOLDEN)
    assert [set(row) for row in found] == [set(row) for row in expected]
    different = {name: gap for name, gap in largest_differences(found, expected).items() if gap > TOLERANCE}
    assert not different, f"another curve than {GOLDEN}; see this file's first lines"
    # and it is worth comparing: something is learned
    assert expected[-1]["loss"] < 0.95 * expected[0]["loss"]


@pytest.mark.parametrize(
    "twin",
    [
        {"beta": 105.0},
        {"seed": 1},
        {"learning_rate": 3.15e-4},
        {"confidence_weights": False},
        {"share_noise": False},
        {"lora_alpha": 5},
    ],
    ids=lambda twin: next(iter(twin)),
)
def test_a_slightly_different_run_is_told_apart(base: VideoModel, tmp_path: Path, twin: dict[str, object]) -> None:
    differences = largest_differences(curve(base, tmp_path, steps=20, **twin), read_jsonl(GOLDEN))
    assert max(differences.values()) > 20 * TOLERANCE, differences
