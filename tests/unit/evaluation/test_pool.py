"""Samples shared by evaluations, made in parts by several callers, at other LoRA scales and from checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from densedpo.config import Settings, parse_settings
from densedpo.errors import ConfigError, ModelError, ProjectError
from densedpo.evaluation.controls import freeze
from densedpo.evaluation.loading import load_variant
from densedpo.evaluation.prompts import make_prompts
from densedpo.evaluation.run import evaluate
from densedpo.evaluation.scorers import ScoreInfo
from densedpo.evaluation.variants import Variant
from densedpo.models.load import load_model
from densedpo.models.lora import lora_tensors
from densedpo.store.files import read_json, write_json
from densedpo.store.project import Project
from densedpo.store.shard import Shard, parse_shard
from densedpo.store.tables import read_table
from densedpo.training.run import train

PROMPTS = make_prompts([f"a {colour} circle drifting" for colour in ("red", "blue", "green")])


class Change:
    """How much neighbouring frames differ, and how bright they are; counts what it was asked."""

    name = "change"
    version = 1
    infos: ClassVar[dict[str, ScoreInfo]] = {
        "change": ScoreInfo("change", "", "higher", "Mean change from frame to frame.", True),
        "steady": ScoreInfo("steadiness", "", "lower", "The same, as if little change were good."),
    }

    def __init__(self) -> None:
        self.asked = 0

    def check(self, prompt: str) -> None:
        """Accept every prompt."""

    def score(self, frames: NDArray[np.uint8], fps: float, prompt: str) -> dict[str, float]:
        self.asked += 1
        change = float(np.abs(np.diff(frames.astype(np.float64), axis=0)).mean())
        return {"change": change, "steady": change}


def settings_for(model: Path, evaluate: dict[str, Any] | None = None, **sample: object) -> Settings:
    chosen = {"steps": 1, "seeds": 2, "batch_size": 2} | sample
    return parse_settings({"model": str(model), "device": "cpu", "sample": chosen, "evaluate": evaluate or {}})


def run(
    project: Project, settings: Settings, *runs: str, name: str = "e", shard: str | None = None, scorer: Any = None
) -> dict[str, Any]:
    part = parse_shard(shard) if shard else None
    return evaluate(project, settings, list(runs), PROMPTS, scorer or Change(), name, prompt_set="three", shard=part)


def videos_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.mp4"))}


def test_a_second_evaluation_reuses_what_the_first_made(
    tuned: Project, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tiny_model_folder)
    first = run(tuned, settings, "tuned", name="one")
    monkeypatch.setattr("densedpo.evaluation.sampling.sample_latents", None)
    scorer = Change()
    again = run(tuned, settings, "tuned", name="two", scorer=scorer)
    assert scorer.asked == 0
    assert again | {"name": "one"} == first
    assert videos_in(tuned.evaluation("one")) == videos_in(tuned.evaluation("two"))
    # either may be removed: the other stays whole
    shutil.rmtree(tuned.evaluation("one"))
    shutil.rmtree(tuned.samples)
    rows = read_table(tuned.evaluation("two") / "scores.parquet")
    assert all((tuned.evaluation("two") / row["video"]).is_file() for row in rows)


def test_a_file_system_without_links_gets_copies(
    tuned: Project, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("densedpo.evaluation.pool.os.link", refuse)
    run(tuned, settings_for(tiny_model_folder))
    shown, pool = tuned.evaluation("e") / "videos" / "base", next(tuned.samples.iterdir())
    assert videos_in(shown) == videos_in(pool) != {}
    assert all(path.stat().st_nlink == 1 for path in shown.iterdir())


def test_shards_in_any_order_make_what_one_call_makes(tuned: Project, tiny_model_folder: Path, tmp_path: Path) -> None:
    settings = settings_for(tiny_model_folder)
    whole = Project(Path(shutil.copytree(tuned.root, tmp_path / "whole")))
    expected = run(whole, settings, "tuned")
    made: list[set[str]] = []
    for part in ("3/3", "1/3", "2/3"):
        before = set(videos_in(tuned.samples))
        found = run(tuned, settings, "tuned", shard=part)
        made.append(set(videos_in(tuned.samples)) - before)
        assert ("scores" in found) == (part == "2/3")  # the last one to finish writes the summary
    assert [len(names) for names in made] == [4, 4, 4]
    assert found == expected == read_json(tuned.evaluation("e") / "summary.json")
    assert videos_in(tuned.root / "samples") == videos_in(whole.root / "samples")


def test_what_shards_left_a_later_call_does(tuned: Project, tiny_model_folder: Path) -> None:
    settings = settings_for(tiny_model_folder)
    part = run(tuned, settings, "tuned", shard="1/2")
    assert part == {"name": "e", "shard": "1/2", "videos": 12, "left": 6}
    assert not (tuned.evaluation("e") / "summary.json").exists()
    scorer = Change()
    run(tuned, settings, "tuned", scorer=scorer)
    assert scorer.asked == 6 + len([r for r in read_table(tuned.evaluation("e") / "frozen.parquet") if r]) - 2


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_wrong_shards_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="i/n"):
        parse_shard(text)


def test_shards_are_disjoint_and_whole() -> None:
    for count in (1, 2, 5):
        owners = [[shard for shard in range(1, count + 1) if Shard(shard, count).takes(n)] for n in range(20)]
        assert all(len(own) == 1 for own in owners)


def test_an_interrupted_scoring_goes_on(tuned: Project, tiny_model_folder: Path) -> None:
    class Tired(Change):
        def score(self, frames: NDArray[np.uint8], fps: float, prompt: str) -> dict[str, float]:
            if self.asked == 5:
                raise KeyboardInterrupt
            return super().score(frames, fps, prompt)

    settings = settings_for(tiny_model_folder)
    with pytest.raises(KeyboardInterrupt):
        run(tuned, settings, scorer=Tired())
    scorer = Change()
    run(tuned, settings, scorer=scorer)
    assert scorer.asked == 9 - 5  # six clips and three frozen ones


def test_another_version_of_a_scorer_scores_again(tuned: Project, tiny_model_folder: Path) -> None:
    settings = settings_for(tiny_model_folder)
    run(tuned, settings)
    newer = Change()
    newer.version = 2
    run(tuned, settings, scorer=newer)
    assert newer.asked == 9


def test_scales_are_a_curve_from_the_base(tuned: Project, tiny_model_folder: Path) -> None:
    settings = settings_for(tiny_model_folder, {"scales": "0,0.5,1,1.5"})
    found = run(tuned, settings, "tuned")
    names = [model["name"] for model in found["models"]]
    assert names == ["base", "tuned@0.5", "tuned", "tuned@1.5"]
    assert len({model["samples"] for model in found["models"]}) == 4
    assert found["curves"]["lines"][0]["models"] == names
    assert len({tuple(map(str, found["scores"][name].values())) for name in names}) == 4
    # the run at scale 1 is the run, for any evaluation
    assert run(tuned, settings_for(tiny_model_folder), "tuned", name="plain")["models"][1] == found["models"][2]
    assert "tuned" in found["hashes"]["loras"]


def test_scale_zero_is_the_base_bit_for_bit(tuned: Project, tiny_model_folder: Path) -> None:
    from densedpo.models.lora import load_lora
    from densedpo.models.sampling import sample_latents

    base, off = (load_model(str(tiny_model_folder), device="cpu") for _ in ("base", "off"))
    load_lora(off, tuned.run("tuned") / "lora", 0.0)
    draws = [
        sample_latents(model, [PROMPTS[0].text], [(PROMPTS[0].prompt_id, 0)], steps=1, cfg=2.0, shift=3.0)
        for model in (base, off)
    ]
    assert torch.equal(*draws)
    # so the base's samples stand for it
    found = run(tuned, settings_for(tiny_model_folder, {"scales": "0"}), "tuned")
    assert [model["name"] for model in found["models"]] == ["base"]


@pytest.mark.parametrize("ema", [None, 0.5])
def test_every_checkpoint_is_a_point(
    labelled_project: Path, tiny_model_folder: Path, ema: float | None, tmp_path: Path
) -> None:
    project = Project(labelled_project)
    train_settings: dict[str, Any] = {"save_steps": 1, "save_total_limit": 5}
    train_settings |= {"batch_size": 1, "lora_rank": 2, "eval_share": 0, "warmup_steps": 0}
    train_settings |= {"learning_rate": 0.1, "ema_decay": ema}
    train_settings |= {"lr_schedule": "constant"}
    for name, steps in (("short", 2), ("long", 3)):
        settings = parse_settings({"train": train_settings | {"max_steps": steps}})
        train(project, load_model(str(tiny_model_folder), device="cpu"), settings, name, None)
    found = run(project, settings_for(tiny_model_folder, {"every_checkpoint": True}, seeds=1), "long")
    names = [model["name"] for model in found["models"]]
    assert names == ["base", "long", "long#step-1", "long#step-2"]
    assert found["curves"]["lines"][-1]["models"] == ["base", "long#step-1", "long#step-2", "long"]
    assert [model["step"] for model in found["models"]] == [None, None, 1, 2]
    # what a checkpoint loads as is what a run of that length saves
    settings = settings_for(tiny_model_folder)
    point = project.run("long") / "checkpoints" / "step-2"
    whole = lora_tensors(load_variant(Variant("short", "short", 1.0, None, project.run("short")), settings))
    part = lora_tensors(load_variant(Variant("long#step-2", "long", 1.0, 2, point), settings))
    assert whole.keys() == part.keys()
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_a_checkpoint_of_another_base_is_refused(tuned: Project, tiny_model_folder: Path) -> None:
    facts = read_json(tuned.run("tuned") / "run.json")
    write_json(tuned.run("tuned") / "run.json", facts | {"base_fingerprint": "other", "steps": 99})
    with pytest.raises(ModelError, match="trained on base other"):
        run(tuned, settings_for(tiny_model_folder, {"every_checkpoint": True}), "tuned")


def test_no_checkpoints_to_draw(tuned: Project, tiny_model_folder: Path) -> None:
    with pytest.raises(ProjectError, match="--save-total-limit"):
        run(tuned, settings_for(tiny_model_folder, {"every_checkpoint": True}), "tuned")


def test_a_quality_that_cannot_decide_is_refused(tuned: Project, tiny_model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="steady"):
        run(tuned, settings_for(tiny_model_folder, {"quality": "change"}))


def test_controls_and_properties_are_in_every_summary(tuned: Project, tiny_model_folder: Path) -> None:
    found = run(tuned, settings_for(tiny_model_folder), "tuned")
    assert found["schema_version"] == 2
    assert (found["motion"], found["quality"]) == ("change", "steady")
    frozen = found["controls"]["frozen"]
    assert frozen["won"] == ["steady"]  # bought by freezing, and said so
    assert frozen["clips"] == 3
    assert frozen["scores"]["steady"]["frozen"]["mean"] == 0
    assert frozen["scores"]["change"]["won"] is False
    assert frozen["overall"]["verdict"] != "better"
    assert "steadiness" in frozen["sentence"]
    identical = found["controls"]["identical"]
    assert identical["differences"].keys() == {"change", "steady"}
    assert found["prompt_set"] | {"digest": ""} == {"name": "three", "digest": "", "count": 3, "held_out": 3}
    assert found["properties"]["differences"]["tuned"].keys() == found["properties"]["info"].keys()
    assert found["bradley_terry"] is None and found["curves"]["lines"] == []
    rows = read_table(tuned.evaluation("e") / "scores.parquet")
    assert all(0 <= row["property_brightness"] <= 1 for row in rows)
    single = run(tuned, settings_for(tiny_model_folder, seeds=1), name="single")
    assert single["controls"]["identical"] is None


def test_a_frozen_clip_shows_its_middle_frame() -> None:
    frames = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    still = freeze(frames)
    assert still.shape == frames.shape and still.flags.c_contiguous
    assert all(np.array_equal(frame, frames[2]) for frame in still)
