"""The report's first words: what was run, in one paragraph, and what the data show, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densedpo.report.audit import Audit
from densedpo.report.evaluation import Evaluation
from densedpo.report.pairs import Pairs
from densedpo.report.study import Pairing, Study
from densedpo.report.text import (
    bracket,
    capitalised,
    change_in_percent,
    counted,
    listed,
    share_with_interval,
    signed_estimate,
    tone,
    verdict,
)
from densedpo.report.training import Run

_JUDGES = {
    "person": "People judged",
    "judge": "An automatic judge judged",
    "simulated": "Simulated annotators judged",
}
_MODES = {
    "guided": "guided (both start from the same partly noised clip, so they move alike and differ in detail)",
    "independent": "independent (both start from noise alone, so they may move quite differently)",
}


@dataclass(frozen=True)
class Finding:
    """One headline: what is found, the number, its interval, what it is, and whether it is good, bad or open."""

    title: str
    value: str
    interval: str
    sentence: str
    tone: str  # good, bad, open
    beside: str = ""  # motion, where the number is about quality


def story(model: str, pairs: Pairs, runs: list[Run], evaluations: list[Evaluation]) -> list[str]:
    """Return the sentences of the opening paragraph, only about what is there."""
    told = []
    if pairs.clips:
        told.append(f"This project starts from {counted(pairs.clips, 'video clip')} with captions.")
    if pairs.total:
        kinds = " and ".join(f"{count:,} {_MODES.get(mode, mode)}" for mode, count in sorted(pairs.by_mode.items()))
        told.append(
            f"The base model, {model}, drew {counted(pairs.total, 'pair')} of videos, "
            f"two to a caption, called a and b: {kinds}."
        )
    if pairs.snapshot:
        who = _JUDGES.get(str(pairs.snapshot.metadata["source"]), "Judges judged")
        told.append(
            f"{who} which side looks better, separately for every {pairs.snapshot.segment_s:g} s segment: "
            f"{counted(pairs.answered, 'answer')}, of which {pairs.non_tie:,} name a winner."
        )
    if runs:
        names = listed([run.name for run in runs])
        steps = " and ".join(f"{count:,}" for count in sorted({run.steps for run in runs}))
        told.append(
            f"From these labels {counted(len(runs), 'adapter')} ({names}) learned for {steps} steps "
            "to draw what was preferred."
        )
    same: dict[str, list[str]] = {}  # evaluations of the same models on as many prompts are one sentence
    for evaluation in evaluations:
        same.setdefault(_drew(evaluation), []).append(evaluation.name)
    told += [f"In evaluation{'s' * (len(names) > 1)} {listed(names)}, {drew}." for drew, names in same.items()]
    return told


def _drew(evaluation: Evaluation) -> str:
    """Say which models drew how much, the variants of a run by their number."""
    prompts = len(evaluation.summary["prompts"])
    variants = len(evaluation.models) - len(evaluation.main_models)
    names = listed(evaluation.main_models)
    models = f"{names} and {counted(variants, 'variant')} of other strength" if variants else names
    unseen = "which no pair of this project has, " if evaluation.held_out == prompts else ""
    seeds = counted(len(evaluation.summary["seeds"]), "seed")
    return f"{models} drew {counted(prompts, 'prompt')}, {unseen}with {seeds} a prompt, and every video was scored"


def flow(pairs: Pairs, runs: list[Run], evaluations: list[Evaluation]) -> list[tuple[str, str]]:
    """Return what passed through each stage, (count, what), stages without anything left out."""
    samples = sum(
        len(evaluation.models) * len(evaluation.summary["prompts"]) * len(evaluation.summary["seeds"])
        for evaluation in evaluations
    )
    stages = [
        (pairs.clips, "clip"),
        (pairs.total, "pair"),
        (pairs.answered, "segment answer"),
        (len(runs), "trained adapter"),
        (samples, "scored video"),
    ]
    return [(f"{count:,}", counted(count, what).split(" ", 1)[1]) for count, what in stages if count]


def findings(audit: Audit | None, evaluations: list[Evaluation], studies: Sequence[Study] = ()) -> list[Finding]:
    """Return the headlines: what training did, what people prefer, what the labels lean to.

    Each says no more than its interval allows.
    """
    named = len(evaluations) > 1
    of_models = [found for evaluation in evaluations for found in _of_evaluation(evaluation, named)]
    bases = {evaluation.base for evaluation in evaluations}
    pairings = [pairing for study in studies for pairing in study.pairings if {pairing.a, pairing.b} & bases]
    return of_models + [_of_people(pairing) for pairing in pairings] + _of_audit(audit)


def _of_audit(audit: Audit | None) -> list[Finding]:
    found = []
    for mode in ("independent", "guided"):
        bias = audit.bias(mode, "slower") if audit else None
        if bias is None:
            continue
        value, interval = bias.written.split(" [")
        if bias.too_few:
            said = "too few pairs to speak of a lean"
        elif not bias.shown:
            said = "no lean towards slow or fast is shown"
        else:
            said = "labels lean towards the " + ("slower side" if bias.share["mean"] > 0.5 else "faster side")
        sentence = f"of {bias.comparable:,} winning segments in {mode} pairs are on the slower side: {said}."
        lean = bias.shown and bias.share["mean"] > 0.5
        title = f"Labels of {mode} pairs"
        found.append(Finding(title, value, f"[{interval}", sentence, "bad" if lean else "open"))
    return found


def _of_evaluation(evaluation: Evaluation, named: bool) -> list[Finding]:
    if not evaluation.qualities:
        return []
    score = evaluation.qualities[0]
    info = evaluation.info[score]
    found = []
    for model, differences in evaluation.main_differences.items():
        difference, motion = differences.get(score), differences.get(evaluation.motion)
        if not difference:
            continue
        said = verdict(difference, info["better"])
        overall = (evaluation.part("overall") or {}).get(model, {}).get("verdict", said)
        outcome = f"{said} {'from' if said == 'not told apart' else 'than'} {evaluation.base}"
        direction = "" if info["better"] == "neither" else f" ({info['better']} is better)"
        value, interval = signed_estimate(difference), bracket(difference)
        sentence = f"{info['label'].lower()}{direction}, {model} minus {evaluation.base}: {outcome}."
        if evaluation.ratios.get(model, {}).get(score):  # only sizes that have a zero are said in per cent
            sentence = f"{info['label'].lower()}{direction} against {evaluation.base}'s, {value} {interval}: {outcome}."
            value, interval = change_in_percent(difference, evaluation.scores[evaluation.base][score]["mean"])
        title = f"{model}{f' in {evaluation.name}' if named else ''}: {overall}"
        beside = _motion(evaluation, model, motion) if motion else ""
        found.append(Finding(title, value, interval, sentence, tone(overall), beside))
    return found


def _motion(evaluation: Evaluation, model: str, motion: Mapping[str, Any]) -> str:
    unit = evaluation.info[str(evaluation.motion)].get("unit", "")
    ratio = evaluation.ratios.get(model, {}).get(evaluation.motion)
    share = f"{share_with_interval(ratio)} of {evaluation.base}'s, " if ratio else ""
    return f"Motion: {share}{signed_estimate(motion)} {unit} {bracket(motion)}."


def _of_people(pairing: Pairing) -> Finding:
    """The question about quality in front where it was asked, else the first, and the others beside it."""
    first = next((row for row in pairing.rows if row["question"] == "visual_quality"), pairing.rows[0])
    others = [f"{row['title'].lower()} {row['won']}" for row in pairing.rows if row is not first]
    value, _, interval = first["won"].partition(" [")
    preferred = {row["preferred"] for row in pairing.rows} - {None}  # of both: one was bought with the other
    shade = {pairing.a: "good", pairing.b: "bad"}.get(first["preferred"], "open") if len(preferred) < 2 else "open"
    return Finding(
        f"People, blind: {pairing.a} against {pairing.b}",
        value,
        f"[{interval}" if interval else "",
        f"wins minus losses in {first['title'].lower()}, in points of 100 answers.",
        shade,
        f"{capitalised('; '.join(others))}." if others else "",
    )
