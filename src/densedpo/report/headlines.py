"""The report's first words: what was run, in one paragraph, and what the data show, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from densedpo.report.audit import Audit
from densedpo.report.evaluation import Evaluation
from densedpo.report.pairs import Pairs
from densedpo.report.text import bracket, counted, listed, share_with_interval, signed_estimate, tone, verdict
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
    """One headline: the number, its interval, what it is, and whether it is good, bad or open."""

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
    for evaluation in evaluations:
        prompts = len(evaluation.summary["prompts"])
        unseen = "which no training saw, " if evaluation.held_out == prompts else ""
        told.append(
            f"In evaluation {evaluation.name}, {_models(evaluation)} drew {counted(prompts, 'prompt')}, "
            f"{unseen}with {counted(len(evaluation.summary['seeds']), 'seed')} a prompt, and every video was scored."
        )
    return told


def _models(evaluation: Evaluation) -> str:
    """Name the models, the variants of a run by their number."""
    if len(evaluation.models) == len(evaluation.main_models):
        return listed(evaluation.models)
    variants = len(evaluation.models) - len(evaluation.main_models)
    return f"{listed(evaluation.main_models)} and {counted(variants, 'variant')} of other strength"


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


def findings(audit: Audit | None, evaluations: list[Evaluation]) -> list[Finding]:
    """Return the headlines, labels first, each saying no more than its interval allows."""
    named = len(evaluations) > 1
    return _of_audit(audit) + [found for evaluation in evaluations for found in _of_evaluation(evaluation, named)]


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
        found.append(Finding(value, f"[{interval}", sentence, "bad" if lean else "open"))
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
        outcome = f"{said} {'from' if said == 'not told apart' else 'than'} {evaluation.base}"
        direction = "" if info["better"] == "neither" else f" ({info['better']} is better)"
        sentence = f"{info['label'].lower()}{direction}, {model} minus {evaluation.base}: {model} is {outcome}."
        if named:
            sentence = f"evaluation {evaluation.name}: {sentence}"
        overall = (evaluation.part("overall") or {}).get(model)
        beside = _motion(evaluation, model, motion) if motion else ""
        if overall:
            beside = f"{beside} Motion considered: {overall['verdict']}."
        shade = tone(overall["verdict"] if overall else said)
        found.append(Finding(signed_estimate(difference), bracket(difference), sentence, shade, beside.strip()))
    return found


def _motion(evaluation: Evaluation, model: str, motion: Mapping[str, Any]) -> str:
    unit = evaluation.info[str(evaluation.motion)].get("unit", "")
    ratio = evaluation.ratios.get(model, {}).get(evaluation.motion)
    share = f", {share_with_interval(ratio)} of {evaluation.base}'s" if ratio else ""
    return f"Motion beside it: {signed_estimate(motion)} {unit} {bracket(motion)}{share}."
