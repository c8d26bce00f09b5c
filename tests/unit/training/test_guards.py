"""The guards on recorded runs: the right alarm within 50 steps of the fault, none on runs that went well."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from densedpo.keys import stream
from densedpo.training.guards import Alarm, EarlyStopping, Guards, winner_share

CURVES = Path(__file__).parents[2] / "data" / "curves"
HEALTHY = sorted(path.stem for kind in ("healthy", "noisy") for path in CURVES.glob(f"{kind}-*.jsonl"))
WITHIN_STEPS = 50
Row = dict[str, float]


def recorded(name: str) -> list[Row]:
    return [json.loads(line) for line in (CURVES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def watch(rows: Sequence[Row], max_steps: int | None = None, warmup_steps: int = 20) -> list[Alarm]:
    guards = Guards(max_steps or len(rows), warmup_steps)
    return [alarm for row in rows for alarm in guards.watch(row)]


def steps_of(alarms: Iterable[Alarm], name: str) -> list[int]:
    return [alarm.step for alarm in alarms if alarm.name == name]


def steady(count: int = 150, **changes: float) -> list[Row]:
    """Rows of a run on which nothing happens: all near the middle of what is healthy."""
    row = {
        "loss": 0.6, "grad_norm": 2.0, "rewards/accuracies": 0.7, "reference_winner_error": 0.2, "winner_change": 0.0,
        "loser_change": 0.002, "loser_dominant_ratio": 0.3, "z_median_abs": 0.4, "z_saturated_share": 0.01,
        "non_tie_frames": 80.0,
    }  # fmt: skip
    return [{"step": step} | row | changes for step in range(1, count + 1)]


def changed(rows: list[Row], where: range, **changes: float) -> list[Row]:
    """Rows with ``changes`` at the steps in ``where``; ``_`` stands for ``/`` in a name."""
    names = {name.replace("probe_", "probe/").replace("eval_", "eval/").replace("rewards_", "rewards/"): value
             for name, value in changes.items()}  # fmt: skip
    return [row | names if row["step"] in where else row for row in rows]


def test_there_are_enough_healthy_runs() -> None:
    assert len(HEALTHY) >= 5


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_raise_no_alarm(name: str) -> None:
    assert watch(recorded(name)) == []


@pytest.mark.parametrize(
    ("name", "warmup_steps", "fault", "alarm"),
    [
        ("sick-beta-100", 20, 20, "loser_dominant"),
        ("sick-beta-100", 20, 20, "displacement"),
        ("sick-learning-rate-high", 0, 1, "saturated"),
        ("sick-learning-rate-high", 0, 1, "displacement"),
        ("sick-learning-rate-high", 0, 1, "loser_dominant"),
        ("sick-learning-rate-high", 0, 1, "property_drift"),
        ("sick-four-pairs", 0, 1, "loser_dominant"),
        ("sick-four-pairs", 0, 1, "displacement"),
        ("sick-four-pairs", 0, 1, "saturated"),
        ("sick-beta-50000", 10, 1, "saturated"),
        ("sick-learning-rate-low", 0, 1, "nothing_learned"),
        ("sick-giveaway", 0, 1, "too_easy"),
        ("sick-slower-preferred", 20, 1, "motion_falling"),
        ("sick-58-pairs", 30, 75, "displacement"),
        ("planted-spike", 30, 60, "spike"),
    ],
)
def test_sick_runs_raise_the_right_alarm_in_time(name: str, warmup_steps: int, fault: int, alarm: str) -> None:
    steps = steps_of(watch(recorded(name), warmup_steps=warmup_steps), alarm)
    assert steps, f"{alarm} was not raised"
    assert fault <= steps[0] <= fault + WITHIN_STEPS


def test_shuffled_labels_show_on_held_out_pairs_only() -> None:
    """A known limit: training accuracy rises on shuffled labels too, by heart."""
    rows = recorded("sick-shuffled-labels")
    assert watch(rows) == []
    assert stops(rows, 2)[0] == 60


def test_a_run_that_only_saturates_is_not_called_anything_else() -> None:
    assert {alarm.name for alarm in watch(recorded("sick-beta-50000"), warmup_steps=10)} == {"saturated"}


PLANTS: dict[str, Callable[[Row], Row]] = {
    "loser_dominant": lambda row: {"winner_change": 0.03, "loser_change": 0.04},
    "displacement": lambda row: {"winner_change": 0.03 * row["reference_winner_error"], "loser_change": 0.1},
    "saturated": lambda row: {"z_saturated_share": 0.6},
    "motion_falling": lambda row: {"probe/motion": 0.85, "probe/motion_low": 0.8, "probe/motion_high": 0.9},
    # samples turned to noise
    "property_drift": lambda row: {"probe/texture": 4.0, "probe/texture_low": 3.0, "probe/texture_high": 5.0},
}


@pytest.mark.parametrize("name", PLANTS)
@pytest.mark.parametrize("fault", [25, 50])
def test_a_fault_planted_in_a_healthy_run_is_found(name: str, fault: int) -> None:
    rows = [row | PLANTS[name](row) if row["step"] >= fault else row for row in recorded("healthy-dense")]
    steps = steps_of(watch(rows), name)
    assert len(steps) == 1
    assert fault <= steps[0] <= fault + WITHIN_STEPS


def test_a_steady_run_raises_nothing() -> None:
    assert watch(steady()) == []


COSTLY = {"winner_change": 0.0022, "loser_change": 0.0042}  # the winner loses 1.1 of the margin
CHEAPER = {"winner_change": 0.0018, "loser_change": 0.0038}  # 0.9
RUINED = {"winner_change": 0.002, "loser_change": 0.02, "loser_dominant_ratio": 0.56}  # four wins in five
FEWER_RUINED = RUINED | {"loser_dominant_ratio": 0.5}  # five in seven
SURE_FALL = {"probe_motion": 0.85, "probe_motion_low": 0.75, "probe_motion_high": 0.96}
UNSURE_FALL = {"probe_motion": 0.85, "probe_motion_low": 0.7, "probe_motion_high": 1.02}


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("saturated", {"z_saturated_share": 0.51}, {"z_saturated_share": 0.49}),
        (
            "displacement",
            {"winner_change": 0.0042, "loser_change": 0.1},
            {"winner_change": 0.0038, "loser_change": 0.1},
        ),
        ("loser_dominant", COSTLY, CHEAPER),
        ("loser_dominant", RUINED, FEWER_RUINED),
        ("loser_dominant", {"winner_change": 0.0011, "loser_change": 0}, {"winner_change": 0.0009, "loser_change": 0}),
        ("nothing_learned", {"z_median_abs": 0.019}, {"z_median_abs": 0.021}),
        ("nothing_learned", {"z_median_abs": 0.0}, {"z_median_abs": 0.1}),
        ("nothing_learned", {"rewards_accuracies": 0.54}, {"rewards_accuracies": 0.56}),
        ("motion_falling", {"probe_motion": 0.89}, {"probe_motion": 0.91}),
        ("motion_falling", SURE_FALL, UNSURE_FALL),
        ("too_easy", {"rewards_accuracies": 0.985}, {"rewards_accuracies": 0.975}),
    ],
)
def test_thresholds(name: str, bad: dict[str, float], good: dict[str, float]) -> None:
    always = range(1, 151)
    assert len(steps_of(watch(changed(steady(), always, **bad)), name)) == 1
    assert watch(changed(steady(), always, **good)) == []


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_spike_is_ten_times_the_running_median(name: str) -> None:
    usual = steady()[0][name]
    assert steps_of(watch(changed(steady(), range(80, 81), **{name: 10.1 * usual})), "spike") == [80]
    assert watch(changed(steady(), range(80, 81), **{name: 9.9 * usual})) == []


BANDS = {"size": 0.15, "brightness": 0.15, "saturation": 0.25, "texture": 0.25}


@pytest.mark.parametrize(("name", "band"), BANDS.items())
def test_each_property_has_its_band(name: str, band: float) -> None:
    def alarms(ratio: float) -> list[str]:
        return [alarm.name for alarm in watch(changed(steady(), range(100, 101), **{f"probe_{name}": ratio}))]

    outside, inside = 1.01 + band, 0.99 + band
    assert alarms(outside) == alarms(1 / outside) == ["property_drift"]
    assert alarms(inside) == alarms(1 / inside) == []
    assert alarms(0.0) == ["property_drift"]


def test_held_out_displacement_needs_two_measurements() -> None:
    where = {"eval_reference_winner_error": 0.3, "eval_loser_change": 0.0}
    risen, level = {"eval_winner_change": 0.009, **where}, {"eval_winner_change": 0.003, **where}
    once = changed(changed(steady(), range(50, 51), **risen), range(75, 76), **level)
    assert watch(once) == []
    twice = changed(steady(), range(50, 76, 25), **risen)
    assert steps_of(watch(twice), "displacement") == [75]
    assert "held-out" in watch(twice)[0].message


def test_accuracy_late_in_the_run_is_not_too_easy() -> None:
    def alarm_steps(since: int, max_steps: int) -> list[int]:
        return [
            alarm.step for alarm in watch(changed(steady(), range(since, 151), rewards_accuracies=0.985), max_steps)
        ]

    assert alarm_steps(11, 150) == [30]
    assert alarm_steps(12, 150) == []
    assert alarm_steps(31, 1000) == [50]
    assert alarm_steps(32, 1000) == []


def test_nothing_learned_waits_for_the_warm_up() -> None:
    rows = steady(400, z_median_abs=0.001)
    assert steps_of(watch(rows, warmup_steps=0), "nothing_learned") == [50]
    assert steps_of(watch(rows, warmup_steps=250), "nothing_learned") == [300]


def test_an_episode_is_told_once_and_the_next_one_again() -> None:
    rows = changed(changed(steady(300), range(50, 100), z_saturated_share=0.9), range(200, 250), z_saturated_share=0.9)
    first, second = steps_of(watch(rows), "saturated")
    assert 50 < first < 100 < 200 < second < 250


def test_an_episode_ends_well_below_the_threshold_only() -> None:
    def alarms(between: float) -> int:
        rows = changed(steady(300, z_saturated_share=between), range(50, 100), z_saturated_share=0.9)
        return len(watch(changed(rows, range(200, 250), z_saturated_share=0.9)))

    assert alarms(0.39) == 2
    assert alarms(0.41) == 1


def test_two_calm_measurements_end_an_episode() -> None:
    def motions(*ratios: float) -> list[int]:
        rows = steady()
        for place, ratio in enumerate(ratios, start=1):
            rows = changed(rows, range(20 * place, 20 * place + 1), probe_motion=ratio)
        return steps_of(watch(rows), "motion_falling")

    assert motions(0.8, 1.0, 0.8) == [20]
    assert motions(0.8, 1.0, 1.0, 0.8) == [20, 80]


def test_a_lasting_change_is_noticed_after_half_a_window() -> None:
    assert steps_of(watch(changed(steady(), range(100, 151), z_saturated_share=0.9)), "saturated") == [110]
    assert steps_of(watch(changed(steady(), range(100, 151), winner_change=0.006)), "displacement") == [110]


def test_displacement_must_stand_out_from_its_noise() -> None:
    def alarms(noise: float) -> list[Alarm]:
        rows = steady(loser_change=0.1)
        for row in rows:
            row["winner_change"] = 0.2 * (0.025 + noise * (row["step"] % 5 - 2))
        return watch(rows)

    assert [alarm.name for alarm in alarms(0.0145)] == ["displacement"]
    assert alarms(0.0157) == []


def test_accuracy_must_surely_be_low() -> None:
    def alarms(noise: float) -> list[Alarm]:
        rows = steady()
        for row in rows:
            row["rewards/accuracies"] = 0.5 + (noise if row["step"] % 2 else -noise)
        return watch(rows)

    assert [alarm.name for alarm in alarms(0.1)] == ["nothing_learned"]
    assert alarms(0.13) == []


def test_a_spike_needs_ten_rows_before_it() -> None:
    assert steps_of(watch(changed(steady(), range(11, 12), loss=9.0)), "spike") == [11]
    assert watch(changed(steady(), range(10, 11), loss=9.0)) == []


def test_hovering_at_the_threshold_is_one_episode() -> None:
    rows = steady(300)
    for number, row in enumerate(rows):
        row["z_saturated_share"] = 0.55 if number // 25 % 2 else 0.45
    assert len(steps_of(watch(rows), "saturated")) == 1
    for number, row in enumerate(rows):  # small batches know few shares, so that a median may jump
        row["z_saturated_share"] = 0.5 if number // 15 % 2 else 0.25
    assert len(steps_of(watch(rows), "saturated")) == 1


def test_spikes_close_together_are_one_episode() -> None:
    rows = changed(steady(), range(60, 81, 4), grad_norm=100.0)
    assert steps_of(watch(rows), "spike") == [60]
    assert steps_of(watch(changed(rows, range(100, 101), grad_norm=100.0)), "spike") == [60, 100]


def test_after_a_fall_only_a_return_above_the_start_is_a_spike() -> None:
    fallen = changed(steady(), range(40, 151), loss=0.001, grad_norm=0.001)
    assert watch(changed(fallen, range(120, 121), loss=0.5, grad_norm=1.9)) == []
    assert len(watch(changed(fallen, range(120, 121), loss=0.7, grad_norm=2.1))) == 2


def test_one_bad_batch_is_not_an_alarm() -> None:
    one = changed(steady(), range(90, 93), z_saturated_share=1.0, winner_change=0.8, loser_change=1.0,
                  rewards_accuracies=0.1, z_median_abs=3.0)  # fmt: skip
    assert watch(one) == []


def test_batches_of_one_pair_are_noise_not_alarms() -> None:
    for seed in range(4):
        rng = stream("test", "guards", seed)
        rows = steady(600)
        for row in rows:
            row["rewards/accuracies"] = float(rng.random() < 0.65)
            row["winner_change"] = 0.2 * float(rng.normal(0.0, 0.02))
            row["loser_change"] = row["winner_change"] + 0.2 * float(rng.normal(0.01, 0.02))
            row["loser_dominant_ratio"] = row["rewards/accuracies"] * float(rng.random() < 0.5)
            row["z_median_abs"] = float(rng.lognormal(-1, 1))
            row["z_saturated_share"] = float(rng.random() < 0.1)
            row["grad_norm"] = float(rng.lognormal(0.7, 0.5))
        assert watch(rows, warmup_steps=100) == []


def test_alarms_do_not_depend_on_the_scale_of_a_models_errors() -> None:
    scaled = ("reference_winner_error", "winner_change", "loser_change")
    for name in ("sick-beta-100", "sick-four-pairs", "sick-58-pairs", "healthy-dense"):
        rows = recorded(name)
        larger = [row | {n: 30 * v for n, v in row.items() if n.removeprefix("eval/") in scaled} for row in rows]
        assert watch(larger) == watch(rows)


def test_replaying_the_log_restores_the_state() -> None:
    for name in ("sick-four-pairs", "sick-learning-rate-high", "planted-spike"):
        rows = recorded(name)
        whole = watch(rows, max_steps=200)
        for stop in (1, 15, 20, 33):
            resumed = Guards(200, 20)
            before = [alarm for row in rows[:stop] for alarm in resumed.watch(row)]
            assert before + [alarm for row in rows[stop:] for alarm in resumed.watch(row)] == whole


def test_rows_without_a_preference_are_watched_for_spikes_only() -> None:
    plain = [{"step": step, "loss": 0.3, "grad_norm": 1.0, "policy_winner_error": 0.3} for step in range(1, 101)]
    assert watch(plain) == []
    assert [alarm.name for alarm in watch(changed(plain, range(50, 51), loss=4.0))] == ["spike"]
    all_ties = [{"step": step, "loss": 0.0, "grad_norm": 0.0, "non_tie_frames": 0.0} for step in range(1, 101)]
    assert watch(all_ties) == []


def test_messages_say_what_was_seen_and_what_to_change() -> None:
    alarms = {alarm.name: alarm.message for name in ("sick-four-pairs", "sick-learning-rate-low", "sick-giveaway",
              "sick-learning-rate-high", "sick-slower-preferred", "planted-spike")
              for alarm in watch(recorded(name), warmup_steps=0)}  # fmt: skip
    assert len(alarms) == 8
    for message in alarms.values():
        assert any(character.isdigit() for character in message)
        assert "\n" not in message
    assert "learning_rate" in alarms["nothing_learned"] and "beta" in alarms["saturated"]
    assert "dpop_lambda" in alarms["loser_dominant"] and "audit" in alarms["motion_falling"]
    assert "size" in alarms["property_drift"] and "texture" in alarms["property_drift"]


def measurement(step: int, accuracy: float, winner: float, loser: float) -> Row:
    return {
        "step": float(step), "eval/rewards/accuracies": accuracy, "eval/winner_change": winner,
        "eval/loser_change": loser, "eval/reference_winner_error": 0.3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("winner", "loser", "share"),
    [
        (-0.001, 0.0, 1.0),  # the whole margin from a better winner
        (0.0, 0.001, 0.0),
        (-0.001, 0.001, 0.5),
        (0.001, 0.002, -1.0),
        (-0.002, -0.001, 1.0),  # both better: no more than all of it
        (0.001, 0.001, -math.inf),
        (-0.001, -0.002, -math.inf),  # a negative margin
        (-0.000014, 0.000014, -math.inf),  # one that is chance
        (-0.000016, 0.000016, 0.5),
    ],
)
def test_winner_share(winner: float, loser: float, share: float) -> None:
    assert winner_share(measurement(1, 0.5, winner, loser)) == pytest.approx(share)


def stops(rows: Sequence[Row], patience: int) -> list[float]:
    stopping = EarlyStopping(patience)
    return [row["step"] for row in rows if stopping.watch(row)]


def test_early_stopping_waits_while_either_measure_improves() -> None:
    better_accuracy = [measurement(step, 0.5 + step / 1000, 0.01, 0.02) for step in range(25, 200, 25)]
    better_winner = [measurement(step, 0.6, -step / 1e5, 0.02) for step in range(25, 200, 25)]
    assert stops(better_accuracy, 1) == stops(better_winner, 1) == []


def test_early_stopping_after_patience_measurements_without_gain() -> None:
    accuracies = [0.5, 0.6, 0.55, 0.61, 0.6, 0.6, 0.6]
    rows = [measurement(25 * place, value, 0.01, 0.02) for place, value in enumerate(accuracies, start=1)]
    between = [{"step": row["step"] + 1, "loss": 0.6} for row in rows]
    mixed = [row for both in zip(rows, between, strict=True) for row in both]
    assert stops(mixed, 3) == [175]
    assert stops(mixed, 4) == []
    assert stops(mixed, 1)[0] == 75


def test_a_vanished_margin_is_no_improvement() -> None:
    rows = [measurement(25, 0.6, -0.001, 0.001), measurement(50, 0.6, 0.02, 0.01), measurement(75, 0.6, 0.03, 0.01)]
    assert stops(rows, 2) == [75]


def test_early_stopping_names_what_it_saw() -> None:
    stopping = EarlyStopping(1)
    assert stopping.watch(measurement(25, 0.625, 0.001, 0.003)) is None
    reason = stopping.watch(measurement(50, 0.6, 0.002, 0.003))
    assert reason is not None
    assert "0.625" in reason and "-0.5" in reason


def test_every_recorded_curve_says_where_it_comes_from() -> None:
    listed = (CURVES / "README.md").read_text(encoding="utf-8")
    assert {line.split("`")[1] for line in listed.splitlines() if line.startswith("| `")} == {
        path.stem for path in CURVES.glob("*.jsonl")
    }
