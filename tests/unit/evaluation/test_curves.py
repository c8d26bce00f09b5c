"""Curves in the plane of motion and quality: points, the one to ship, and comparisons at matched motion and quality."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import f

from densedpo.evaluation.curves import Plane, curves
from densedpo.evaluation.matched import at_level
from densedpo.evaluation.paired import Bootstrap, Table
from densedpo.evaluation.variants import Variant, list_lines, list_variants
from densedpo.keys import stream

SCALES = (0.5, 1.0)
PROMPTS = 40
# what one unit of LoRA scale does: run a pays little motion, b much, for the same quality
SLOPES = {"a": (-0.1, 1.0), "b": (-0.4, 1.0)}


def variants() -> list[Variant]:
    found = [Variant("base")]
    for run in SLOPES:
        found += [Variant(run if scale == 1 else f"{run}@{scale:g}", run, scale) for scale in SCALES]
    return found


def plane(sign: int = 1, noise: float = 0.05, kept: float = 0.85) -> Plane:
    """Return runs with straight curves on prompts whose own motion differs tenfold."""
    rng = stream("tests", "curves")
    own = rng.uniform(1, 10, size=PROMPTS)
    sums = []
    for variant in variants():
        motion, quality = SLOPES.get(str(variant.run), (0.0, 0.0))
        moved = own * (1 + variant.lora_scale * motion + noise * rng.normal(size=PROMPTS))
        liked = 3 + sign * variant.lora_scale * quality + noise * rng.normal(size=PROMPTS)
        sums.append(np.stack([moved, liked], axis=1))
    names = tuple(variant.name for variant in variants())
    prompts = tuple(f"p{n}" for n in range(PROMPTS))
    table = Table(names, prompts, ("speed", "looks"), np.stack(sums), np.ones(PROMPTS))
    return Plane(table, Bootstrap(PROMPTS), "speed", "looks", "higher" if sign > 0 else "lower", kept)


def made(shown: Plane) -> dict[str, Any]:
    found = curves(shown, variants())
    assert found is not None
    return found


def test_points_are_those_of_the_table() -> None:
    found = made(plane())
    assert [point["model"] for point in found["points"]] == ["base", "a@0.5", "a", "b@0.5", "b"]
    assert found["lines"][0] == {"name": "a", "run": "a", "by": "scale", "models": ["base", "a@0.5", "a"]}
    base, strong = found["points"][0], found["points"][-1]
    assert strong["motion_ratio"]["mean"] == pytest.approx(0.6, abs=0.03)
    assert strong["quality"]["mean"] - base["quality"]["mean"] == pytest.approx(1, abs=0.05)
    assert base["paired_ellipse"] is None
    # pairing takes out what prompts share: the difference is known far better than the motion itself
    assert strong["paired_ellipse"]["radii"][0] < 0.8 * strong["ellipse"]["radii"][0]
    assert strong["ellipse"]["center"] == [strong["motion"]["mean"], strong["quality"]["mean"]]


def test_an_ellipse_spans_its_covariance() -> None:
    ellipse = made(plane())["points"][2]["ellipse"]
    t, (a, b) = ellipse["angle_rad"], ellipse["radii"]
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    squared = 2 * (PROMPTS - 1) / (PROMPTS - 2) * f.ppf(0.95, 2, PROMPTS - 2)  # Hotelling's
    assert turn @ np.diag([a**2, b**2]) @ turn.T / squared == pytest.approx(np.array(ellipse["covariance"]), rel=1e-5)


@pytest.mark.parametrize("prompts", [6, 24])
def test_an_ellipse_holds_the_truth_in_19_of_20(prompts: int) -> None:
    rng, held = stream("tests", "ellipse", prompts), 0
    bootstrap, evaluations = Bootstrap(prompts), 300
    for _ in range(evaluations):
        values = 5 + rng.normal(size=(prompts, 2)) @ np.array([[1.0, 0.5], [0.0, 0.7]])
        names = tuple(f"p{n}" for n in range(prompts))
        table = Table(("base",), names, ("speed", "looks"), values[None], np.ones(prompts))
        whole = curves(Plane(table, bootstrap, "speed", "looks", "higher", 0.9), [Variant("base")])
        assert whole is not None
        found = whole["points"][0]["ellipse"]
        x, y = np.array([5, 5]) - found["center"]
        cos, sin = np.cos(found["angle_rad"]), np.sin(found["angle_rad"])
        along, across = np.array([cos * x + sin * y, cos * y - sin * x]) / found["radii"]
        held += along**2 + across**2 <= 1
    # three standard errors around 0.95; with a normal's radii 6 prompts hold it in 0.89
    assert 0.912 <= held / evaluations <= 0.988


@pytest.mark.parametrize("sign", [1, -1])
def test_what_ships_keeps_its_motion(sign: int) -> None:
    found = made(plane(sign))
    assert {point["model"]: point["eligible"] for point in found["points"]} == {
        "base": True,
        "a@0.5": True,
        "a": True,
        "b@0.5": False,  # 80 %
        "b": False,
    }
    assert found["ship"]["model"] == "a" and found["ship"]["by_line"] == {"a": "a", "b": "base"}
    assert [point["model"] for point in found["points"] if point["ship"]] == ["a"]
    assert "85 %" in found["ship"]["rule"]
    strict = made(plane(sign, kept=1.0))
    assert strict["ship"]["model"] == "base" and strict["ship"]["sentence"].startswith("Ship nothing")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_cheaper_run_wins_at_equal_motion_and_at_equal_quality(sign: int) -> None:
    found = made(plane(sign))["matched"]
    assert len(found["motion"]) == len(found["quality"]) == 3
    for match in found["motion"]:
        # a reaches motion 1 - m at scale 10 m, b at scale 2.5 m: their qualities are 7.5 m apart
        lost = 1 - match["at"]
        assert match["difference"]["mean"] == pytest.approx(sign * 7.5 * lost, abs=0.15)
        assert "a is better than b" in match["sentence"]
    for match in found["quality"]:
        assert match["difference"]["mean"] == pytest.approx(0.3 * abs(match["at"]), abs=0.04)
        assert match["difference"]["low"] > 0


def test_equal_runs_are_not_told_apart() -> None:
    shown = plane()
    sums = shown.table.sums.copy()
    sums[3:] = sums[1:3]
    found = made(replace(shown, table=replace(shown.table, sums=sums)))["matched"]
    for match in found["motion"] + found["quality"]:
        assert match["difference"]["mean"] == match["difference"]["low"] == match["difference"]["high"] == 0
        assert "not told apart from" in match["sentence"]


def test_no_levels_are_compared_where_the_base_does_not_move() -> None:
    shown = plane()
    sums = shown.table.sums.copy()
    sums[0, :, 0] = 0
    found = made(replace(shown, table=replace(shown.table, sums=sums)))
    assert found["matched"] == {"motion": [], "quality": []}
    assert found["ship"]["model"] == "base"  # nobody's motion can be said to be kept


def test_a_polyline_is_read_at_its_best_crossing() -> None:
    along, value = np.array([[0.0, 2.0, 0.0]]), np.array([[0.0, 2.0, 6.0]])
    assert at_level(along, value, 1.0, "higher").tolist() == [4.0]
    assert at_level(along, value, 1.0, "lower").tolist() == [1.0]
    assert np.isnan(at_level(along, value, 3.0, "higher")).all()
    flat = np.array([[1.0, 1.0, 2.0]])
    assert at_level(flat, np.array([[4.0, 7.0, 0.0]]), 1.0, "higher").tolist() == [7.0]
    assert at_level(flat[:, ::-1], np.array([[0.0, 4.0, 7.0]]), 1.0, "higher").tolist() == [7.0]


def test_names_of_variants() -> None:
    from pathlib import Path

    found = list_variants({"r": Path("r")}, (0.0, 0.25, 1.0), {"r": {20: Path("c20"), 10: Path("c10")}})
    assert [(v.name, v.lora_scale, v.step) for v in found] == [
        ("base", 0.0, None),
        ("r@0.25", 0.25, None),
        ("r", 1.0, None),
        ("r#step-10", 1.0, 10),
        ("r#step-20", 1.0, 20),
    ]
    assert [(line.name, line.models) for line in list_lines(found)] == [
        ("r", ("base", "r@0.25", "r")),
        ("r, by step", ("base", "r#step-10", "r#step-20", "r")),
    ]
    assert list_lines(list_variants({"r": Path("r")}, None, {})) == []
