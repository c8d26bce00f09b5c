"""What a judge's confidence is worth: thresholds, monotone maps, what they do where they were not fitted, snapshots."""

from __future__ import annotations

import json
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from tests.unit.labels.conftest import PAIR_COLUMNS, Fill, event, pair_row

from densedpo.errors import LabelError
from densedpo.keys import stream
from densedpo.labels.accuracy.calibration import (
    Calibration,
    Curve,
    calibration_file,
    load_calibration,
    strength,
    weighted,
)
from densedpo.labels.accuracy.fit import (
    Sample,
    calibrate_judge,
    fit_sample,
    folds,
    held_out,
    monotone,
    tie_threshold,
)
from densedpo.labels.accuracy.text import calibration_lines
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent
from densedpo.labels.consensus import Consensus, of_pair
from densedpo.labels.snapshot import freeze, load_snapshot
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project
from densedpo.store.tables import write_table

NONE = np.array([], dtype=np.int64)
STATED = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def judged(pair_id: str, segment: int, answer: str | None, confidence: float | None, **changes: Any) -> AnswerEvent:
    known = {"source": "judge", "author": "m", "confidence": confidence, "settings_digest": "d"}
    return event(pair_id, segment, answer, **{**known, **changes})


def best_by_trying(strengths: list[float], said: list[int], truth: list[int]) -> int:
    """Return how many are right with the best threshold of all."""
    tried = [0.0, *(s + 1e-9 for s in strengths)]
    return max(
        sum((label if s >= t else 0) == true for s, label, true in zip(strengths, said, truth, strict=True))
        for t in tried
    )


@pytest.mark.parametrize("seed", range(20))
def test_no_other_threshold_is_right_more_often(seed: int) -> None:
    rng = stream("test thresholds", "threshold", seed)
    strengths = rng.choice(STATED, size=40)
    said, truth = rng.choice([-1, 1], size=40), rng.choice([-1, 0, 1], size=40)
    found = tie_threshold(strengths, said, truth)
    right = int((np.where(strengths >= found, said, 0) == truth).sum())
    assert right == best_by_trying(strengths.tolist(), said.tolist(), truth.tolist())


def test_a_threshold_lies_half_way_and_the_lowest_of_equals_is_taken() -> None:
    strengths, said = np.array([0.5, 0.6, 0.8, 0.9]), np.array([1, 1, 1, -1])
    assert tie_threshold(strengths, said, np.array([0, 0, 1, -1])) == pytest.approx(0.7)
    assert tie_threshold(strengths, said, said) == 0
    assert tie_threshold(strengths, said, -said) == 0  # wrong side: a tie is no better
    assert tie_threshold(strengths, said, np.zeros(4, dtype=np.int64)) > 0.9
    assert tie_threshold(np.array([]), NONE, NONE) == 0


def monotone_by_trying(values: list[float], weights: list[int]) -> float:
    """Return the least squared error of all ways to cut neighbours into blocks with nondecreasing means."""
    least = np.inf
    for cuts in product([False, True], repeat=len(values) - 1):
        blocks = np.cumsum([0, *cuts])
        means = [np.average(np.array(values)[blocks == b], weights=np.array(weights)[blocks == b]) for b in set(blocks)]
        if all(one <= other + 1e-12 for one, other in pairwise(means)):
            fitted = np.array(means)[blocks]
            least = min(least, float((np.array(weights) * (np.array(values) - fitted) ** 2).sum()))
    return least


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_no_other_monotone_map_fits_better(seed: int, increasing: bool) -> None:
    rng = stream("test thresholds", "monotone", seed)
    strengths = np.repeat(np.arange(7, dtype=np.float64), 10 + rng.integers(5, size=7))
    values = rng.integers(2, size=len(strengths)).astype(np.float64)
    curve = monotone(strengths, values, increasing=increasing)
    steps = np.diff(curve.y)
    assert (steps >= -1e-12).all() if increasing else (steps <= 1e-12).all()
    means = [float(values[strengths == level].mean()) for level in range(7)]
    weights = [int((strengths == level).sum()) for level in range(7)]
    fitted = curve.at(np.arange(7))
    error = float((np.array(weights) * (np.array(means) - fitted) ** 2).sum())
    order = 1 if increasing else -1
    assert error == pytest.approx(monotone_by_trying(means[::order], weights[::order]), abs=1e-9)


def test_no_end_of_a_map_rests_on_few_answers() -> None:
    strengths = np.array([0.5] * 30 + [0.9] * 3)
    curve = monotone(strengths, np.array([1.0, 0.0] * 15 + [1.0] * 3))
    assert len(curve.x) == 1 and curve.y[0] == pytest.approx(18 / 33)
    assert monotone(np.array([]), np.array([])).at([0.3]).tolist() == [0.0]
    many = monotone(np.arange(100.0), np.arange(100.0))
    assert len(many.x) == 10 and many.at([-5, 200]).tolist() == [4.5, 94.5]


def sample(pairs: int, seed: int, *, informative: bool = True) -> Sample:
    """Return a judge that is right with a probability that grows with its confidence, and boasts; a third are ties."""
    rng = stream("test thresholds", "sample", seed)
    size = pairs * 4
    stated = rng.choice(STATED, size=size)
    p = stated - 0.25 if informative else np.full(size, 0.5)
    truth = rng.choice([-1, 1], size=size)
    said = np.where(rng.uniform(size=size) < 0.5 + p / 2, truth, -truth)
    truth = np.where(rng.uniform(size=size) < np.where(stated < 0.65, 0.7, 0.1), 0, truth)
    return Sample(stated, said, truth, np.arange(size) // 4)


def test_pairs_are_dealt_to_folds_whole_and_always_alike() -> None:
    pairs = np.arange(100) // 4
    found = folds(pairs, "m")
    assert all(len(set(found[pairs == pair])) == 1 for pair in range(25))
    assert np.bincount(found).tolist() == [20] * 5
    assert folds(pairs, "m").tolist() == found.tolist() != folds(pairs, "n").tolist()
    mixed = stream("test thresholds", "mixed").permutation(100)
    assert folds(pairs[mixed], "m").tolist() == found[mixed].tolist()


def test_what_is_said_of_unseen_pairs_is_what_holds_for_new_ones() -> None:
    found = held_out(sample(300, 1), "m")
    gain, plain, weighed = (found[name] for name in ("gain_by_threshold", "label_plain", "label_weighted"))
    assert gain["low"] > 0.1  # two levels of confidence are mostly ties
    assert weighed["low"] > plain["high"]
    assert found["ece_calibrated"]["value"] < 2 * found["ece_by_chance"] < found["ece_stated"]["low"]
    fit, new = fit_sample(sample(300, 1)), sample(4000, 2)
    truly = float((np.where(new.strengths >= fit.threshold, new.said, 0) == new.truth).mean())
    assert found["with_ties_by_threshold"]["low"] < truly < found["with_ties_by_threshold"]["high"]
    weights = np.clip(fit.weight.at(new.strengths), 0, 1)
    assert weighed["low"] < float((weights * new.said * new.truth).sum() / weights.sum()) < weighed["high"]


def test_where_confidence_says_nothing_the_gain_is_not_claimed() -> None:
    rng = stream("test thresholds", "no information")
    size = 1200
    truth = rng.choice([-1, 0, 1], size=size, p=[0.4, 0.2, 0.4])
    said = np.where(rng.uniform(size=size) < 0.8, np.where(truth == 0, 1, truth), -1)
    pairs = np.arange(size) // 4
    found = held_out(Sample(rng.uniform(0.5, 1, size=size), said, truth, pairs), "m")
    assert found["gain_by_threshold"]["value"] < 0.01
    assert abs(found["label_weighted"]["value"] - found["label_plain"]["value"]) < 0.04


def gold_project(root: Project, pairs: int, **changes: Any) -> Project:
    """Fill a project with ``pairs`` pairs that judge m and people answered, the sample's way."""
    write_table(root.pairs_table, [pair_row(f"p{n:04d}") for n in range(pairs)], PAIR_COLUMNS)
    known, names = sample(pairs, 5), {1: "a", -1: "b", 0: "tie"}
    events = []
    for number in range(pairs * 4):
        pair_id, segment = f"p{number // 4:04d}", number % 4
        said, truth = names[int(known.said[number])], names[int(known.truth[number])]
        events.append(judged(pair_id, segment, said, float(known.strengths[number]), **changes))
        if number % 8 < 4:  # people answered every second pair
            events.append(event(pair_id, segment, truth))
    with LabelStore.open(root.label_store) as store:
        store.append(events)
    return root


def test_a_calibration_is_kept_applied_and_named_in_the_snapshot(project: Project) -> None:
    gold_project(project, 120)
    plain = load_snapshot(freeze(project, "judge").path)
    assert {abs(label or 0) for row in plain.rows.values() for label in row.segment_labels} == {1.0}
    assert "calibration" not in plain.metadata
    found = calibrate_judge(project, None, "people", 1.0)
    json.dumps(found, allow_nan=False)
    kept = load_calibration(project, "m", 1.0)
    assert kept is not None and kept.digest == found["digest"]
    assert (kept.answers, kept.pairs, kept.against) == (240, 60, "people")
    assert 0.6 < kept.threshold < 0.7
    weighed = load_snapshot(freeze(project, "judge").path)
    assert (weighed.metadata["calibration"], weighed.metadata["confidence"]) == (kept.digest, "calibrated")
    known = sample(120, 5)
    for number, level in enumerate(known.strengths.tolist()):
        row, segment = weighed.rows[f"p{number // 4:04d}"], number % 4
        label = row.segment_labels[segment]
        worth = min(1.0, float(kept.weight.at(level)))
        assert label == pytest.approx(0 if level < kept.threshold else known.said[number] * worth)
        assert (row.segment_answers[segment] == "tie") == (level < kept.threshold)
    without_ties = load_snapshot(freeze(project, "judge", confidence="weights").path)
    assert all(label for row in without_ties.rows.values() for label in row.segment_labels)
    stated = load_snapshot(freeze(project, "judge", confidence="stated").path)
    assert stated.metadata["calibration"] is None
    assert stated.rows["p0000"].segment_labels[0] == known.said[0] * known.strengths[0]
    assert load_snapshot(freeze(project, "judge", confidence="ignored").path).id == plain.id


def test_a_threshold_that_does_not_surely_help_is_not_used(project: Project) -> None:
    """Without strengths all preferences are kept or none; as ties they would be right a little more often here."""
    write_table(project.pairs_table, [pair_row(f"p{n:04d}") for n in range(40)], PAIR_COLUMNS)
    truth = ["a"] * 78 + ["tie"] * 82
    events = [judged(f"p{n % 40:04d}", n // 40, "a", None) for n in range(160)]
    with LabelStore.open(project.label_store) as store:
        store.append([*events, *(event(f"p{n % 40:04d}", n // 40, answer) for n, answer in enumerate(truth))])
    found = calibrate_judge(project, "m", "people", 1.0)
    assert found["threshold"] == 0
    labels = np.array([int(answer == "a") for answer in truth])
    assert tie_threshold(np.zeros(160), np.ones(160, dtype=np.int64), labels) > 0
    assert load_snapshot(freeze(project, "judge").path).rows["p0000"].segment_labels[0] == pytest.approx(78 / 160)


def test_weak_preferences_that_become_ties_are_counted_aloud(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    gold_project(project, 120)
    calibrate_judge(project, "m", "people", 1.0)
    capsys.readouterr()
    freeze(project, "judge")
    weak = int((sample(120, 5).strengths < 0.65).sum())
    assert f"{weak} of 480 preferences of m are too weak" in " ".join(capsys.readouterr().err.split())


def test_peoples_labels_do_not_change(project: Project) -> None:
    gold_project(project, 60)
    before = freeze(project, "person")
    calibrate_judge(project, "m", "people", 1.0)
    assert freeze(project, "person").id == freeze(project, "person", confidence="stated").id == before.id


def test_answers_given_with_other_settings_are_not_weighed_by_this_calibration(project: Project) -> None:
    gold_project(project, 60)
    calibrate_judge(project, "m", "people", 1.0)
    with LabelStore.open(project.label_store) as store:
        store.append([judged("p0000", 0, "a", 0.9, settings_digest="other")])
    with pytest.raises(LabelError, match=r"1 answers of m .* `densedpo label calibrate --judge m --against people`"):
        freeze(project, "judge")
    assert freeze(project, "judge", confidence="ignored").pairs == 60


def test_too_little_to_fit_says_how_much_is_needed(fill: Fill) -> None:
    project = fill([judged("p1", 0, "a", 0.9), event("p1", 0, "a")])
    with pytest.raises(LabelError, match=r"m: 1 of its preferences, in 1 pairs.*at least 50 in 20 pairs"):
        calibrate_judge(project, "m", "people", 1.0)
    with pytest.raises(LabelError, match="judge 'x' has given no answers to go by; there are those of m"):
        calibrate_judge(project, "x", "people", 1.0)
    fill([judged("p1", 0, "a", 0.9, author="n")])
    with pytest.raises(LabelError, match="several judges have answered: m, n; name one with --judge"):
        calibrate_judge(project, None, "people", 1.0)


def test_several_judges_are_never_mixed_silently(fill: Fill) -> None:
    project = fill([judged("p1", 0, "a", 0.9), judged("p1", 0, "b", 0.9, author="n"), event("p1", 1, "a")])
    with pytest.raises(LabelError, match=r"judges m and n, which are never mixed; name one author"):
        freeze(project, "judge")
    assert load_snapshot(freeze(project, "judge", author="n").path).rows["p1"].segment_labels[0] == -1
    assert load_snapshot(freeze(project, author="m").path).rows["p1"].segment_labels[0] == 1
    with pytest.raises(LabelError, match="no usable answers from judge by nobody"):
        freeze(project, "judge", author="nobody")


def test_a_damaged_calibration_is_refused(project: Project) -> None:
    gold_project(project, 60)
    calibrate_judge(project, "m", "people", 1.0)
    path = calibration_file(project, "m", 1.0)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "threshold": 0.99}))
    with pytest.raises(LabelError, match="damaged or of another version"):
        load_calibration(project, "m", 1.0)
    path.write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(LabelError, match="damaged or of another version"):
        load_calibration(project, "m", 1.0)
    assert load_calibration(project, "m", 0.5) is None


def curves(threshold: float = 0.0) -> Calibration:
    half, worth = Curve((0.0,), (0.5,)), Curve((0.0, 1.0), (-0.5, 1.5))
    return Calibration("m", 1.0, "people", ("d",), threshold, half, half, half, worth, 9, 9, {})


def test_weights_are_within_bounds_and_what_is_worth_nothing_is_a_tie() -> None:
    events = [judged("p1", 0, "a", 0.2), judged("p1", 1, "b", 0.9), judged("p1", 2, "b", 0.5), judged("p1", 3, None, 1)]
    events += [judged("p1", WHOLE_CLIP, "a", 0.1, end_s=4.0), judged("p2", 0, "tie", 0.3)]
    counted, weights = weighted(events, "weights", curves())
    assert [e.answer for e in counted] == ["tie", "b", "b", None, "a", "tie"]
    assert weights == {("p1", 1): 1.0, ("p1", 2): 0.5}
    counted, weights = weighted(events, "calibrated", curves(0.6))
    assert [e.answer for e in counted] == ["tie", "b", "tie", None, "a", "tie"]
    assert weighted(events, "calibrated", None) == (events, {})
    assert weighted(events, "ignored", curves(0.6)) == (events, {})
    said = [judged("p1", 0, "a", None), judged("p1", 1, "b", 0.0), judged("p1", WHOLE_CLIP, "a", 0.4, end_s=4.0)]
    counted, weights = weighted(said, "stated", curves(0.6))
    assert weights == {("p1", 0): 1.0, ("p1", WHOLE_CLIP): 0.4} and counted[1].answer == "tie"


def test_whole_clips_are_not_calibrated_and_it_is_said(project: Project) -> None:
    gold_project(project, 60)
    with LabelStore.open(project.label_store) as store:
        store.append([judged("p0000", WHOLE_CLIP, "a", 0.1, end_s=4.0)])
    found = calibrate_judge(project, "m", "people", 1.0)
    assert found["whole_clips"] == 1
    assert calibration_lines(found)[-1] == "1 answers about whole clips are not calibrated: they weigh 1"
    assert load_snapshot(freeze(project, "judge").path).rows["p0000"].clip_label == 1


def test_strength_is_confidence_or_margin() -> None:
    assert strength(judged("p", 0, "a", 0.7, raw='{"margin": 3}')) == 0.7
    assert strength(judged("p", 0, "a", None, raw='{"margin": -3.5}')) == 3.5
    assert strength(judged("p", 0, "tie", None, raw='{"margin": -0.5}')) == -0.5
    assert strength(judged("p", 0, "a", None, raw='{"margin": "much"}')) == 0
    assert strength(judged("p", 0, "a", None, raw="[")) == strength(judged("p", 0, "a", None)) == 0


def test_a_margin_is_calibrated_like_a_confidence(project: Project) -> None:
    gold_project(project, 120)
    with LabelStore.open(project.label_store) as store:
        events = [e for e in store.current() if e.source == "judge"]
        margins = [
            judged(
                e.pair_id, e.segment, e.answer, None, author="r", raw=json.dumps({"margin": 8 * (e.confidence or 0)})
            )
            for e in events
        ]
        store.append(margins)
    found = calibrate_judge(project, "r", "people", 1.0)
    assert 8 * 0.6 < found["threshold"] < 8 * 0.7
    assert found["report"]["ece_stated"]["value"] is None  # a margin is no probability
    assert found["report"]["ece_calibrated"]["value"] < 0.1


def test_a_clip_weighs_as_the_segments_that_agree_with_it() -> None:
    parts = {
        ("p", 0): Consensus("a", 1, {}, 0.9),
        ("p", 1): Consensus("a", 1, {}, 0.5),
        ("p", 2): Consensus("b", -1, {}, 1.0),
    }
    clip = of_pair(parts, "p", 3).clip
    assert clip is not None and (clip.answer, clip.label) == ("a", 1)
    assert clip.weight == pytest.approx(0.7)
    even = {("p", 0): Consensus("a", 1, {}, 0.3), ("p", 1): Consensus("b", -1, {}, 0.3)}
    balanced = of_pair(even, "p", 2).clip
    assert balanced is not None and (balanced.answer, balanced.label) == ("tie", 0)
