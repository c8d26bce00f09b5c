"""Known numbers: scores, paired differences and ratios, with prompts as what was drawn independently."""

from __future__ import annotations

import pytest

from densedpo.evaluation.paired import Bootstrap, differences_of, ratios_of, scores_of, table_of
from densedpo.store.tables import Row


def rows(model: str, scores: dict[str, list[float]]) -> list[Row]:
    """Return rows of one model: by prompt, one score a seed."""
    return [
        {"model": model, "prompt_id": prompt, "seed": seed, "x": score}
        for prompt, found in scores.items()
        for seed, score in enumerate(found)
    ]


def summary(base: dict[str, list[float]], tuned: dict[str, list[float]]) -> dict[str, dict[str, float] | None]:
    """Return the base's score and the tuned model's difference and ratio."""
    # the tuned model's rows come in another order: pairing goes by prompt and seed
    table = table_of(rows("base", base) + rows("t", tuned)[::-1], ["base", "t"], ["x"])
    bootstrap = Bootstrap(len(base))
    found = {
        "base": scores_of(table, bootstrap)["base"]["x"],
        "difference": differences_of(table, bootstrap)["t"]["x"],
        "ratio": ratios_of(table, bootstrap)["t"]["x"],
    }
    return {name: None if interval is None else interval.as_dict() for name, interval in found.items()}


def test_two_prompts_by_hand() -> None:
    found = summary({"p": [1.0, 3.0], "q": [10.0, 10.0]}, {"p": [2.0, 4.0], "q": [13.0, 13.0]})
    # differences: 1, 1 for p and 3, 3 for q; resampling two prompts gives means from 1 (p, p) to 3 (q, q)
    # two prompts know little: Student's t with one degree of freedom makes that 12.7062 standard errors
    t = 12.7062
    assert found["base"] == pytest.approx({"mean": 6.0, "low": 6 - 4 * t, "high": 6 + 4 * t, "count": 2})
    assert found["difference"] == pytest.approx({"mean": 2.0, "low": 2 - t, "high": 2 + t, "count": 2})
    # ratio of sums 32 / 24; p alone 6 / 4, q alone 26 / 20, where percentiles reach further than the standard error
    wide = t / 1.959964 * 2**0.5
    assert found["ratio"] is not None
    assert found["ratio"]["mean"] == pytest.approx(32 / 24)
    assert found["ratio"]["high"] == pytest.approx(32 / 24 + wide * (1.5 - 32 / 24))
    error = (2 / 3) * 2**0.5 / 24  # residuals 6 - 4 * 4 / 3 = 2 / 3 and 26 - 20 * 4 / 3 = - 2 / 3
    assert found["ratio"]["low"] == pytest.approx(32 / 24 - wide * 1.959964 * error)


def test_pairing_removes_what_models_share() -> None:
    base = {f"p{n}": [100.0 * n] for n in range(8)}
    found = summary(base, {prompt: [value + 1 for value in values] for prompt, values in base.items()})
    assert found["difference"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 8}


def test_identical_models_differ_by_exactly_nothing() -> None:
    scores = {f"p{n}": [0.1 * n + 0.3, 0.7 * n] for n in range(5)}
    found = summary(scores, scores)
    assert found["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "count": 5}
    assert found["ratio"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 5}


def test_prompts_are_the_clusters() -> None:
    base, tuned = ({f"p{n}": [slope * n] for n in range(6)} for slope in (1.0, 2.0))
    more_seeds = [{prompt: values * 10 for prompt, values in scores.items()} for scores in (base, tuned)]
    once, often = summary(base, tuned), summary(*more_seeds)
    assert often == once  # ten equal seeds a prompt say nothing new: the interval is as wide
    assert once["difference"] is not None
    assert (once["difference"]["count"], once["difference"]["mean"]) == (6, 2.5)
    assert 0 < once["difference"]["low"] < 2.5 < once["difference"]["high"] < 5


@pytest.mark.parametrize("base", [0.0, -1.0])
def test_no_ratio_to_a_base_without_a_positive_score(base: float) -> None:
    found = summary({"p": [base], "q": [base]}, {"p": [1.0], "q": [1.0]})
    assert found["ratio"] is None
    assert found["difference"] is not None and found["difference"]["mean"] == 1.0 - base
