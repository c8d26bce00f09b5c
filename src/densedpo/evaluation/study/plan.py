"""What a study compares: which two videos make an item, and which items only measure people or chance.

scores.parquet -> Plan (evals/NAME/study-plan.json) -> the queue of the page. An item's id comes from its videos' bytes
and the questions' words, so an answer can never be taken for one about another video or another question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from densedpo.config_study import StudySettings
from densedpo.errors import ConfigError, ProjectError
from densedpo.evaluation.study.questions import questions_digest
from densedpo.keys import content_id, stream
from densedpo.labels.people.forms import Question
from densedpo.store.files import read_object, write_json

SCHEMA_VERSION = 1
PLAN_FILE = "study-plan.json"
Kind = Literal["models", "same_model", "same_video"]
Samples = Mapping[tuple[str, str, int], "Take"]


@dataclass(frozen=True)
class Take:
    """One video: who made it, from which seed, where it lies below ``evals/NAME``, and its SHA-256."""

    model: str
    seed: int
    video: str
    sha256: str


@dataclass(frozen=True)
class Item:
    """Two videos of one prompt, as stored: side a and side b. Which is shown first is the page's to draw.

    ``models`` compares two models from the same seed, ``same_model`` one model from two seeds (no side should win),
    ``same_video`` a video with itself (whoever prefers a side was not looking).
    """

    item_id: str
    kind: Kind
    prompt_id: str
    prompt: str
    a: Take
    b: Take

    @property
    def pairing(self) -> tuple[str, str]:
        """Return the two models."""
        return self.a.model, self.b.model


@dataclass(frozen=True)
class Plan:
    """All that a study asks or asked: ``items`` by id, about today's videos; ``retired``, about others.

    ``models`` is the order in which results name them.
    """

    evaluation: str
    models: tuple[str, ...]
    questions: tuple[Question, ...]
    items: dict[str, Item]
    retired: dict[str, Item]

    def of(self, kind: Kind, models: Iterable[str] | None = None) -> list[Item]:
        """Return the items of a kind, of pairings among ``models`` if they are named."""
        among = None if models is None else set(models)
        return [i for i in self.items.values() if i.kind == kind and (among is None or among.issuperset(i.pairing))]


def plan_items(
    samples: Samples,
    prompts: Mapping[str, str],
    models: Sequence[str],
    questions: Sequence[Question],
    settings: StudySettings,
) -> list[Item]:
    """Return the items of a study of ``models``: every pairing on every prompt, then what measures chance and people.

    Args:
        samples: the videos by (model, prompt id, seed).
        prompts: texts by prompt id.
        models: at least two names, all pairings of which are compared.
        questions: what is asked about each item.
        settings: how many seeds a prompt, and how often a model meets itself.

    Raises:
        ConfigError: if fewer than two models are named, or they share no prompt and seed.
    """
    if len(set(models)) < 2:
        raise ConfigError("a study compares two models or more; give --models base,RUN")
    seeds = _common_seeds(samples, prompts, models)
    if not seeds:
        raise ConfigError(f"{', '.join(models)} share no prompt and seed; evaluate them together first")
    # sides in one order, however the models are named: the same comparison must stay the same item
    models, digest = sorted(set(models)), questions_digest(questions)
    items = []
    for prompt_id, common in seeds.items():
        for seed in _drawn(common, settings.seeds_per_prompt, "seeds", prompt_id):
            takes = [samples[model, prompt_id, seed] for model in models]
            for pair in combinations(takes, 2):
                items.append(_item("models", digest, prompt_id, prompts[prompt_id], *pair))
    return items + _chance(samples, prompts, seeds, models, digest, len(items), settings)


def _chance(
    samples: Samples,
    prompts: Mapping[str, str],
    seeds: Mapping[str, Sequence[int]],
    models: Sequence[str],
    digest: str,
    count: int,
    settings: StudySettings,
) -> list[Item]:
    """Return the items in which no side is better: the same model twice, and the same video twice."""
    order = [str(name) for name in stream("study", "controls", digest).permutation(sorted(seeds))]
    made = []
    twice = [prompt_id for prompt_id in order if len(seeds[prompt_id]) > 1]
    wanted = round(count / settings.same_model_every) if settings.same_model_every else 0
    for place, prompt_id in enumerate(twice[:wanted]):
        model = models[place % len(models)]
        one, other = (samples[model, prompt_id, seed] for seed in _drawn(seeds[prompt_id], 2, "twice", prompt_id))
        made.append(_item("same_model", digest, prompt_id, prompts[prompt_id], one, other))
    # a person meets a control once in so many pairs, so nobody can use up more than this
    wanted = min(len(order), -(-count // settings.control_every) + 1) if settings.control_every else 0
    for place, prompt_id in enumerate(order[::-1][:wanted]):
        take = samples[models[place % len(models)], prompt_id, seeds[prompt_id][0]]
        made.append(_item("same_video", digest, prompt_id, prompts[prompt_id], take, take))
    return made


def read_plan(folder: Path) -> Plan | None:
    """Return the plan kept in ``evals/NAME``; None where no study was begun.

    Raises:
        ProjectError: if the file is damaged or of another version.
    """
    file = folder / PLAN_FILE
    if not file.exists():
        return None
    found = read_object(file)
    if found.get("schema_version") != SCHEMA_VERSION:
        raise ProjectError(f"{file}: a plan of version {found.get('schema_version')}; use the densedpo of then")
    questions = tuple(Question(**question) for question in found["questions"])
    items, retired = (
        {row["item_id"]: Item(**{**row, "a": Take(**row["a"]), "b": Take(**row["b"])}) for row in found[name]}
        for name in ("items", "retired")
    )
    return Plan(found["evaluation"], tuple(found["models"]), questions, items, retired)


def write_plan(folder: Path, plan: Plan) -> None:
    """Keep the plan in ``evals/NAME``."""
    shown: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "evaluation": plan.evaluation, "models": plan.models}
    shown["questions"] = [question.model_dump() for question in plan.questions]
    shown |= {name: [asdict(i) for i in getattr(plan, name).values()] for name in ("items", "retired")}
    write_json(folder / PLAN_FILE, shown)


def merged(before: Plan | None, now: Plan, samples: Samples) -> Plan:
    """Return ``now`` with what an earlier plan holds beyond it; items whose videos are gone or others are retired.

    Raises:
        ConfigError: if the earlier plan asks other questions.
    """
    if before is None:
        return now
    if before.questions != now.questions:
        raise ConfigError(
            f"evals/{now.evaluation}: its study asks other questions already; move {PLAN_FILE} and study.db away to "
            "begin another, or leave --questions as it was"
        )
    there = {take.sha256 for take in samples.values()}
    items, retired = dict(now.items), dict(before.retired)
    for item_id, item in before.items.items():
        if {item.a.sha256, item.b.sha256} <= there:
            items.setdefault(item_id, item)
        else:
            retired[item_id] = item
    models = tuple(dict.fromkeys((*now.models, *before.models)))
    return replace(
        now, models=models, items=items, retired={key: item for key, item in retired.items() if key not in items}
    )


def _common_seeds(samples: Samples, prompts: Mapping[str, str], models: Sequence[str]) -> dict[str, list[int]]:
    by_prompt: dict[str, dict[int, set[str]]] = {}
    for model, prompt_id, seed in samples:
        by_prompt.setdefault(prompt_id, {}).setdefault(seed, set()).add(model)
    common = {
        prompt_id: sorted(seed for seed, made in by_prompt.get(prompt_id, {}).items() if made.issuperset(models))
        for prompt_id in prompts
    }
    return {prompt_id: seeds for prompt_id, seeds in common.items() if seeds}


def _drawn(seeds: Sequence[int], count: int, what: str, prompt_id: str) -> list[int]:
    """Return up to ``count`` of the seeds, drawn from the prompt alone so that every model is seen from the same."""
    order = stream("study", what, prompt_id).permutation(np.array(seeds))
    return sorted(int(seed) for seed in order[:count])


def _item(kind: Kind, digest: str, prompt_id: str, prompt: str, a: Take, b: Take) -> Item:
    item_id = content_id("study item", kind, digest, prompt_id, *(asdict(take) for take in (a, b)))
    return Item(item_id, kind, prompt_id, prompt, a, b)
