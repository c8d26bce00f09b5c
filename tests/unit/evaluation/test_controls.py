"""Identical models differ in nothing, frozen clips never win overall, and a hacked judge is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from densedpo.evaluation.controls import frozen_control, identical_control
from densedpo.evaluation.headlines import headlines
from densedpo.evaluation.paired import Bootstrap
from densedpo.evaluation.properties import PREFIX, PROPERTIES, properties_of
from densedpo.evaluation.scorers import FrameScorer, ScoreInfo
from densedpo.evaluation.summary import analyse
from densedpo.evaluation.variants import Variant
from densedpo.keys import stream
from densedpo.store.tables import Row

PROMPTS, SEEDS = 20, 4
INFOS = {
    "motion": ScoreInfo("motion", "px/s", "neither", "How much moves.", True),
    "calm": ScoreInfo("calm", "", "lower", "Flicker: a still picture has none."),
    "detail": ScoreInfo("detail", "", "higher", "Sharpness."),
}


def rows(model: str = "base", *, gain: float = 0.0, motion: float = 1.0, brighter: float = 0.0) -> list[Row]:
    """Return a model's rows; ``gain`` makes it calmer, ``motion`` scales its motion."""
    rng = stream("tests", "controls", model)
    shared = stream("tests", "controls").normal(size=PROMPTS)
    made = []
    for prompt in range(PROMPTS):
        for seed in range(SEEDS):
            noise = 0.1 * rng.normal(size=3)
            row: Row = {"model": model, "prompt_id": f"p{prompt:02d}", "seed": seed}
            row |= {"motion": motion * (5 + shared[prompt] + noise[0]), "calm": 2 + noise[1] - gain}
            row |= {"detail": 1 + noise[2]} | {PREFIX + name: 0.5 + noise[2] / 50 for name in PROPERTIES}
            row[f"{PREFIX}brightness"] += brighter
            made.append(row)
    return made


def frozen() -> list[Row]:
    return [row | {"motion": 0.0, "calm": 0.0} for row in rows() if row["seed"] == 0]


def analysed(*models: dict[str, Any]) -> dict[str, Any]:
    names = [f"m{place}" for place in range(len(models))]
    found = rows() + [row for name, chosen in zip(names, models, strict=True) for row in rows(name, **chosen)]
    variants = [Variant("base"), *(Variant(name, name, 1.0) for name in names)]
    return analyse(found, frozen(), INFOS, variants, quality="calm", motion_kept=0.9)


def test_the_bases_halves_are_alike() -> None:
    found = identical_control(rows(), list(INFOS), Bootstrap(PROMPTS))
    assert found is not None and found["outside"] == []
    assert found["differences"]["motion"]["count"] == PROMPTS
    assert "3 of 3" in found["sentence"]


def test_a_scorer_that_knows_the_seed_is_found_out() -> None:
    """What differs between halves that should not: here a score that grows with the seed's number."""
    found = identical_control([row | {"calm": float(row["seed"])} for row in rows()], list(INFOS), Bootstrap(PROMPTS))
    assert found is not None and found["outside"] == ["calm"]
    assert "calm" in found["sentence"]


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_halves_are_of_equal_size(seeds: int) -> None:
    own = [row | {"calm": 1.0 if row["seed"] % 2 else 0.0} for row in rows() if row["seed"] < seeds]
    found = identical_control(own, ["calm"], Bootstrap(PROMPTS))
    assert found is not None and found["differences"]["calm"]["mean"] == 1.0
    assert identical_control([row for row in own if row["seed"] == 0], ["calm"], Bootstrap(PROMPTS)) is None


def test_a_frozen_clip_wins_what_freezing_buys_and_never_overall() -> None:
    own = [row for row in rows() if row["seed"] == 0]
    found = frozen_control(own, frozen(), INFOS, ("motion", "calm"), 0.9, Bootstrap(PROMPTS))
    assert found["won"] == ["calm"]
    assert found["scores"]["calm"]["wins"] == PROMPTS
    assert found["scores"]["detail"]["ties"] == PROMPTS and found["scores"]["detail"]["won"] is False
    assert found["scores"]["motion"]["won"] is None
    assert found["overall"]["verdict"] == "bought with motion"
    blind = frozen_control(own, frozen(), INFOS, (None, "calm"), 0.9, Bootstrap(PROMPTS))
    assert blind["overall"]["verdict"] == "motion unknown"


def test_a_model_that_freezes_more_is_not_better() -> None:
    found = analysed({"gain": 1.0, "motion": 0.5}, {"gain": 1.0, "motion": 1.0}, {})
    assert {model: verdict["verdict"] for model, verdict in found["overall"].items()} == {
        "m0": "bought with motion",
        "m1": "better",
        "m2": "not told apart",
    }
    assert found["tests"]["m0"]["calm"]["verdict"] == "better"  # the score alone would have said so
    assert found["curves"]["ship"]["model"] == "m1"
    said = headlines(found)
    assert any(line.startswith("m0: Quality rose, but motion fell") for line in said)
    assert any("calm" in line and "freezing" in line for line in said)
    assert said[-1].startswith("With 20 prompts")


def test_a_model_equal_to_the_base_differs_in_nothing() -> None:
    copies = [row | {"model": "m0"} for row in rows()]
    variants = [Variant("base"), Variant("m0", "m0", 1.0)]
    found = analyse(rows() + copies, frozen(), INFOS, variants, quality="calm", motion_kept=0.9)
    assert all(gap["low"] == gap["mean"] == gap["high"] == 0 for gap in found["differences"]["m0"].values())
    assert all(test["p"] is None and test["ties"] == PROMPTS for test in found["tests"]["m0"].values())
    assert found["properties"]["alarms"] == []


def test_the_same_scores_give_the_same_numbers() -> None:
    assert analysed({"gain": 0.1}, {"motion": 0.8}) == analysed({"gain": 0.1}, {"motion": 0.8})


def test_a_property_that_shifts_is_an_alarm_in_words() -> None:
    found = analysed({"gain": 1.0, "brighter": 0.1})["properties"]
    (alarm,) = [entry for entry in found["alarms"] if entry["property"] == "brightness"]
    assert alarm["model"] == "m0"
    assert "brightness rose by 20 % (+0.1" in alarm["sentence"]
    assert alarm["large"] and alarm["share"] == pytest.approx(0.2, abs=0.01)
    (small,) = [a for a in analysed({"brighter": 0.02})["properties"]["alarms"] if a["property"] == "brightness"]
    assert not small["large"]
    assert any("small shifts" in line for line in headlines(analysed({"brighter": 0.02})))


def test_properties_of_pictures() -> None:
    dark, bright = np.full((12, 32, 32, 3), 40, np.uint8), np.full((12, 32, 32, 3), 200, np.uint8)
    assert properties_of(dark).keys() == PROPERTIES.keys()
    assert properties_of(bright)["brightness"] - properties_of(dark)["brightness"] == pytest.approx(160 / 255, abs=0.01)
    # from smooth to busy: texture drifts upwards
    busy = dark.copy()
    noise = stream("tests", "texture").integers(0, 60, size=(1, 32, 32, 1), dtype=np.uint8)
    busy += (noise * np.linspace(0.1, 1, 12)[:, None, None, None]).astype(np.uint8)
    assert properties_of(busy)["texture_drift"] > 1
    assert properties_of(busy[::-1])["texture_drift"] < -0.5
    assert properties_of(dark[:1])["texture_drift"] == 0


def test_the_frame_scorers_motion_and_quality_are_found() -> None:
    from densedpo.evaluation.summary import first_quality, motion_score

    assert motion_score(FrameScorer.infos) == "motion_px_s"
    assert FrameScorer.infos[str(first_quality(FrameScorer.infos))].better != "neither"
