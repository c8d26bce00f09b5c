"""Agreement against published numbers, with intervals, and undefined where it is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tests.unit.labels.conftest import Fill, event

from densedpo.errors import LabelError
from densedpo.keys import stream
from densedpo.labels.agreement import agreement, agreement_of, lines
from densedpo.labels.answers import Answer, AnswerEvent
from densedpo.labels.dawid_skene import posteriors
from densedpo.labels.gold import write_gold
from densedpo.labels.quality import people_quality
from densedpo.labels.reliability import Level, alpha_of, cohen, krippendorff, median, share
from densedpo.labels.rules import decider, gold_weights
from densedpo.labels.snapshot import freeze, load_snapshot

# The example of Krippendorff (2011), "Computing Krippendorff's alpha-reliability": four observers, twelve units.
TABLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]


def published() -> dict[tuple[str, int], list[int]]:
    return {(f"u{unit}", 0): [row[unit] - 1 for row in TABLE if row[unit]] for unit in range(12)}


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_is_the_published_one(level: Level, alpha: float) -> None:
    found = krippendorff(published(), 5, level)
    assert found.value == pytest.approx(alpha, abs=5e-4)
    assert found.n == 11  # one unit has a single observer
    assert found.low is not None and found.high is not None
    assert found.low < alpha < found.high <= 1


def test_alpha_of_chance_is_about_zero_and_its_interval_holds_it() -> None:
    rng = stream("test", "alpha")
    units = {(f"p{number // 4}", number): [int(rng.integers(3)), int(rng.integers(3))] for number in range(1200)}
    found = krippendorff(units, 3, "nominal")
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low < 0 < found.high
    assert abs(found.value) < 0.08


def test_undefined_says_why() -> None:
    same = {(f"p{number}", 0): [1, 1] for number in range(9)}
    assert krippendorff(same, 3, "nominal").undefined == (
        "because all answers are the same, so nothing shows whether agreement is more than habit"
    )
    assert krippendorff({("p", 0): [1]}, 3, "nominal").undefined == "because nothing was answered by two people"
    assert krippendorff({("p", 0): [1, 2], ("p", 1): [1, 1]}, 3, "ordinal").undefined is not None
    assert cohen([], 3).undefined == "because they answered nothing in common"
    assert cohen([("p", 1, 1), ("q", 1, 1)], 3).undefined == "because both gave one and the same answer throughout"
    assert share([], [], "answers").undefined == "because there are no answers"
    assert median([], "timed answers").value is None
    assert alpha_of(np.zeros((3, 3)), "nominal") is None


def test_kappa_of_a_known_table() -> None:
    counts = {(0, 0): 20, (0, 1): 5, (1, 0): 10, (1, 1): 15}
    pairs = [(f"p{one}{other}{n}", one, other) for (one, other), count in counts.items() for n in range(count)]
    found = cohen(pairs, 2)
    assert found.value == pytest.approx(0.4)
    assert found.low is not None and found.high is not None
    assert 0.1 < found.low < 0.4 < found.high < 0.7


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = stream("test", "coverage")
    held = 0
    for _ in range(60):
        truth = rng.integers(2, size=300)
        flips = [rng.uniform(size=300) < 0.2 for _ in range(2)]
        said = [np.where(flip, 1 - truth, truth) for flip in flips]
        found = cohen([(f"p{n // 3}", int(said[0][n]), int(said[1][n])) for n in range(300)], 2)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.36 <= found.high  # (1 - 2 * 0.2) ** 2
    assert held >= 52


def panel(pairs: int, rights: dict[str, float], task: str = "work") -> list[AnswerEvent]:
    """Return answers of people who are right with the given probability; the truth of pair n is a, b or tie in turn."""
    rng = stream("test", "panel", pairs, task)
    truth: list[Answer] = ["a", "b", "tie"]
    events = []
    for number, (author, right) in product(range(pairs), rights.items()):
        true = truth[number % 3]
        answer = true if rng.uniform() < right else truth[(number + 1 + int(rng.integers(2))) % 3]
        shown = "a" if rng.uniform() < 0.5 else "b"
        events.append(event(f"p{number}", 0, answer, author=author, task=task, shown_first=shown, dwell_s=2.0))
    return events


def test_report_over_people_and_judges() -> None:
    judge = [
        event(f"p{number}", 0, "a" if number % 3 == 0 else "b", source="judge", author="m") for number in range(60)
    ]
    found = agreement_of([*panel(60, {"ann": 0.9, "bob": 0.9, "eve": 0.4}), *judge], {}, 1.0)
    alpha = {item["name"]: item["value"] for item in found["agreement"]}
    assert 0.2 < alpha["Krippendorff's alpha, nominal"] < 0.7
    kappas = {tuple(item["people"]): item["value"] for item in found["couples"]}
    assert kappas["ann", "bob"] > max(kappas["ann", "eve"], kappas["bob", "eve"])
    assert found["answered_by_several"] == 60
    assert [item["name"] for item in found["against_judges"]] == [
        "m: Cohen's kappa", "m: same side, ties left out"]  # fmt: skip
    assert found["against_judges"][1]["value"] > 0.8
    assert any(line.startswith("ann and bob: Cohen's kappa: 0.") for line in lines(found))
    assert any("undefined because" in line for line in lines(found))


def test_one_person_agrees_with_nobody() -> None:
    found = agreement_of(panel(5, {"ann": 1.0}), {}, 1.0)
    assert {item["undefined"] for item in found["agreement"]} == {"because fewer than two people have answered"}


def test_flags_name_what_is_odd() -> None:
    gold: dict[str, dict[int, Answer]] = {f"p{number}": {0: "a"} for number in range(100)}

    def flags(answers: list[AnswerEvent]) -> tuple[str, ...]:
        (person,) = people_quality(answers, gold)
        return person.flags

    good = panel(90, {"ann": 0.9})
    assert flags(good) == ()
    fast = [event(f"p{n}", 0, "ab"[n % 2], dwell_s=0.2, shown_first="ab"[n // 2 % 2]) for n in range(200)]
    assert flags(fast) == ("too fast",)
    key = [event(f"p{n}", 0, "ab"[n % 2], dwell_s=2.0, shown_first="ab"[n % 2]) for n in range(200)]
    assert flags(key) == ("same key", "one-sided")
    wrong = [event(f"p{n}", 0, "b", task="gold", shown_first="ab"[n % 2]) for n in range(30)]
    assert flags(wrong) == ("gold",)
    fickle = [event(f"p{n}", 0, "tie", task=task) for n in range(30) for task in ("work",)]
    fickle += [event(f"p{n}", 0, "both_bad", task="repeat") for n in range(30)]
    assert flags(fickle) == ("inconsistent",)
    offered = [event(f"p{n}", 0, "tie", offered=True, dwell_s=0.1) for n in range(200)]
    assert flags(offered) == ()


def test_repeats_and_gold_are_measured_apart_from_votes() -> None:
    events = panel(30, {"ann": 1.0}) + panel(30, {"ann": 0.5}, "repeat") + panel(30, {"ann": 0.8}, "gold")
    truth: list[Answer] = ["a", "b", "tie"]
    (person,) = people_quality(events, {f"p{n}": {0: truth[n % 3]} for n in range(30)})
    assert person.gold.n == person.self_consistency.n == 30
    assert person.gold.value == pytest.approx(0.8, abs=0.2)
    assert person.self_consistency.value == pytest.approx(0.5, abs=0.25)


def test_dawid_skene_finds_the_truth_that_a_majority_misses() -> None:
    rng = stream("test", "dawid")
    truth = [number % 2 for number in range(200)]
    right = {"good": 0.95, "fine": 0.9, "bad1": 0.45, "bad2": 0.45, "bad3": 0.45}
    votes = {
        (f"p{n}", 0): {name: true if rng.uniform() < p else 1 - true for name, p in right.items()}
        for n, true in enumerate(truth)
    }
    found = posteriors(votes, 2)
    solved = np.mean([int(np.argmax(found[f"p{n}", 0])) == true for n, true in enumerate(truth)])
    majority = np.mean([(sum(votes[f"p{n}", 0].values()) > 2) == true for n, true in enumerate(truth)])
    assert solved >= 0.9 > majority
    assert all(posterior.sum() == pytest.approx(1) for posterior in found.values())


def test_dawid_skene_refuses_where_no_two_people_answered_the_same() -> None:
    """Its estimate would call these twelve preferences ties: one vote a question tells habits from truth by nothing."""
    counts: dict[Answer, int] = {"a": 6, "b": 6, "tie": 28}
    said = [answer for answer, count in counts.items() for _ in range(count)]
    alone = [event(f"p{number}", 0, answer, author="ann") for number, answer in enumerate(said)]
    with pytest.raises(LabelError, match="no segment was answered by two people"):
        decider("dawid_skene", {})(alone)
    shared = [*alone, *(event(one.pair_id, 0, one.answer, author="bob") for one in alone if one.answer)]
    assert sum(found.label != 0 for found in decider("dawid_skene", {})(shared).values()) == 12


def test_rules_differ_where_they_should() -> None:
    votes = [event(answer="b", author="bob"), event(answer="b", author="eve"), event(answer="a", author="ann")]
    review = [event(answer="tie", author="rev", task="review")]
    accuracy = {"ann": (19, 20), "bob": (8, 20), "eve": (8, 20)}
    question = ("p1", 0)
    assert decider("majority", {})(votes + review)[question].answer == "b"
    assert decider("reviewer", {})(votes + review)[question].answer == "tie"
    assert decider("reviewer", {})(votes)[question].answer == "b"
    weighted = decider("gold_weighted", accuracy)(votes)[question]
    assert (weighted.answer, weighted.label, weighted.votes) == ("a", 1, {"a": 1, "b": 2})
    assert decider("dawid_skene", {})(votes)[question].answer == "b"
    nobody = [event(answer="cannot_judge")]
    for rule in ("majority", "reviewer", "gold_weighted", "dawid_skene"):
        assert decider(rule, accuracy)(nobody)[question].answer == "cannot_judge"
    assert gold_weights(accuracy, {"new"})["new"] == pytest.approx(np.log(2 * 36 / 26))
    with pytest.raises(LabelError, match="nobody has answered"):
        decider("gold_weighted", {})
    with pytest.raises(LabelError, match="unknown"):
        decider("loudest", {})


def test_freeze_leaves_flagged_people_out_and_says_so(fill: Fill) -> None:
    fast = [event(pair, n, "b", author="bob", dwell_s=0.1, task="gold") for pair in ("p1", "p2") for n in range(4)]
    fast += [event(pair, n, "b", author="bob", dwell_s=0.1) for pair in ("p1", "p2", "p3") for n in range(4)]
    project = fill([event(answer="a", dwell_s=3.0), *fast])
    frozen = freeze(project)
    assert frozen.left_out == ("bob",)
    snapshot = load_snapshot(frozen.path)
    assert snapshot.metadata["left_out"] == ["bob"]
    assert "too fast" in snapshot.metadata["left_out_rule"]
    assert set(snapshot.rows) == {"p1"}
    kept = freeze(project, rule="majority", keep_flagged=True)
    assert set(load_snapshot(kept.path).rows) == {"p1", "p2", "p3"}
    assert kept.id != frozen.id


def test_freeze_by_gold_accuracy(fill: Fill) -> None:
    known = [event("p2", n, "a") for n in range(4)]
    good = [event("p2", n, "a", author="ann", task="gold") for n in range(4)]
    poor = [event("p2", n, "ab"[n % 2], author=author, task="gold") for author in ("bob", "eve") for n in range(4)]
    votes = [event(answer="a", author="ann"), event(answer="b", author="bob"), event(answer="b", author="eve")]
    project = fill([*good, *poor, *votes])
    write_gold(project, known)
    weighted = freeze(project, rule="gold_weighted")
    assert load_snapshot(weighted.path).rows["p1"].segment_labels[0] == 1.0
    assert load_snapshot(freeze(project, rule="majority").path).rows["p1"].segment_labels[0] == -1.0
    found = agreement(project, 1.0)
    assert {person["author"]: person["gold"]["value"] for person in found["people"]} == {
        "ann": 1.0, "bob": 0.5, "eve": 0.5}  # fmt: skip
