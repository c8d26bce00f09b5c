"""``densedpo study serve`` and ``invite``: the labelling page with questions about whole videos, for one evaluation.

Puts the page's parts (labels/people) together for the items of a plan. Answers go to ``evals/NAME/study.db``, a label
store of its own: an item stands for the pair, a question's number for the segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densedpo.clips.encode import view_frames
from densedpo.config import Settings
from densedpo.config_labels import ServeSettings
from densedpo.errors import ConfigError, LabelError
from densedpo.evaluation.study.balance import balanced
from densedpo.evaluation.study.plan import Item, Plan, merged, plan_items, read_plan, write_plan
from densedpo.evaluation.study.questions import load_questions, questions_digest
from densedpo.evaluation.study.raters import raters
from densedpo.evaluation.study.takes import cards_of, copies_of, sampled, take_all
from densedpo.evaluation.study.votes import STORE_FILE
from densedpo.keys import stream
from densedpo.labels.answers import Answer
from densedpo.labels.people.asks import Card, Questions
from densedpo.labels.people.assign import Assigner
from densedpo.labels.people.desk import Desk, Shape
from densedpo.labels.people.films import Films
from densedpo.labels.people.office import Office
from densedpo.labels.people.overview import progress_of
from densedpo.labels.people.proxies import PairProxies
from densedpo.labels.people.roster import Role, Roster, server_secret
from densedpo.labels.people.serve import invite_into, run
from densedpo.labels.queue import Queue
from densedpo.labels.store import LabelStore
from densedpo.observe import say, warn
from densedpo.store.files import remove_leftovers
from densedpo.store.project import Project

_MODELS_UNASKED = 3


def serve_study(
    project: Project, settings: Settings, name: str, models: Sequence[str], questions: Path | None
) -> dict[str, Any]:
    """Serve the study of evaluation ``name`` until the process is told to stop.

    Raises:
        ConfigError: as ``open_study``; if it would listen beyond this machine with nobody invited.
        ProjectError, LabelError: as ``open_study``.
    """
    office, plan = open_study(project, settings, name, models, questions)
    return run(office, lambda running: team_of(running, plan), "study", ahead=True)


def invite_to_study(project: Project, settings: Settings, name: str, person: str, role: Role) -> str:
    """Invite a person to the study of evaluation ``name`` and return their link.

    Raises:
        ProjectError: if there is no such evaluation.
        LabelError: if name or role cannot be used, or the store cannot.
    """
    folder = project.need(project.evaluation(name), f"densedpo evaluate --name {name}")
    return invite_into(folder / STORE_FILE, folder, settings.study, person, role)


def open_study(
    project: Project,
    settings: Settings,
    name: str,
    models: Sequence[str],
    questions: Path | None,
) -> tuple[Office, Plan]:
    """Make or extend the plan, and open store and queue; browser copies are made when asked for, or ahead of that.

    Args:
        project: the project.
        settings: the section ``study`` counts.
        name: of the evaluation.
        models: whose videos are compared, all with all; the evaluation's own where none is named.
        questions: file of what is asked; the plan's own, or the four of ours, without.

    Raises:
        ConfigError: if the models or questions cannot be used.
        ProjectError: if there is no such evaluation.
        LabelError: if nothing can be shown, or the store cannot be used.
    """
    folder, rows = project.evaluation(name), sampled(project, name)
    before = read_plan(folder)
    asked = before.questions if before and questions is None else load_questions(questions)
    chosen = _chosen(models, list(dict.fromkeys(row["model"] for row in rows)))
    earlier = {model for item in (before.items.values() if before else ()) for model in item.pairing}
    samples = take_all(folder, rows, [*chosen, *earlier])
    prompts = {str(row["prompt_id"]): row["prompt"] for row in rows}
    wanted = plan_items(samples, prompts, chosen, asked, settings.study)
    plan = merged(before, Plan(name, tuple(chosen), asked, {item.item_id: item for item in wanted}, {}), samples)
    write_plan(folder, plan)
    cards = cards_of(folder, wanted)
    shown = [item for item in wanted if item.item_id in cards]
    if not any(item.kind == "models" for item in shown):
        raise LabelError(f"evals/{name}: no two videos can be compared; see the warnings above")
    if settings.study.same_model_every and not plan.of("same_model"):
        warn("one seed a prompt: no model can meet itself, so chance is not measured; sample.seeds 2 would do")
    _tell(shown, settings)
    return _office(project, settings, plan, shown, cards), plan


def team_of(office: Office, plan: Plan) -> dict[str, Any]:
    """Return what admins see while a study runs: progress and flags, never what people prefer."""
    found = progress_of(office)
    measured = {rater["person"]: rater for rater in raters(office.store.current(), plan)}
    for person in found["people"]:
        rater = measured.get(person["annotator"])
        if rater is not None:
            person |= {"flags": rater["flags"], "median_dwell_s": rater["item_s"]["value"]}
    hidden = "Hidden while the study runs, so that nobody is led by them: see densedpo study results."
    fixed = {"title": "Study: the team", "unit": "comparisons", "roles": ["annotator", "admin"]}
    return found | fixed | {"answers": None, "disagreements": None, "hidden": hidden}


def _office(project: Project, settings: Settings, plan: Plan, items: Sequence[Item], cards: dict[str, Card]) -> Office:
    folder, study = project.evaluation(plan.evaluation), settings.study
    serving = ServeSettings(
        host=study.host,
        port=study.port,
        public_url=study.public_url,
        lease_s=study.lease_s,
        overlap=study.overlap,
        gold_every=study.control_every,
        repeat_every=study.repeat_every,
    )
    secret = server_secret(folder)
    store = LabelStore.open(folder / STORE_FILE)
    work = [item for item in items if item.kind != "same_video"]
    queue = Queue(store.database, study.overlap, study.lease_s, choose=balanced(work))
    order = stream(settings.seed, "study order", plan.evaluation).permutation(len(work))
    queue.fill([work[int(place)].item_id for place in order])
    roster = Roster(store.database, secret)
    no_difference: dict[int, Answer] = dict.fromkeys(range(len(plan.questions)), "tie")
    gold = {item.item_id: no_difference for item in items if item.kind == "same_video"}
    assigner = Assigner(store.database, queue, roster, serving, gold)
    asked = Questions(plan.questions, questions_digest(plan.questions))
    remove_leftovers(project.cache / "study")
    films = Films(cards, _copies(project, plan))
    desk = Desk(store, queue, roster, assigner, cards, lambda item_id: _shape(cards[item_id]), serving, asked, secret)
    changed = settings.model_copy(update={"serve": serving})
    return Office(project, changed, secret, store, queue, roster, desk, films, gold)


def _copies(project: Project, plan: Plan) -> Callable[[Card], PairProxies]:
    return lambda card: copies_of(project, plan.evaluation, plan.items[card.pair_id], card)


def _shape(card: Card) -> Shape:
    """Return the size of an item's copies before there are any; what they differ by is what is asked."""
    height, width = view_frames(np.zeros((1, card.height, card.width, 3), np.uint8)).shape[1:3]
    return Shape(height, width, differences=None)


def _chosen(models: Sequence[str], there: Sequence[str]) -> list[str]:
    if not models and len(there) > _MODELS_UNASKED:
        raise ConfigError(f"{len(there)} models are in this evaluation; name those to compare with --models")
    for model in models:
        if model not in there:
            raise ConfigError(f"model {model!r} is not in this evaluation; it has {', '.join(there)}")
    return list(dict.fromkeys(models)) or list(there)


def _tell(items: Sequence[Item], settings: Settings) -> None:
    overlap = settings.study.overlap
    kinds = {kind: sum(item.kind == kind for item in items) for kind in ("models", "same_model", "same_video")}
    say(
        f"study: {kinds['models']} comparisons of models and {kinds['same_model']} of a model with itself, each for "
        f"{overlap} {'person' if overlap == 1 else 'people'}; {kinds['same_video']} controls"
    )
