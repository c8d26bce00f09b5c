"""Alarms on the rows of ``metrics.jsonl``: what goes wrong in preference training, noticed early and with advice.

Pure functions of the rows seen, so replaying the log after a resume restores every state. All thresholds are ratios or
logits, never errors in a model's own units. A reading is taken over a window, and an alarm is raised once an episode:
it comes again only after the reading was calm for a while.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Row = Mapping[str, float]

WINDOW = 50  # rows that a sum is taken over: several batches even where a batch is one pair
SHORT_WINDOW = 20  # rows of a running median: a lasting change flips it after 11
RELEASE = 0.8  # share of its threshold below which a reading is calm
CALM_MEASUREMENTS = 2  # calm ones that end an episode, on held-out pairs and samples
SURE = 4.0  # standard errors beyond which a rise is no chance, though every one of thousands of steps is looked at
MEDIAN_ERROR = 1.86  # standard error of a median over (median deviation / sqrt(n)), for a normal distribution

SPIKE = 10.0  # times the running median; healthy batches of 8 pairs reach 9
SPIKE_MIN_ROWS = 10  # rows before a median means anything; also the calm rows that end an episode
SPIKE_FLOOR = 0.1  # of the run's first median: a loss that fell to nothing may rise tenfold and still be small
SATURATED = 0.5  # half of the terms teach nothing any more; healthy runs stay below 0.1
DISPLACED = 0.02  # of the reference's error: runs that improved samples stay below 0.015, bad ones reach 0.03
DOMINANT_RISE = 0.005  # of the reference's error: below it a winner's rise is no damage, whoever made the margin
DOMINANT_COST = 1.0  # winner's rise over margin: above 1 the winner loses more than the pair gains; healthy up to 0.6
DOMINANT_SHARE = 0.75  # of the frames won, those whose winner got worse: chance gives 0.5, healthy runs up to 0.6
EASY_ACCURACY = 0.98  # no honest pair is decided in the first steps
EASY_SHARE = 0.05  # of the run is "the first steps"
EASY_STEPS = 30  # and so are these at least
EASY_ROWS = 20  # with one pair a batch, chance gets them all right once in a million runs
UNMOVED_Z = 0.02  # logits: the loss is then within 1.5 % of log 2, its value before the first step
UNTAUGHT_ACCURACY = 0.55  # what the accuracy may at most be; labels that teach reach 0.6 within a hundred steps
LIKELY = 3.0  # standard errors to "at most"
SLOWED = 0.1  # of the base's motion lost; by chance 8 prompts measure up to 0.05
DRIFTS = {"size": 0.15, "brightness": 0.15, "saturation": 0.25, "texture": 0.25}  # visible; 3 times healthy runs'
WHOLE_SHARE = 1.0  # of a margin: a winner that improved more than the pair did is no better still
LEAST_MARGIN = 1e-4  # of the reference's error: below it the sign of a margin is chance


@dataclass(frozen=True)
class Alarm:
    """One thing that went wrong: its name, the step at which it was noticed, what was seen and what to change."""

    name: str
    step: int
    message: str


@dataclass(frozen=True)
class _Reading:
    """How near a fault is: an alarm at 1 and above. ``about`` tells several of one name apart.

    An episode ends after ``calm`` readings below ``RELEASE``.
    """

    name: str
    severity: float
    message: str
    about: str = ""
    calm: int = SHORT_WINDOW


class Guards:
    """Watches a run row by row."""

    def __init__(self, max_steps: int, warmup_steps: int = 0) -> None:
        """Start before the first row.

        Args:
            max_steps: length of the run; decides what counts as early.
            warmup_steps: steps in which nothing needs to be learned yet.
        """
        self._early_steps = max(EASY_SHARE * max_steps, EASY_STEPS)
        self._patience_steps = warmup_steps + WINDOW
        self._rows: deque[Row] = deque(maxlen=WINDOW)
        self._decided: deque[Row] = deque(maxlen=WINDOW)  # those of them with a preference
        self._held_out: deque[Row] = deque(maxlen=2)
        self._first: list[Row] = []
        self._calm: dict[tuple[str, str], int] = {}  # calm readings so far in each episode that goes on

    def watch(self, row: Row) -> list[Alarm]:
        """Take in the row of one step, measurements included, and return the alarms that it raises, usually none."""
        self._rows.append(row)
        if len(self._first) < SPIKE_MIN_ROWS:
            self._first.append(row)
        alarms = []
        for reading in self._readings(row):
            key = (reading.name, reading.about)
            if reading.severity >= 1:
                if key not in self._calm:
                    alarms.append(Alarm(reading.name, int(row["step"]), reading.message))
                self._calm[key] = 0
            elif reading.severity < RELEASE and key in self._calm:
                self._calm[key] += 1
                if self._calm[key] == reading.calm:
                    del self._calm[key]
        return alarms

    def _readings(self, row: Row) -> Iterator[_Reading]:
        if len(self._rows) > SPIKE_MIN_ROWS:
            yield from (_spike(name, self._rows, self._first) for name in ("loss", "grad_norm"))
        if "z_median_abs" in row:
            self._decided.append(row)
            yield from self._preference(row["step"])
        if "eval/winner_change" in row:
            self._held_out.append(row)
            if len(self._held_out) == self._held_out.maxlen:
                yield _displaced_held_out(self._held_out)
        if "probe/motion" in row:
            yield _motion(row)
        drifts = {name: _drift(name, row) for name in DRIFTS if f"probe/{name}" in row}
        if drifts:
            yield _drifting(drifts, row)

    def _preference(self, step: float) -> Iterator[_Reading]:
        rows = list(self._decided)
        if step <= self._early_steps and len(rows) >= EASY_ROWS:
            yield _too_easy(rows[-EASY_ROWS:])
        if len(rows) >= SHORT_WINDOW:
            recent = rows[-SHORT_WINDOW:]
            yield _saturated(recent)
            yield _displaced(rows)
            yield _loser_dominant(rows)
            if step >= self._patience_steps:
                yield _nothing_learned(rows, recent)


class EarlyStopping:
    """Says when held-out pairs stop gaining: neither accuracy nor the winner's share of the margin improves.

    share = -winner_change / (loser_change - winner_change): 1 where the whole margin comes from a better winner, 0
    where it comes from a worse loser, below 0 where the winner got worse too. It counts up to ``WHOLE_SHARE``. Where
    there is no margin, or a negative one (held-out labels are contradicted on average), there is nothing to share, and
    the measurement does not count as an improvement.
    """

    def __init__(self, patience: int) -> None:
        """Stop after ``patience`` measurements in a row without improvement; the first measurement sets the mark."""
        self._patience = patience
        self._best = {"accuracy": -math.inf, "winner's share of the margin": -math.inf}
        self._waited = 0

    def watch(self, row: Row) -> str | None:
        """Take in one row and return the reason to stop, None while there is none or nothing was measured."""
        if "eval/rewards/accuracies" not in row:
            return None
        measured = dict(zip(self._best, (row["eval/rewards/accuracies"], winner_share(row)), strict=True))
        better = [name for name, value in measured.items() if value > self._best[name]]
        self._best |= {name: measured[name] for name in better}
        self._waited = 0 if better else self._waited + 1
        if self._waited < self._patience:
            return None
        best = ", ".join(f"best {name} {value:.3g}" for name, value in self._best.items() if value > -math.inf)
        return f"held-out pairs have not gained for {self._waited} measurements ({best})"


def winner_share(row: Row) -> float:
    """Return the winner's share of the held-out margin, at most ``WHOLE_SHARE``; -inf where there is no margin."""
    margin = row["eval/loser_change"] - row["eval/winner_change"]
    if margin <= LEAST_MARGIN * row["eval/reference_winner_error"]:
        return -math.inf
    return min(-row["eval/winner_change"] / margin, WHOLE_SHARE)


def _spike(name: str, rows: Sequence[Row], first: Sequence[Row]) -> _Reading:
    value, usual = rows[-1][name], _median(rows, name)
    basis = max(usual, SPIKE_FLOOR * _median(first, name))
    message = (
        f"{name} jumped to {value:.3g} from a running median of {usual:.3g}. Look at the pairs of this step; if it "
        f"comes again, halve learning_rate, lengthen warmup_steps or lower max_grad_norm"
    )
    return _Reading("spike", value / (SPIKE * basis) if basis > 0 else 0.0, message, name, SPIKE_MIN_ROWS)


def _too_easy(rows: Sequence[Row]) -> _Reading:
    accuracy = _mean(rows, "rewards/accuracies")
    message = (
        f"{accuracy:.1%} of the labels are right already, in the first steps. The two sides differ in something that "
        f"gives them away: look for sides made by different models, settings or files, for separate noise "
        f"(share_noise), and for a reference that is not the base"
    )
    return _Reading("too_easy", accuracy / EASY_ACCURACY, message)


def _saturated(rows: Sequence[Row]) -> _Reading:
    share = _median(rows, "z_saturated_share")
    message = (
        f"{share:.0%} of the terms are saturated (|z| > 4) and no longer teach; median |z| is "
        f"{_median(rows, 'z_median_abs'):.2g}. Lower beta (beta: auto finds one) or learning_rate, or stop earlier"
    )
    return _Reading("saturated", share / SATURATED, message)


def _displaced(rows: Sequence[Row]) -> _Reading:
    rises = _winner_rises(rows)
    rise, usual = statistics.median(rises[-SHORT_WINDOW:]), statistics.median(rises)
    deviation = statistics.median(abs(value - usual) for value in rises)
    chance = SURE * MEDIAN_ERROR * deviation / math.sqrt(SHORT_WINDOW)
    return _Reading("displacement", rise / max(DISPLACED, chance), _displacement_message("", rise), "training")


def _displaced_held_out(rows: Sequence[Row]) -> _Reading:
    rise = min(row["eval/winner_change"] / row["eval/reference_winner_error"] for row in rows)
    return _Reading(
        "displacement", rise / DISPLACED, _displacement_message("held-out ", rise), "held-out", CALM_MEASUREMENTS
    )


def _displacement_message(where: str, rise: float) -> str:
    return (
        f"the policy has become worse at the {where}winners: their error is {rise:.1%} above the reference's, and "
        f"stays there. Lower learning_rate or raise beta, stop earlier, collect more pairs, or protect the winner with "
        f"dpop_lambda or an sft term in loss_type"
    )


def _loser_dominant(rows: Sequence[Row]) -> _Reading:
    weights = [row["non_tie_frames"] for row in rows]

    def total(name: str) -> float:
        return sum(weight * row[name] for weight, row in zip(weights, rows, strict=True))

    winner, margin = total("winner_change"), total("loser_change") - total("winner_change")
    rise = winner / total("reference_winner_error")
    won = total("rewards/accuracies")
    share = total("loser_dominant_ratio") / won if won else 0.0
    cost = winner / margin if margin > 0 else math.inf
    chance = SURE * _standard_error(_winner_rises(rows))
    severity = min(rise / max(DOMINANT_RISE, chance), max(cost / DOMINANT_COST, share / DOMINANT_SHARE))
    paid = f"{cost:.1f} times the margin" if margin > 0 else "with no margin at all"
    message = (
        f"the margin is won by ruining the loser: the winner's error rose by {rise:.1%} of the reference's, {paid}, "
        f"and {share:.0%} of the frames won have a winner that got worse. Lower learning_rate or raise beta; "
        f"dpop_lambda, sdpo_mu or an sft term in loss_type protect the winner"
    )
    return _Reading("loser_dominant", severity, message)


def _nothing_learned(rows: Sequence[Row], recent: Sequence[Row]) -> _Reading:
    moved = _median(recent, "z_median_abs")
    accuracies = [row["rewards/accuracies"] for row in rows]
    accuracy = statistics.fmean(accuracies)
    likely = accuracy + LIKELY * _standard_error(accuracies)
    unmoved, untaught = UNMOVED_Z / max(moved, 1e-9), (UNTAUGHT_ACCURACY - 0.5) / max(likely - 0.5, 1e-9)
    if unmoved > untaught:
        message = (
            f"the policy has hardly left the reference: median |z| is {moved:.2g}. Raise learning_rate, or beta if it "
            f"is far below 500, and see that lora_targets names the layers that you meant"
        )
    else:
        message = (
            f"the policy moves (median |z| {moved:.2g}) but not as the labels say: {accuracy:.0%} right, {likely:.0%} "
            f"at most. See whether the labels hold (`densedpo label audit`), collect more, or raise learning_rate"
        )
    return _Reading("nothing_learned", max(unmoved, untaught), message)


def _motion(row: Row) -> _Reading:
    ratio = row["probe/motion"]
    message = (
        f"samples move less than the base's: {ratio:.2f} of its motion on the same prompts and noise. See whether the "
        f"labels prefer the slower side (`densedpo label audit`); use guided pairs or a lower eta, raise beta, or "
        f"stop earlier"
    )
    return _Reading(
        "motion_falling", _unless_chance((1 - ratio) / SLOWED, "motion", row), message, calm=CALM_MEASUREMENTS
    )


def _drift(name: str, row: Row) -> float:
    ratio = row[f"probe/{name}"]
    return _unless_chance(abs(math.log(ratio)) / math.log1p(DRIFTS[name]) if ratio > 0 else math.inf, name, row)


def _drifting(drifts: Mapping[str, float], row: Row) -> _Reading:
    found = [f"{name} {row[f'probe/{name}']:.2f}" for name, severity in drifts.items() if severity > RELEASE]
    message = (
        f"samples change in what no label asked for: {', '.join(found)} of the base's on the same prompts and noise. "
        f"Look at samples; see whether the labels lean that way (`densedpo label audit`); lower learning_rate, raise "
        f"beta, or add an sft_clip term to loss_type"
    )
    return _Reading("property_drift", max(drifts.values()), message, calm=CALM_MEASUREMENTS)


def _unless_chance(severity: float, name: str, row: Row) -> float:
    """Return ``severity``, but too little for an alarm where the probe's interval holds 1, no change at all."""
    ratio = row[f"probe/{name}"]
    low, high = row.get(f"probe/{name}_low", ratio), row.get(f"probe/{name}_high", ratio)
    return min(severity, RELEASE) if low <= 1 <= high else severity


def _median(rows: Sequence[Row], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def _winner_rises(rows: Sequence[Row]) -> list[float]:
    return [row["winner_change"] / row["reference_winner_error"] for row in rows]


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _mean(rows: Sequence[Row], name: str) -> float:
    """Return the mean over frames."""
    return sum(row["non_tie_frames"] * row[name] for row in rows) / sum(row["non_tie_frames"] for row in rows)
