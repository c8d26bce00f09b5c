"""Samples on disk: what is kept, what is made again, and the noise that models share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from densedpo.config import parse_settings
from densedpo.evaluation.prompts import make_prompts
from densedpo.evaluation.sampling import RECIPE_FILE, SamplingRecipe, resolve_sampling, sample_videos
from densedpo.models import sampling
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model, load_tuned
from densedpo.store.project import Project

PROMPTS = make_prompts(["a red circle drifting", "a blue square spinning", "a green cross drifting"])
RECIPE = SamplingRecipe(steps=2, cfg=2.0, shift=3.0, seeds=2, batch_size=4)

Files = dict[str, tuple[bytes, int]]


@pytest.fixture(scope="session")
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


def lora_of(project: Project, run: str) -> Path:
    return project.run(run) / "lora"


def sample(model: VideoModel, folder: Path, recipe: SamplingRecipe = RECIPE) -> Files:
    """Sample and return the content and the inode of every video by name."""
    videos = sample_videos(model, PROMPTS, recipe, folder, "test")
    assert sorted(video.path for video in videos) == sorted(folder.glob("*.mp4"))
    return {video.path.name: (video.path.read_bytes(), video.path.stat().st_ino) for video in videos}


def bytes_of(files: Files) -> dict[str, bytes]:
    return {name: content for name, (content, _) in files.items()}


def test_missing_files_come_back_bit_for_bit_and_others_are_not_touched(model: VideoModel, tmp_path: Path) -> None:
    first = sample(model, tmp_path)
    assert len(first) == 6
    gone = f"{PROMPTS[0].prompt_id}-1.mp4"
    (tmp_path / gone).unlink()
    again = sample(model, tmp_path)
    assert bytes_of(again) == bytes_of(first)
    assert {name: again[name] for name in again if name != gone} == {n: first[n] for n in first if n != gone}


def test_nothing_is_sampled_where_all_is_there(
    model: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sample(model, tmp_path)
    monkeypatch.setattr("densedpo.evaluation.sampling.sample_latents", None)
    assert sample(model, tmp_path, replace(RECIPE, batch_size=3)) == first  # the batch size is no part of the recipe


def test_more_seeds_keep_what_is_there(model: VideoModel, tmp_path: Path) -> None:
    few = sample(model, tmp_path, replace(RECIPE, seeds=1))
    more = sample(model, tmp_path)
    assert len(more) == 6 and {name: more[name] for name in few} == few


def test_repeated_prompts_are_sampled_once(model: VideoModel, tmp_path: Path) -> None:
    videos = sample_videos(model, [*PROMPTS[:1], *PROMPTS[:1]], RECIPE, tmp_path, "test")
    assert [video.seed for video in videos] == [0, 1]


@pytest.mark.parametrize("change", [{"steps": 3}, {"cfg": 1.0}, {"shift": 1.0}])
def test_other_settings_make_the_videos_again(
    model: VideoModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    first = sample(model, tmp_path / "again")
    capsys.readouterr()
    changed = replace(RECIPE, **change)
    again = sample(model, tmp_path / "again", changed)
    said = [line for line in capsys.readouterr().err.splitlines() if "making them again" in line]
    assert len(said) == 1 and "6 videos" in said[0]
    assert bytes_of(again) == bytes_of(sample(model, tmp_path / "fresh", changed))
    assert all(again[name][0] != first[name][0] for name in first)


def test_stale_videos_of_other_prompts_do_not_survive(model: VideoModel, tmp_path: Path) -> None:
    sample(model, tmp_path)
    sample_videos(model, PROMPTS[:1], replace(RECIPE, steps=3), tmp_path, "test")
    assert len(list(tmp_path.glob("*.mp4"))) == 2


def test_other_weights_make_the_videos_again(
    model: VideoModel, tuned: Project, tiny_model_folder: Path, other_base: Path, tmp_path: Path
) -> None:
    models = [
        model,
        load_tuned(str(tiny_model_folder), lora_of(tuned, "tuned"), device="cpu"),
        load_tuned(str(tiny_model_folder), lora_of(tuned, "other"), device="cpu"),
        load_model(str(other_base), device="cpu"),
    ]
    records = set()
    for number, chosen in enumerate(models):
        shared, fresh = sample(chosen, tmp_path / "shared"), sample(chosen, tmp_path / f"fresh-{number}")
        assert bytes_of(shared) == bytes_of(fresh), number
        records.add((tmp_path / "shared" / RECIPE_FILE).read_bytes())
    assert len(records) == len(models)


def test_the_same_lora_loaded_again_keeps_its_videos(tuned: Project, tiny_model_folder: Path, tmp_path: Path) -> None:
    lora = lora_of(tuned, "tuned")
    first = sample(load_tuned(str(tiny_model_folder), lora, device="cpu"), tmp_path)
    assert sample(load_tuned(str(tiny_model_folder), lora, device="cpu"), tmp_path) == first


def test_videos_without_a_record_are_not_trusted_and_strangers_files_stay(model: VideoModel, tmp_path: Path) -> None:
    first = sample(model, tmp_path / "own")
    (tmp_path / "own" / RECIPE_FILE).unlink()
    strangers = [tmp_path / "own" / "holiday.mp4.txt", tmp_path / "own" / "recipe.json"]
    for path in strangers:
        path.write_text("mine")
    again = sample(model, tmp_path / "own")
    assert bytes_of(again) == bytes_of(first)
    assert all(again[name][1] != first[name][1] for name in first)
    assert [path.read_text() for path in strangers] == ["mine", "mine"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_is_made_again(
    model: VideoModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    first = sample(model, tmp_path)
    path = tmp_path / f"{PROMPTS[1].prompt_id}-0.mp4"
    path.write_bytes({"cut": first[path.name][0][:-500], "empty": b"", "text": b"no video at all"}[damage])
    capsys.readouterr()
    assert bytes_of(sample(model, tmp_path)) == bytes_of(first)
    assert f"{path.name}" in capsys.readouterr().err


def test_base_and_tuned_start_from_the_same_noise(
    model: VideoModel, tuned: Project, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Tensor] = []
    true_denoise = sampling.denoise

    def recorded(model: VideoModel, start: Tensor, *rest: Any) -> Tensor:
        starts.append(start)
        return true_denoise(model, start, *rest)

    monkeypatch.setattr(sampling, "denoise", recorded)
    base = sample(model, tmp_path / "base", replace(RECIPE, batch_size=6))
    lora = load_tuned(str(tiny_model_folder), lora_of(tuned, "tuned"), device="cpu")
    other = sample(lora, tmp_path / "tuned", replace(RECIPE, batch_size=2))
    assert [len(start) for start in starts] == [6, 2, 2, 2]
    assert torch.equal(starts[0], torch.cat(starts[1:]))
    assert len({start.numpy().tobytes() for start in starts[0]}) == 6  # every prompt and seed has its own
    assert all(base[name][0] != other[name][0] for name in base)


def test_what_the_settings_leave_open_is_the_familys() -> None:
    from densedpo.models.wan import WAN_2_1

    left = resolve_sampling(parse_settings({}).sample, WAN_2_1)
    assert (left.steps, left.cfg, left.shift) == (50, 5.0, 3.0)
    given = resolve_sampling(parse_settings({"sample": {"steps": 7, "cfg": 0, "shift": 2}}).sample, WAN_2_1)
    assert (given.steps, given.cfg, given.shift) == (7, 0.0, 2.0)  # a guidance of 0 is a choice
