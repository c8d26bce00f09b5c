"""The small pure parts of the report: words, smoothing, choice of pairs, escaping, figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densedpo.report.audit import parse_audit
from densedpo.report.evaluation import Evaluation
from densedpo.report.evaluation_plots import difference_figure, plane_figures
from densedpo.report.headlines import findings
from densedpo.report.pairs import choose
from densedpo.report.plots import audit_figure, escape
from densedpo.report.render import page_json
from densedpo.report.text import bracket, counted, estimate, listed, number, p_value, signed_estimate, verdict
from densedpo.report.training import moving_mean, read_runs, window_of
from densedpo.report.training_plots import training_figures
from densedpo.store.files import write_text
from densedpo.store.project import Project


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "count": 9}


@pytest.mark.parametrize(
    ("value", "written"), [(0.0, "0"), (None, "–"), (-0.0522, "−0.0522"), (5.3, "5.30"), (1234.0, "1,234")]
)
def test_numbers_are_short(value: float | None, written: str) -> None:
    assert number(value) == written


def test_estimates_carry_the_digits_their_interval_supports() -> None:
    found = interval(-0.00593, -0.118, 0.098)
    assert (signed_estimate(found), bracket(found)) == ("−0.01", "[−0.12, 0.10]")
    assert estimate(interval(5.304, 3.67, 7.29)) == "5.3"
    assert signed_estimate(interval(0.02171, 0.0121, 0.0348)) == "+0.022"
    assert estimate(interval(1.0, 1.0, 1.0)) == "1.000"


@pytest.mark.parametrize(
    ("found", "better", "said"),
    [
        (interval(-0.1, -0.2, -0.01), "lower", "better"),
        (interval(-0.1, -0.2, -0.01), "higher", "worse"),
        (interval(0.1, 0.01, 0.2), "higher", "better"),
        (interval(0.1, 0.0, 0.2), "higher", "not told apart"),
        (interval(0.1, 0.01, 0.2), "neither", "higher"),
        (interval(0.1, -0.1, 0.2), "lower", "not told apart"),
    ],
)
def test_a_verdict_needs_an_interval_off_zero(found: dict[str, float], better: str, said: str) -> None:
    assert verdict(found, better) == said


def test_words_for_counts_and_lists() -> None:
    assert (counted(1, "pair"), counted(2400, "pair")) == ("1 pair", "2,400 pairs")
    assert [listed(names) for names in ([], ["a"], ["a", "b", "c"])] == ["", "a", "a, b and c"]


def test_moving_mean_is_the_plain_one() -> None:
    values = np.arange(20.0) ** 2
    expected = [values[max(0, place - 3) : place + 4].mean() for place in range(20)]
    np.testing.assert_allclose(moving_mean(values, 7), expected)
    np.testing.assert_allclose(moving_mean(values, 1), values)
    assert all(window_of(steps) % 2 == 1 for steps in range(1, 300))


def rows_of(modes: str) -> list[dict[str, Any]]:
    names = {"g": "guided", "i": "independent"}
    return [{"pair_id": f"{place:03d}", "mode": names[mode]} for place, mode in enumerate(modes)]


def test_pairs_are_chosen_half_and_half_whatever_their_order() -> None:
    rows = rows_of("gi" * 20)
    chosen, rule = choose(rows, set())
    assert [row["mode"] for row in chosen] == ["guided"] * 6 + ["independent"] * 6
    assert choose(rows[::-1], set())[0] == chosen
    assert "The first 12 of 40 pairs by a hash" in rule
    assert "half" in rule


def test_one_mode_or_few_pairs_are_all_shown_and_labelled_ones_come_alone() -> None:
    assert len(choose(rows_of("g" * 20), set())[0]) == 12
    chosen, rule = choose(rows_of("gggii"), {"001", "004"})
    assert {row["pair_id"] for row in chosen} == {"001", "004"}
    assert "2 labelled pairs" in rule
    assert choose([], set())[0] == []


def test_json_in_the_page_cannot_close_its_element() -> None:
    value = {"name": "</script><!--&\u2028", "number": 1.5}
    written = str(page_json(value))
    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == value


def test_plot_text_is_never_markup() -> None:
    assert escape('<a href="x">%{y}') == '&lt;a href="x"&gt;%&#123;y}'


def log(project: Project, name: str, rows: list[dict[str, Any]], tail: str = "") -> None:
    write_text(project.run(name) / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows) + tail)


def test_runs_draw_what_they_logged_and_nothing_else(tmp_path: Path) -> None:
    project = Project(tmp_path)
    log(project, "sft", [{"step": step, "loss": 1.0 / step, "grad_norm": 1.0} for step in range(1, 50)], '{"step": 5')
    log(project, "empty", [])
    runs = read_runs(project)
    assert [(run.name, run.steps) for run in runs] == [("sft", 49)]
    assert {figure.id for figure, _ in training_figures(runs)} == {"train-loss", "train-grad_norm"}
    assert runs[0].last("rewards/margins") is None


def test_held_out_points_are_not_smoothed(tmp_path: Path) -> None:
    project = Project(tmp_path)
    log(project, "run", [{"step": step, "loss": step % 2, "eval/loss": step % 2} for step in range(1, 101)])
    (run,) = read_runs(project)
    assert run.series["eval/loss"].smooth == run.series["eval/loss"].raw
    assert run.series["loss"].smooth != run.series["loss"].raw


def share(mean: float, low: float, high: float, finding: str | None) -> dict[str, Any]:
    found = interval(mean, low, high)
    return {"comparable": 40, "share": found, "large_gap": {"share": found}, "finding": finding}


def audit_of(*modes: str) -> dict[str, Any]:
    level = {
        "ties": interval(0.4, 0.3, 0.5),
        "preferences": {
            "brighter": share(0.3, 0.2, 0.4, "darker"),
            "slower": share(0.74, 0.69, 0.79, "slower"),
            "larger": share(0.5, 0.4, 0.6, None),
        },
    }
    group = {"segments": level, "clips": level, "both_signs": None, "contradicting_segments": interval(0.1, 0.0, 0.2)}
    opposites = {"brighter": "darker", "slower": "faster", "larger": "smaller"}
    return {
        "properties": {side: {"side": side, "opposite": other} for side, other in opposites.items()},
        "groups": dict.fromkeys(("all", *modes), group),
    }


def test_the_audit_says_which_way_the_labels_lean() -> None:
    audit = parse_audit(audit_of("guided", "independent"))
    assert dict(audit.leans["segments"])["guided"] == (
        "labels lean towards the slower (74 % [69, 79]) and darker (70 % [60, 80]) side."
    )
    assert [figure.sentence[:6] for figure in audit.figures] == [
        "of the",
        "of the",
    ]  # no share for both signs: left out
    figure = audit_figure(audit.biases, "segments", "Segment answers")
    assert [trace["name"] for trace in figure.data] == ["independent pairs", "guided pairs"]
    assert figure.layout["yaxis"]["ticktext"] == ["slower", "larger", "brighter"]


def test_an_audit_without_known_modes_shows_all_pairs() -> None:
    audit = parse_audit(audit_of("imported"))
    assert [mode for mode, _ in audit.leans["clips"]] == ["all"]
    assert len(audit_figure(audit.biases, "clips", "Clips").data) == 1


def evaluation(models: list[str]) -> Evaluation:
    info = {
        "artifact": {"label": "Artifacts", "unit": "", "better": "lower", "sentence": ""},
        "dynamic_degree": {"label": "Motion", "unit": "px/s", "better": "neither", "sentence": "", "is_motion": True},
    }
    each = {score: interval(1.0, 0.5, 1.5) for score in info}
    summary = {
        "models": [{"name": model} for model in models],
        "prompts": [],
        "seeds": [0],
        "scores": dict.fromkeys(models, each),
        "differences": dict.fromkeys(models[1:], each),
        "score_info": info,
    }
    return Evaluation("held-out", summary, [], "")


def test_motion_comes_first_and_better_is_always_right_and_up() -> None:
    found = evaluation(["base", "<b>dense"])
    assert list(found.info) == ["dynamic_degree", "artifact"]
    layout = difference_figure(found, 0).layout
    assert layout["xaxis"]["range"][0] < 0 < layout["xaxis"]["range"][1]
    assert layout["xaxis2"]["range"][0] > 0 > layout["xaxis2"]["range"][1]
    (plane,) = plane_figures(found, 0)
    assert plane.layout["yaxis"]["autorange"] == "reversed"
    assert "<b>" not in json.dumps([trace["name"] for trace in plane.data])


def test_headlines_of_several_evaluations_say_whose_they_are() -> None:
    found = evaluation(["base", "dense"])
    (one,) = findings(None, [found])
    assert (one.title, one.value, one.interval) == ("dense: worse", "+1.0", "[0.5, 1.5]")
    assert one.sentence == "artifacts (lower is better), dense minus base: worse than base."
    assert [one.title for one in findings(None, [found, found])] == ["dense in held-out: worse"] * 2


def test_sizes_with_a_zero_are_said_in_per_cent_of_the_base_with_motion_beside() -> None:
    found = evaluation(["base", "dense"])
    found.summary["scores"] = {"base": dict.fromkeys(found.info, interval(0.004, 0.003, 0.005))}
    found.summary["differences"] = {
        "dense": {"artifact": interval(-0.00004, -0.000068, -0.000012), "dynamic_degree": interval(-0.1, -0.3, 0.1)}
    }
    found.summary["ratios"] = {"dense": dict.fromkeys(found.info, interval(0.96, 0.94, 0.98))}
    found.summary["overall"] = {"dense": {"verdict": "better"}}
    (one,) = findings(None, [found])
    assert (one.title, one.value, one.interval, one.tone) == ("dense: better", "−1.0 %", "[−1.7, −0.3]", "good")
    assert "−0.000040 [−0.000068, −0.000012]: better than base" in one.sentence
    assert one.beside.startswith("Motion: 96 % [94, 98] of base's, −0.10 px/s")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (interval(0.0015, -0.00001, 0.003), "0.00150 [−0.00001, 0.00300]"),  # a bound's side of 0 is never lost
        (interval(0.0, 0.0, 0.0), "0 [0, 0]"),
        (interval(1e-9, 0.0, 2e-9), "0 [0, 0]"),
        (interval(-1e-9, -2e-9, 1.0), "0.00 [0.00, 1.00]"),  # nor is a zero ever below zero
    ],
)
def test_bounds_beside_zero(given: dict[str, float], written: str) -> None:
    assert f"{estimate(given)} {bracket(given)}" == written


def test_p_values_say_no_more_than_anybody_needs() -> None:
    assert [p_value(p) for p in (None, 0.0123, 0.456, 1.0)] == ["–", "0.012", "0.46", "1.00"]
    assert p_value(4.8e-7) == "<\N{NO-BREAK SPACE}0.001"


def test_an_evaluation_of_the_base_alone_has_no_differences_to_draw() -> None:
    assert difference_figure(evaluation(["base"]), 0).data == []


def test_a_share_from_too_few_pairs_is_not_called_a_lean() -> None:
    raw = audit_of("guided")
    raw["groups"]["guided"]["segments"]["preferences"] = {"slower": share(0.92, 0.73, 1.0, None)}
    audit = parse_audit(raw)
    assert dict(audit.leans["segments"])["guided"] == "too few pairs to speak of a lean."
    (finding,) = findings(audit, [])
    assert finding.tone == "open"
    assert finding.sentence == (
        "of 40 winning segments in guided pairs are on the slower side: too few pairs to speak of a lean."
    )
