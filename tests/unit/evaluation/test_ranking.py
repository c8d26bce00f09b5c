from __future__ import annotations

import pytest

from densedpo.evaluation.ranking import Ranker, ranking_agreement
from densedpo.evaluation.scorers import ScoreInfo
from densedpo.keys import stream
from densedpo.store.tables import Row


def ranker(name: str, means: dict[str, float], better: str = "higher", noise: float = 0.3) -> Ranker:
    """Scores of 40 prompts: a prompt's own level, the model's mean, and noise."""
    rng = stream("tests", "ranking", name)
    rows: list[Row] = []
    for prompt in range(40):
        level = rng.normal(0, 5)
        for model, mean in means.items():
            score = level + mean + rng.normal(0, noise)
            rows.append({"model": model, "prompt_id": f"p{prompt}", "seed": 0, name: score})
    return Ranker(name, ScoreInfo(f"the {name}", "", better, ""), rows)  # type: ignore[arg-type]


TRUTH = ranker("truth", {"base": 0, "vanilla": 1, "dense": 2})


def test_the_same_ranking_in_another_unit_and_direction_agrees() -> None:
    found = ranking_agreement(TRUTH, ranker("error", {"base": 9, "vanilla": 7, "dense": 1}, "lower"))
    assert found.agrees
    assert not found.contradicts
    assert [(pair.truth, pair.found) for pair in found.pairs] == [(-1, -1)] * 3
    assert found.sentences == (
        "the error ranks base, vanilla, dense as the truth does (3 of 3 pairs told apart, by both).",
    )


def test_a_wrong_direction_contradicts_and_is_said() -> None:
    found = ranking_agreement(TRUTH, ranker("error", {"base": 9, "vanilla": 7, "dense": 1}))
    assert found.contradicts
    assert found.sentences[0] == "the truth ranks vanilla above base; the error ranks base above vanilla."
    assert len(found.sentences) == 3


@pytest.mark.parametrize("swapped", [False, True])
def test_only_what_is_told_apart_counts_as_ranked(swapped: bool) -> None:
    """A score too noisy to rank anything contradicts nothing, though its means are in some order."""
    noisy = ranker("noisy", {"base": 0.0, "vanilla": 0.02, "dense": -0.02}, noise=3)
    found = ranking_agreement(noisy, TRUTH) if swapped else ranking_agreement(TRUTH, noisy)
    assert not found.agrees
    assert not found.contradicts
    assert all("the noisy does not tell" in sentence for sentence in found.sentences)


def test_prompts_that_differ_a_lot_do_not_hide_a_paired_difference() -> None:
    assert TRUTH.ahead("dense", "vanilla") == 1
    unpaired = [row | {"prompt_id": f"{row['model']}{row['prompt_id']}"} for row in TRUTH.rows]
    assert Ranker("truth", TRUTH.info, unpaired).ahead("dense", "vanilla") == 0


def test_models_that_one_of_them_lacks_are_left_out() -> None:
    found = ranking_agreement(TRUTH, ranker("other", {"dense": 3, "base": 1, "more": 7}))
    assert [(pair.model, pair.other) for pair in found.pairs] == [("base", "dense")]
    assert found.agrees
