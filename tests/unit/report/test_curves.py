"""The plane of quality against motion, and which models stand for an evaluation with many variants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from densedpo.keys import stream
from densedpo.report.curves import curve_figure, ellipse_path
from densedpo.report.drawn import draw
from densedpo.report.evaluation import Evaluation
from densedpo.report.looks import look_of

INFO = {
    "artifact": {"label": "artifacts", "unit": "", "better": "lower", "sentence": ""},
    "dynamic_degree": {"label": "motion", "unit": "px/s", "better": "neither", "sentence": "", "is_motion": True},
}
VARIANTS = (("base", None, 0.0, None), ("dense@0.5", "dense", 0.5, None), ("dense", "dense", 1.0, None))
STEPS = (("dense#step-50", "dense", 1.0, 50), ("vanilla", "vanilla", 1.0, None))


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "count": 6}


def evaluation(variants: tuple[tuple[str, str | None, float, int | None], ...], ship: str = "base") -> Evaluation:
    models = [{"name": name, "run": run, "lora_scale": scale, "step": step} for name, run, scale, step in variants]
    points = [
        {
            **entry,
            "model": entry["name"],
            "motion": interval(4.0 - place),
            "quality": interval(0.5 - 0.1 * place),
            "ellipse": None,
            "paired_ellipse": {"center": [4.0 - place, 0.5], "radii": [0.2, 0.1], "angle_rad": 0.3} if place else None,
            "ship": entry["name"] == ship,
        }
        for place, entry in enumerate(models)
    ]
    scaled = [name for name, run, _, step in variants if step is None and run in (None, "dense")]
    lines = [{"name": "dense", "run": "dense", "by": "scale", "models": scaled}] if len(scaled) > 2 else []
    each = {score: interval(1.0) for score in INFO}
    names = [name for name, _, _, _ in variants]
    summary: dict[str, Any] = {
        "models": models,
        "prompts": [],
        "seeds": [0],
        "scores": dict.fromkeys(names, each),
        "differences": dict.fromkeys(names[1:], each),
        "score_info": INFO,
        "quality": "artifact",
        "curves": {
            "motion": "dynamic_degree",
            "quality": "artifact",
            "better": "lower",
            "points": points,
            "lines": lines,
            "ship": {"model": ship, "motion_kept": 0.9, "rule": "", "sentence": "", "by_line": {}},
            "matched": {"motion": [], "quality": []},
        },
    }
    return Evaluation("held-out", summary, [], "")


def test_an_ellipse_holds_what_its_covariance_says() -> None:
    angle, radii, center = 0.7, (3.0, 1.0), (2.0, -1.0)
    x, y = (np.asarray(found) for found in ellipse_path({"center": center, "radii": radii, "angle_rad": angle}))
    along = (x - center[0]) * math.cos(angle) + (y - center[1]) * math.sin(angle)
    across = -(x - center[0]) * math.sin(angle) + (y - center[1]) * math.cos(angle)
    np.testing.assert_allclose((along / radii[0]) ** 2 + (across / radii[1]) ** 2, 1.0)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    drawn = stream("test", "ellipse").normal(size=(20_000, 2)) * np.array(radii) / 2.447747 @ rotation.T
    inside = ((drawn @ rotation / np.array(radii)) ** 2).sum(axis=1) < 1
    assert abs(inside.mean() - 0.95) < 0.01


def test_the_plane_has_every_point_once_and_a_ring_around_the_one_to_ship() -> None:
    figure = curve_figure(evaluation((*VARIANTS, *STEPS), ship="dense"), 0)
    assert figure is not None
    marked = [trace for trace in figure.data if "markers" in trace["mode"] and trace["name"] != "to ship"]
    assert sorted(name for trace in marked for name in trace["hovertext"]) == sorted(
        {name for trace in marked for name in trace["hovertext"]}
    )
    assert sum(len(trace["x"]) for trace in marked) == 5
    (ring,) = [trace for trace in figure.data if trace.get("name") == "to ship"]
    assert ring["x"] == [2.0]
    assert figure.layout["yaxis"]["autorange"] == "reversed"
    assert figure.layout["shapes"][0]["x0"] == 0.9 * 4.0  # nine tenths of the base's motion


def test_of_many_scores_motion_and_those_with_a_direction_are_drawn() -> None:
    found = evaluation(VARIANTS)
    for place in range(9):
        better = "neither" if place % 2 else "higher"
        found.summary["score_info"] = {
            **found.summary["score_info"],
            f"s{place}": {"label": "", "unit": "", "sentence": "", "better": better},
        }
    assert len(found.info) == 11
    assert list(found.main_info) == ["dynamic_degree", "artifact", "s0", "s2", "s4", "s6"]
    assert list(evaluation(VARIANTS).main_info) == ["dynamic_degree", "artifact"]


def test_nothing_to_ship_has_no_ring_and_one_point_has_no_plane() -> None:
    figure = curve_figure(evaluation(VARIANTS), 0)
    assert figure is not None
    assert "to ship" not in [trace.get("name") for trace in figure.data]
    assert curve_figure(evaluation(VARIANTS[:1]), 0) is None
    old = evaluation(VARIANTS)
    del old.summary["curves"]
    assert curve_figure(old, 0) is None
    assert [figure.id for figure in draw(old, 0).figures] == ["differences-0", "plane-0-0"]


def test_variants_do_not_crowd_the_tables_and_share_their_runs_colour() -> None:
    found = evaluation((*VARIANTS, *STEPS))
    assert found.main_models == ["base", "dense", "vanilla"]
    assert evaluation((*VARIANTS, *STEPS), ship="dense@0.5").main_models == ["base", "dense@0.5", "dense", "vanilla"]
    looks = [look_of(found, name) for name in ("dense", "dense@0.5", "dense#step-50")]
    assert len({(look.colour, look.symbol, look.number) for look in looks}) == 1
    assert [look.marker for look in looks] == ["circle", "circle-open", "circle-open"]
    assert look_of(found, "dense") != look_of(found, "vanilla") != look_of(found, "base")
    only_variants = evaluation((VARIANTS[0], VARIANTS[1], STEPS[0]))
    assert only_variants.main_models == ["base", "dense@0.5", "dense#step-50"]
