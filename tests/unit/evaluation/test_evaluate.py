"""The stage as a whole: files, pairing, refusal before work, and repetition with changed inputs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from densedpo.config import Settings, parse_settings
from densedpo.errors import ConfigError, ModelError, ProjectError
from densedpo.evaluation.loading import load_variant
from densedpo.evaluation.prompts import make_prompts
from densedpo.evaluation.run import evaluate
from densedpo.evaluation.scorers import FrameScorer, ScoreInfo
from densedpo.evaluation.variants import Variant
from densedpo.models.base import VideoModel
from densedpo.store.files import read_json, sha256_file
from densedpo.store.project import Project
from densedpo.store.tables import read_table

PROMPTS = make_prompts(["a red circle drifting", "a blue square spinning"])


class Brightness:
    """Mean brightness; knows nothing about green things."""

    name = "brightness"
    version = 1
    infos: ClassVar[dict[str, ScoreInfo]] = {"mean": ScoreInfo("brightness", "", "neither", "Mean of all bytes.")}

    def check(self, prompt: str) -> None:
        if "green" in prompt:
            raise ConfigError(f"{prompt!r}: green cannot be scored")

    def score(self, frames: NDArray[np.uint8], fps: float, prompt: str) -> dict[str, float]:
        assert frames.shape == (33, 32, 32, 3) and fps == 8.0 and prompt
        return {"mean": float(frames.mean())}


def settings_for(model: Path, **sample: object) -> Settings:
    return parse_settings({"model": str(model), "device": "cpu", "sample": {"steps": 2, "seeds": 2} | sample})


def run(project: Project, model: Path, *runs: str, **sample: object) -> dict[str, Any]:
    return evaluate(project, settings_for(model, **sample), list(runs), PROMPTS, Brightness(), "e")


def videos(project: Project, model: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.evaluation("e") / "videos" / model).glob("*.mp4")}


def test_end_to_end(tuned: Project, tiny_model_folder: Path) -> None:
    found = run(tuned, tiny_model_folder, "tuned")
    folder = tuned.evaluation("e")
    assert read_json(folder / "summary.json") == found
    rows = read_table(folder / "scores.parquet")
    assert [(row["model"], row["prompt_id"], row["seed"]) for row in rows] == [
        (model, prompt.prompt_id, seed) for model in ("base", "tuned") for prompt in PROMPTS for seed in (0, 1)
    ]
    assert all((folder / row["video"]).is_file() for row in rows)
    means = {model: np.mean([row["mean"] for row in rows if row["model"] == model]) for model in ("base", "tuned")}
    assert found["scores"]["tuned"]["mean"]["mean"] == pytest.approx(means["tuned"])
    assert found["differences"]["tuned"]["mean"]["mean"] == pytest.approx(means["tuned"] - means["base"])
    assert found["differences"]["tuned"]["mean"]["mean"] != 0
    assert found["ratios"]["tuned"]["mean"]["mean"] == pytest.approx(means["tuned"] / means["base"])
    assert found["differences"]["tuned"]["mean"]["count"] == len(PROMPTS)
    lora = tuned.run("tuned") / "lora" / "pytorch_lora_weights.safetensors"
    assert found["hashes"]["loras"] == {"tuned": sha256_file(lora)}
    assert (found["settings"]["steps"], found["seeds"]) == (2, [0, 1])
    assert [prompt["held_out"] for prompt in found["prompts"]] == [True, True]


def test_repeating_gives_the_same_and_repeated_runs_count_once(tuned: Project, tiny_model_folder: Path) -> None:
    first = run(tuned, tiny_model_folder, "tuned", "other")
    again = run(tuned, tiny_model_folder, "tuned", "other", "tuned")
    assert again == first
    assert [model["name"] for model in again["models"]] == ["base", "tuned", "other"]
    assert len(read_table(tuned.evaluation("e") / "scores.parquet")) == 12


def test_repeated_prompts_count_once(tuned: Project, tiny_model_folder: Path) -> None:
    found = evaluate(tuned, settings_for(tiny_model_folder), [], [*PROMPTS, *PROMPTS], Brightness(), "e")
    assert [prompt["prompt"] for prompt in found["prompts"]] == [prompt.text for prompt in PROMPTS]
    assert len(read_table(tuned.evaluation("e") / "scores.parquet")) == 4


def test_a_retrained_lora_is_sampled_anew_and_the_base_is_kept(tuned: Project, tiny_model_folder: Path) -> None:
    first = run(tuned, tiny_model_folder, "tuned")
    before = {name: videos(tuned, name) for name in ("base", "tuned")}
    shutil.rmtree(tuned.run("tuned"))
    shutil.copytree(tuned.run("other"), tuned.run("tuned"))
    again = run(tuned, tiny_model_folder, "tuned")
    assert videos(tuned, "base") == before["base"]
    after = videos(tuned, "tuned")
    assert after.keys() == before["tuned"].keys()
    assert all(after[name] != before["tuned"][name] for name in after)
    assert again["scores"]["base"] == first["scores"]["base"]
    assert again["scores"]["tuned"] != first["scores"]["tuned"]


def test_other_settings_are_scored_on_new_videos(tuned: Project, tiny_model_folder: Path) -> None:
    first = run(tuned, tiny_model_folder, "tuned")
    again = run(tuned, tiny_model_folder, "tuned", steps=3)
    assert again["settings"]["steps"] == 3
    assert all(again["scores"][model] != first["scores"][model] for model in ("base", "tuned"))


def test_a_damaged_sample_does_not_stop_the_evaluation(tuned: Project, tiny_model_folder: Path) -> None:
    first = run(tuned, tiny_model_folder, "tuned")
    for row in read_table(tuned.evaluation("e") / "scores.parquet")[3:5]:
        path = tuned.evaluation("e") / row["video"]
        path.write_bytes(path.read_bytes()[:300])
    assert run(tuned, tiny_model_folder, "tuned") == first


def test_a_lora_of_another_base_is_refused(tuned: Project, tiny_model_folder: Path, other_base: Path) -> None:
    first = run(tuned, tiny_model_folder, "tuned")
    before = videos(tuned, "base")
    with pytest.raises(ModelError, match="trained on base"):
        run(tuned, other_base, "tuned")
    # before anything is sampled, so what was there is whole
    assert read_json(tuned.evaluation("e") / "summary.json") == first
    assert videos(tuned, "base") == before
    assert len(list(tuned.samples.iterdir())) == 2


def test_numbers_never_stand_beside_other_videos(tuned: Project, tiny_model_folder: Path) -> None:
    """A command that is broken off leaves the old evaluation whole, or no summary."""

    class Broken(Brightness):
        version = 2

        def score(self, frames: NDArray[np.uint8], fps: float, prompt: str) -> dict[str, float]:
            raise KeyboardInterrupt

    first = run(tuned, tiny_model_folder, steps=1, seeds=1)
    summary = tuned.evaluation("e") / "summary.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(tuned, settings_for(tiny_model_folder, steps=1, seeds=1), [], PROMPTS, Broken(), "e")
    assert read_json(summary) == first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densedpo.evaluation.videos.write_table", Broken.score)
        with pytest.raises(TypeError):
            run(tuned, tiny_model_folder, steps=1, seeds=2)
    assert not summary.exists()
    assert run(tuned, tiny_model_folder, steps=1, seeds=1) == first


def test_no_model_is_loaded_where_all_samples_are_there(
    tuned: Project, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def counted(variant: Variant, settings: Settings) -> VideoModel:
        loaded.append(variant.name)
        return load_variant(variant, settings)

    monkeypatch.setattr("densedpo.evaluation.videos.load_variant", counted)
    first = run(tuned, tiny_model_folder, "tuned", steps=1, seeds=1)
    assert loaded == ["base", "tuned"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densedpo.models.load.load_model", None)  # nor by any other way
        assert run(tuned, tiny_model_folder, "tuned", steps=1, seeds=1) == first
    (next(tuned.samples.glob(f"{first['models'][1]['samples']}/*.mp4"))).unlink()
    assert run(tuned, tiny_model_folder, "tuned", steps=1, seeds=1) == first
    assert loaded == ["base", "tuned", "tuned"]  # one sample of the run was missing, none of the base


def test_prompts_that_pairs_have_are_not_held_out(
    tuned: Project, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caption = read_table(tuned.pairs_table)[0]["caption"]
    prompts = make_prompts(["a cross orbiting a lamp", f"{caption.upper()}."])
    found = evaluate(tuned, settings_for(tiny_model_folder, steps=1, seeds=1), [], prompts, Brightness(), "e")
    assert [prompt["held_out"] for prompt in found["prompts"]] == [True, False]
    assert found["prompt_set"]["held_out"] == 1
    assert "1 of 2 prompts are captions of pairs" in capsys.readouterr().err
    # without pairs nothing is known, and nothing is claimed
    tuned.pairs_table.unlink()
    again = evaluate(tuned, settings_for(tiny_model_folder, steps=1, seeds=1), [], prompts, Brightness(), "e")
    assert again["prompt_set"]["held_out"] == 0


def test_refusals_come_before_any_work(tuned: Project, tiny_model_folder: Path) -> None:
    settings = settings_for(tiny_model_folder)
    prompts = make_prompts(["a red circle drifting", "a green circle drifting"])
    with pytest.raises(ConfigError, match="green cannot be scored"):
        evaluate(tuned, settings, ["tuned"], prompts, Brightness(), "e")
    with pytest.raises(ProjectError, match="train --name missing"):
        evaluate(tuned, settings, ["tuned", "missing"], PROMPTS, Brightness(), "e")
    with pytest.raises(ConfigError, match="no prompts"):
        evaluate(tuned, settings, ["tuned"], [], Brightness(), "e")
    with pytest.raises(ConfigError, match="'base'"):
        evaluate(tuned, settings, ["base"], PROMPTS, Brightness(), "e")
    assert not tuned.evaluation("e").exists()


def test_the_frame_scorer_takes_any_prompt_and_gives_what_it_names(tuned: Project, tiny_model_folder: Path) -> None:
    found = evaluate(tuned, settings_for(tiny_model_folder, seeds=1), [], make_prompts(["物", "x"]), FrameScorer(), "e")
    assert found["scores"]["base"].keys() == FrameScorer.infos.keys() == found["score_info"].keys()
    assert all(np.isfinite(score["mean"]) for score in found["scores"]["base"].values())
