"""What a study compares: every pairing on every prompt, balanced over people, and kept over restarts."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from tests.study_room import NAME, make_evaluation, open_room, study_settings

from densedpo.config_study import StudySettings
from densedpo.errors import ConfigError, ProjectError
from densedpo.evaluation.study.balance import balanced
from densedpo.evaluation.study.plan import Item, Plan, Samples, Take, merged, plan_items, read_plan
from densedpo.evaluation.study.questions import QUESTIONS, load_questions
from densedpo.evaluation.study.takes import sampled
from densedpo.labels.queue import Choose

MODELS = ("base", "dense", "vanilla")
PROMPTS = {f"p{number}": f"text {number}" for number in range(12)}


def samples(seeds: int = 2, models: tuple[str, ...] = MODELS) -> Samples:
    return {
        (model, prompt, seed): Take(model, seed, f"{model}/{prompt}-{seed}.mp4", f"{model} {prompt} {seed}")
        for model in models
        for prompt in PROMPTS
        for seed in range(seeds)
    }


def planned(**chosen: int) -> list[Item]:
    return plan_items(samples(), PROMPTS, MODELS, QUESTIONS, StudySettings(**chosen))


def test_every_pairing_meets_once_on_every_prompt_from_one_seed() -> None:
    items = [item for item in planned() if item.kind == "models"]
    assert Counter(item.pairing for item in items) == {
        ("base", "dense"): 12,
        ("base", "vanilla"): 12,
        ("dense", "vanilla"): 12,
    }
    for prompt in PROMPTS:
        own = [item for item in items if item.prompt_id == prompt]
        assert len(own) == 3
        assert len({take.seed for item in own for take in (item.a, item.b)}) == 1
    assert {item.a.seed for item in items} == {0, 1}  # not always the same seed
    assert len([i for i in planned(seeds_per_prompt=2) if i.kind == "models"]) == 72
    again = plan_items(samples(), PROMPTS, MODELS[::-1], QUESTIONS, StudySettings())
    assert [item.item_id for item in planned()] == [item.item_id for item in again]


def test_models_meet_themselves_and_videos_too() -> None:
    items = planned(same_model_every=6, control_every=6)
    same = [item for item in items if item.kind == "same_model"]
    assert len(same) == 6
    assert all(item.a.model == item.b.model and item.a.seed != item.b.seed for item in same)
    assert Counter(item.a.model for item in same) == dict.fromkeys(MODELS, 2)
    twice = [item for item in items if item.kind == "same_video"]
    assert len(twice) == 7
    assert all(item.a == item.b for item in twice)
    assert {item.kind for item in planned(same_model_every=0, control_every=0)} == {"models"}


def test_one_seed_leaves_no_model_to_meet_itself() -> None:
    items = plan_items(samples(1), PROMPTS, MODELS, QUESTIONS, StudySettings())
    assert not [item for item in items if item.kind == "same_model"]


@pytest.mark.parametrize(
    ("models", "said"),
    [(("base",), "two models"), (("base", "base"), "two models"), (("base", "other"), "share no prompt and seed")],
)
def test_models_that_cannot_be_compared(models: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_items(samples(), PROMPTS, models, QUESTIONS, StudySettings())


def test_models_without_a_common_seed() -> None:
    apart = {key: take for key, take in samples().items() if key[2] == (0 if key[0] == "base" else 1)}
    with pytest.raises(ConfigError, match="share no prompt and seed"):
        plan_items(apart, PROMPTS, ("base", "dense"), QUESTIONS, StudySettings())


def deal(choose: Choose, items: list[Item], people: int) -> dict[str, list[Item]]:
    """Let people take items in turn, each once, until nothing is left."""
    known = {item.item_id: item for item in items}
    free, had = dict.fromkeys(known, 1), {f"person{number}": list[str]() for number in range(people)}
    while any(free.values()):
        for person, own in had.items():
            offered = {item_id: places for item_id, places in free.items() if places and item_id not in own}
            if offered:
                chosen = choose(person, offered, own)
                free[chosen] -= 1
                own.append(chosen)
    return {person: [known[item_id] for item_id in own] for person, own in had.items()}


def is_balanced(dealt: dict[str, list[Item]]) -> bool:
    """Say whether nobody had a pairing more than one item oftener than another one, and prompts are spread out."""
    for own in dealt.values():
        counts = [sum(item.pairing == pairing for item in own) for pairing in combinations(MODELS, 2)]
        prompts = Counter(item.prompt_id for item in own)
        if max(counts) - min(counts) > 1 or max(prompts.values()) > 2:
            return False
    return True


def test_people_get_as_many_of_every_pairing() -> None:
    items = [item for item in planned() if item.kind == "models"]
    dealt = deal(balanced(items), items, people=3)
    assert sorted(len(own) for own in dealt.values()) == [12, 12, 12]
    assert is_balanced(dealt)
    orders = {tuple(item.item_id for item in own) for own in dealt.values()}
    assert len(orders) == 3


def test_the_plain_order_would_not_be_balanced() -> None:
    items = [item for item in planned() if item.kind == "models"]
    assert not is_balanced(deal(lambda _person, offered, _had: next(iter(offered)), items, people=3))


def test_items_with_more_free_places_come_first() -> None:
    items = [item for item in planned() if item.pairing == ("base", "dense") and item.kind == "models"]
    offered = {item.item_id: 2 - (place % 2) for place, item in enumerate(items)}
    assert offered[balanced(items)("ann", offered, [])] == 2


def test_the_plan_outlives_other_models_and_retires_other_videos(tmp_path: Path) -> None:
    project = make_evaluation(tmp_path, models=MODELS)
    office, first = open_room(project, ("base", "dense"))
    office.close()
    office, second = open_room(project, ("base", "vanilla"))
    office.close()
    assert set(first.items) < set(second.items)
    assert Counter(item.pairing for item in second.of("models")) == {("base", "dense"): 3, ("base", "vanilla"): 3}
    kept = read_plan(project.evaluation(NAME))
    assert kept == second
    video = project.evaluation(NAME) / first.of("models")[0].b.video
    video.write_bytes((project.evaluation(NAME) / "videos/vanilla/prompt1-0.mp4").read_bytes())
    office, third = open_room(project, ("base", "dense"))
    office.close()
    changed = {key for key, item in second.items.items() if item.b.video == first.of("models")[0].b.video}
    assert changed
    assert set(third.retired) == changed


def test_a_begun_study_asks_no_other_questions(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("- {code: better, name: Better, text: 'Which is better?'}\n", encoding="utf-8")
    before = Plan(NAME, MODELS, QUESTIONS, {}, {})
    with pytest.raises(ConfigError, match="asks other questions already"):
        merged(before, Plan(NAME, MODELS, load_questions(file), {}, {}), {})
    assert merged(None, before, {}) is before


def test_questions_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("- {code: better, name: Better, text: 'Which is better?', hint: Overall.}\n", encoding="utf-8")
    (question,) = load_questions(file)
    assert (question.code, question.hint) == ("better", "Overall.")
    assert [question.code for question in load_questions(None)] == [
        "text_alignment",
        "visual_quality",
        "temporal_consistency",
        "dynamic_degree",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {code: Better, name: B, text: T}", "code"),
        ("- {code: a, name: B, text: T}\n- {code: a, name: C, text: U}", "different codes"),
        ("[]", "1 to 12 questions"),
        ("code: a", "write a list"),
        ("- {code: a, name: B, text: T, colour: red}", "colour"),
        ("{", "not YAML"),
    ],
)
def test_questions_that_cannot_be_asked(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_questions(file)


def test_a_missing_evaluation_names_the_command(tmp_path: Path) -> None:
    project = make_evaluation(tmp_path, prompts=1, seeds=1)
    with pytest.raises(ProjectError, match="densedpo evaluate --name other"):
        sampled(project, "other")


def test_many_models_have_to_be_named(tmp_path: Path) -> None:
    project = make_evaluation(tmp_path, models=("base", "a", "b", "c"), prompts=1, seeds=1)
    with pytest.raises(ConfigError, match="--models"):
        open_room(project, ())


def test_the_settings_of_the_room_measure_nobody() -> None:
    chosen = study_settings().study
    assert (chosen.control_every, chosen.repeat_every, chosen.same_model_every) == (0, 0, 0)
