"""``densedpo study results``: what people prefer, pairing by pairing and question by question -> evals/NAME/study.json.

Only votes count: what was shown to measure a person (controls, repeats) does not, and people whose answers were flagged
are left out unless told otherwise. With three models or more they are ranked too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from densedpo.evaluation.statistics import holm, power, share_half_width
from densedpo.evaluation.study.ranking import ranking
from densedpo.evaluation.study.raters import RULES, raters
from densedpo.evaluation.study.rates import agreement, net_win, rates
from densedpo.evaluation.study.votes import Answers, Vote, read_answers
from densedpo.intervals import Interval
from densedpo.labels.answers import VOTING_TASKS
from densedpo.labels.reliability import share
from densedpo.store.files import write_json
from densedpo.store.project import Project

SCHEMA_VERSION = 1
RESULTS_FILE = "study.json"


def study_results(project: Project, name: str, *, keep_flagged: bool = False) -> dict[str, Any]:
    """Write ``evals/NAME/study.json`` and return what is in it.

    Raises:
        ProjectError: if no study was begun.
        LabelError: if the store cannot be read.
    """
    found = results_of(read_answers(project, name), keep_flagged=keep_flagged)
    write_json(project.evaluation(name) / RESULTS_FILE, found)
    return found


def results_of(answers: Answers, *, keep_flagged: bool = False) -> dict[str, Any]:
    """Return all results of a study as plain values for JSON; docs/guides/study.md says what they mean."""
    plan, measured = answers.plan, raters(answers.events, answers.plan)
    left_out = [] if keep_flagged else [rater["person"] for rater in measured if rater["flags"]]
    votes = [vote for vote in answers.votes if vote.task in VOTING_TASKS and vote.person not in left_out]
    between = [vote for vote in votes if vote.item.kind == "models"]
    compared = {model for item in plan.of("models") for model in item.pairing}
    models = [model for model in plan.models if model in compared]
    prompts = {vote.item.prompt_id for vote in between}
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation": plan.evaluation,
        "models": models,
        "questions": [question.model_dump() for question in plan.questions],
        "people": len({vote.person for vote in between}),
        "prompts": len(prompts),
        "items": {
            "planned": len(plan.of("models")),
            "answered": len({vote.item.item_id for vote in between}),
        },
        "answers": len(between),
        "answers_about_other_videos": answers.retired,
        "power": _power(len(prompts)) if prompts else None,
        "pairings": [_pairing(between, pair, [q.code for q in plan.questions]) for pair in combinations(models, 2)],
        "agreement": {
            question.code: agreement([v for v in between if v.question == question.code and v.value is not None])
            for question in plan.questions
        },
        "bradley_terry": {q.code: ranking([v for v in between if v.question == q.code], models) for q in plan.questions}
        if len(models) > 2
        else None,
        "controls": _controls(answers.votes, votes),
        "raters": measured,
        "flag_rules": RULES,
        "left_out": left_out,
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return the results as lines for people."""
    names = {question["code"]: question["name"] for question in found["questions"]}
    told = []
    for pairing in found["pairings"]:
        told.append(f"{pairing['a']} against {pairing['b']} (win / tie / lose, net win rate, agreement):")
        for question in pairing["questions"]:
            told.append(f"  {names[question['question']]}: {_told(question)}")
    ranked = found["bradley_terry"] or {}
    told += [f"{names[code]}: {one['sentence']}" for code, one in ranked.items() if one]
    told += [control["sentence"] for control in found["controls"].values()]
    told += [f"{rater['person']}: flagged: {', '.join(rater['flags'])}" for rater in found["raters"] if rater["flags"]]
    if found["left_out"]:
        told.append(f"left out: {', '.join(found['left_out'])}; --keep-flagged counts them")
    return told


def _power(prompts: int) -> dict[str, Any]:
    return {"prompts": prompts, "half_width": share_half_width(prompts), "sentence": power(prompts, [])["sentence"]}


def _pairing(votes: Sequence[Vote], pair: tuple[str, str], codes: Sequence[str]) -> dict[str, Any]:
    """Return one pairing: ``a`` is the later of the models (a run, say) and ``b`` the earlier (the base)."""
    b, a = pair
    own = [_seen_from(vote, a) for vote in votes if set(vote.item.pairing) == {a, b}]
    found = [{"question": code, **rates([vote for vote in own if vote.question == code])} for code in codes]
    adjusted = holm({row["question"]: row["p"] for row in found})
    for row in found:
        net = row["net_win"]
        told_apart = net is not None and not net["low"] <= 0 <= net["high"]
        row["p_holm"] = adjusted[row["question"]]
        row["preferred"] = (a if net["mean"] > 0 else b) if told_apart else None
    return {
        "a": a,
        "b": b,
        "people": len({vote.person for vote in own}),
        "prompts": len({vote.item.prompt_id for vote in own}),
        "questions": found,
    }


def _seen_from(vote: Vote, model: str) -> Vote:
    """Return the vote with ``model`` as side a."""
    if vote.item.a.model == model or vote.value is None:
        return vote
    return Vote(**{**vars(vote), "value": -vote.value})


def _controls(every: Sequence[Vote], votes: Sequence[Vote]) -> dict[str, Any]:
    """Return what people said where nobody can be better: one video twice, one model from two seeds."""
    twice = [vote for vote in every if vote.item.kind == "same_video"]
    ties = share([vote.answer == "tie" for vote in twice], [vote.item.prompt_id for vote in twice], "control answers")
    said = "no answers yet" if ties.value is None else f"{ties.value:.0%} ties of {ties.n} answers"
    same = [(vote.value, vote.item.prompt_id) for vote in votes if vote.item.kind == "same_model"]
    judged = [(value, prompt_id) for value, prompt_id in same if value is not None]
    net = net_win([value for value, _ in judged], [prompt_id for _, prompt_id in judged])
    return {
        "same_video": {"answers": len(twice), "ties": ties.as_dict(), "sentence": f"One video shown twice: {said}."},
        "same_model": {
            "answers": len(judged),
            "net_win": None if net is None else net.as_dict(),
            "sentence": f"One model against itself: {_chance(net)}.",
        },
    }


def _chance(net: Interval | None) -> str:
    if net is None:
        return "too few answers to say"
    interval = f"{100 * net.mean:+.1f} points ({100 * net.low:+.1f} to {100 * net.high:+.1f})"
    return f"{interval}, {'as it should be' if net.low <= 0 <= net.high else 'which should hold 0 and does not'}"


def _told(row: Mapping[str, Any]) -> str:
    count = row["win"] + row["tie"] + row["lose"]
    if not count:
        return "no answers yet"
    shares = " / ".join(f"{100 * row[outcome] / count:.1f}" for outcome in ("win", "tie", "lose"))
    net, half = row["net_win"], row["half_width"]
    said = "no interval from one prompt" if net is None else f"net {100 * net['mean']:+.1f} ±{100 * half:.1f} points"
    alpha = row["agreement"]["alpha_ordinal"]
    agreed = "alpha undefined" if alpha["value"] is None else f"alpha {alpha['value']:.2f}"
    return f"{shares} %, {said}, {agreed}; {row['people']} people, {row['prompts']} prompts"
