from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from tests.unit.labels.conftest import Fill, event

from densedpo.errors import LabelError
from densedpo.keys import stream
from densedpo.labels.audit import MIN_PAIRS_FOR_FINDING, AuditedPair, audit, audit_labels
from densedpo.labels.measures import Means, PairMeasures, SideMeasures

LEVEL = {"motion_px_s": 5.0, "brightness": 0.5, "saturation": 0.4, "sharpness": 0.1, "subject_share": 0.08}


def means(**changes: float | None) -> Means:
    return {**LEVEL, **changes}


def pair(
    name: str,
    labels: Sequence[float | None],
    *,
    clip: float | None = None,
    mode: str = "guided",
    a: Means | None = None,
    b: Means | None = None,
) -> AuditedPair:
    side_a, side_b = a or means(), b or means()
    measures: PairMeasures = {
        "a": SideMeasures(side_a, [side_a] * len(labels)),
        "b": SideMeasures(side_b, [side_b] * len(labels)),
    }
    return AuditedPair(name, mode, labels, clip, measures)


def planted(count: int, preferred_share: float, column: str, *, low: float, high: float) -> list[AuditedPair]:
    """Pairs whose side with ``low`` of ``column`` is preferred with a known probability, sides at random."""
    rng = stream("test", "planted", count, preferred_share)
    made = []
    for number in range(count):
        a_is_low = bool(rng.random() < 0.5)
        low_wins = bool(rng.random() < preferred_share)
        label = 1.0 if a_is_low == low_wins else -1.0
        values = (low, high) if a_is_low else (high, low)
        sides = [means(**{column: value}) for value in values]
        made.append(pair(f"p{number}", [label, None, 0.0], clip=label, a=sides[0], b=sides[1]))
    return made


def preference(found: dict[str, Any], level: str, key: str, group: str = "all") -> dict[str, Any]:
    chosen: dict[str, Any] = found["groups"][group][level]["preferences"][key]
    return chosen


def test_a_planted_preference_is_found_and_said() -> None:
    found = audit_labels(planted(300, 0.75, "motion_px_s", low=3.0, high=6.0))
    for level, word in (("segments", "segment"), ("clips", "clip")):
        slower = preference(found, level, "slower")
        assert slower["comparable"] == 300
        assert slower["share"]["low"] <= 0.75 <= slower["share"]["high"]
        assert slower["share"]["low"] > 0.5
        assert slower["finding"].startswith(f"labels prefer the slower {word}: ")
        assert slower["finding"].endswith(" of 300")
    assert {item["property"] for item in found["findings"]} == {"slower"}
    assert {item["group"] for item in found["findings"]} == {"all", "guided"}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("column", "key", "low_word", "high_word"),
    [
        ("motion_px_s", "slower", "slower", "faster"),
        ("subject_share", "larger", "smaller", "larger"),
        ("brightness", "brighter", "darker", "brighter"),
        ("sharpness", "sharper", "softer", "sharper"),
        ("saturation", "more_saturated", "less saturated", "more saturated"),
    ],
)
def test_the_side_is_named_for_every_property(column: str, key: str, low_word: str, high_word: str) -> None:
    for share, word in ((1.0, low_word), (0.0, high_word)):
        found = audit_labels(planted(40, share, column, low=0.3, high=0.6))
        assert preference(found, "clips", key)["finding"].startswith(f"labels prefer the {word} clip: 100 % [")
        others = set(found["properties"]) - {key}
        assert all(preference(found, "clips", other)["comparable"] == 0 for other in others)
        assert all(preference(found, "clips", other)["share"] is None for other in others)


def test_no_preference_is_not_said() -> None:
    found = audit_labels(planted(300, 0.5, "brightness", low=0.3, high=0.6))
    assert preference(found, "clips", "brighter")["share"] is not None
    assert found["findings"] == []


def test_few_pairs_are_measured_but_not_put_in_words() -> None:
    found = audit_labels(planted(MIN_PAIRS_FOR_FINDING - 1, 1.0, "motion_px_s", low=3.0, high=6.0))
    assert preference(found, "segments", "slower")["share"]["mean"] == 1.0
    assert found["findings"] == []


def test_differences_below_the_noise_floor_are_not_comparable() -> None:
    found = audit_labels(planted(50, 1.0, "motion_px_s", low=5.0, high=5.2))
    assert preference(found, "clips", "slower")["comparable"] == 0


def test_still_sides_and_missing_measures_are_not_comparable() -> None:
    pairs = [
        pair("p1", [1.0], clip=1.0, a=means(motion_px_s=0.0), b=means(motion_px_s=0.0)),
        pair("p2", [1.0], clip=1.0, a=means(motion_px_s=None)),
    ]
    assert preference(audit_labels(pairs), "segments", "slower")["comparable"] == 0


def test_large_gap_is_the_top_half() -> None:
    small = [pair(f"s{n}", [1.0], clip=1.0, a=means(motion_px_s=6.0), b=means(motion_px_s=5.0)) for n in range(10)]
    large = [pair(f"l{n}", [1.0], clip=1.0, a=means(motion_px_s=2.0), b=means(motion_px_s=9.0)) for n in range(12)]
    slower = preference(audit_labels(small + large), "clips", "slower")
    assert slower["share"]["mean"] == pytest.approx(12 / 22)
    assert slower["large_gap"]["from"] == pytest.approx(7.0)
    assert slower["large_gap"]["comparable"] == 12
    assert slower["large_gap"]["share"]["mean"] == 1.0


def test_ties_both_signs_and_contradictions() -> None:
    found = audit_labels(
        [
            pair("p1", [1.0, 1.0, -1.0, 0.0], clip=1.0),
            pair("p2", [1.0, None, 1.0, 1.0], clip=-1.0, mode="independent"),
            pair("p3", [-1.0, 0.0, 0.0, None], clip=0.0),
            pair("p4", [None] * 4, clip=1.0),
        ]
    )
    group = found["groups"]["all"]
    assert group["pairs"] == 4
    assert (group["segments"]["labelled"], group["segments"]["non_tie"]) == (10, 7)
    assert group["segments"]["ties"]["mean"] == pytest.approx(0.3)
    assert group["segments"]["ties"]["count"] == 3
    assert group["clips"]["ties"]["mean"] == pytest.approx(0.25)
    assert (group["both_signs"]["mean"], group["both_signs"]["count"]) == (pytest.approx(1 / 3), 3)
    assert group["contradicting_segments"]["mean"] == pytest.approx(4 / 6)
    assert found["groups"]["independent"]["contradicting_segments"] is None  # one pair has no interval
    assert set(found["groups"]) == {"all", "guided", "independent"}


def test_nothing_countable_is_null_and_no_crash() -> None:
    group = audit_labels([])["groups"]["all"]
    assert group["both_signs"] is None
    assert group["clips"]["ties"] is None


def test_swapping_sides_and_labels_changes_nothing() -> None:
    pairs = planted(60, 0.7, "motion_px_s", low=3.0, high=6.0)
    swapped = [
        AuditedPair(
            item.pair_id,
            item.mode,
            [None if label is None else -label for label in item.segment_labels],
            None if item.clip_label is None else -item.clip_label,
            {"a": item.measures["b"], "b": item.measures["a"]},
        )
        for item in pairs
    ]
    assert audit_labels(swapped) == audit_labels(pairs)


def test_audit_without_answers_or_videos(fill: Fill) -> None:
    project = fill([])
    with pytest.raises(LabelError, match="no usable answers"):
        audit(project)
    with pytest.raises(LabelError, match="no labelled pair can be measured"):
        audit(fill([event("p1", 0, "a")]))
