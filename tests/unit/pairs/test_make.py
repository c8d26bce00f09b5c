"""Pairs: the plan, what is published, and what happens to clips that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from densedpo.clips.add import CLIPS_SCHEMA
from densedpo.clips.decode import read_video
from densedpo.config import PairSettings, parse_settings
from densedpo.diffusion.flow import guided_start
from densedpo.diffusion.grid import grid_from
from densedpo.errors import ConfigError, ProjectError
from densedpo.keys import noise
from densedpo.models.load import load_model
from densedpo.models.sampling import denoise, to_video
from densedpo.models.wan import WAN_2_1
from densedpo.pairs.clip_latents import ClipLatents
from densedpo.pairs.make import make_pairs
from densedpo.pairs.plan import plan_batches, plan_pairs, resolve_recipe
from densedpo.store.files import sha256_file
from densedpo.store.project import Project
from densedpo.store.tables import read_table, write_table


def test_both_sides_share_eta_and_differ_in_noise(pairs_project: Path) -> None:
    project = Project(pairs_project)
    rows = read_table(project.pairs_table)
    assert len(rows) == 12
    for row in rows:
        assert (row["eta"] == 1.0) == (row["mode"] == "independent")
        if row["mode"] == "guided":
            assert 0.65 <= row["eta"] <= 0.80
        tensors = load_file(project.pairs / row["pair_id"] / "latents.safetensors")
        assert set(tensors) == {"a", "b", "clip"}
        assert not torch.equal(tensors["a"], tensors["b"])
    assert len({row["eta"] for row in rows if row["mode"] == "guided"}) > 1


def test_a_pair_can_be_rebuilt_from_its_row(pairs_project: Path, tiny_model_folder: Path) -> None:
    project, model = Project(pairs_project), load_model(str(tiny_model_folder), device="cpu")
    row = next(row for row in read_table(project.pairs_table) if row["mode"] == "guided")
    clip = read_video(project.clips / row["clip_id"] / "clip.mp4").frames
    clean = model.encode_video(to_video(clip)[None])
    levels = grid_from(model.grid(row["steps"], row["shift"]), row["eta"])
    assert levels[0] == row["eta"] and len(levels) - 1 == row["steps_run"]
    stored = load_file(project.pairs / row["pair_id"] / "latents.safetensors")
    torch.testing.assert_close(stored["clip"], clean[0], rtol=1e-4, atol=1e-5)
    for side in ("a", "b"):
        drawn = noise(tuple(clean.shape[1:]), row["seed"], "pair-noise", row["pair_id"], side)
        start = guided_start(clean, drawn[None], row["eta"])
        made = denoise(model, start, levels, model.encode_text([row["caption"]]), model.encode_text([""]), row["cfg"])
        torch.testing.assert_close(stored[side], made[0], rtol=1e-3, atol=1e-4)


def test_videos_have_the_frames_and_digests_of_their_row(pairs_project: Path) -> None:
    project = Project(pairs_project)
    for row in read_table(project.pairs_table):
        for side in ("a", "b"):
            path = project.pairs / row["pair_id"] / f"{side}.mp4"
            video = read_video(path)
            assert video.frames.shape == (row["num_frames"], row["height"], row["width"], 3)
            assert video.fps == row["fps"]
            assert sha256_file(path) == row[f"sha256_{side}"]


def test_sides_are_never_exchanged_between_latents_and_videos(pairs_project: Path, tiny_model_folder: Path) -> None:
    project, model = Project(pairs_project), load_model(str(tiny_model_folder), device="cpu")
    row = read_table(project.pairs_table)[0]
    latents = load_file(project.pairs / row["pair_id"] / "latents.safetensors")
    decoded = {side: model.decode(latents[side][None])[0].permute(1, 2, 3, 0).numpy() for side in ("a", "b")}
    for side, other in (("a", "b"), ("b", "a")):
        seen = read_video(project.pairs / row["pair_id"] / f"{side}.mp4").frames / 127.5 - 1
        assert np.abs(seen - decoded[side]).mean() < np.abs(seen - decoded[other]).mean()


def test_repeating_the_command_makes_nothing_again(pairs_project: Path, tiny_model_folder: Path) -> None:
    project, model = Project(pairs_project), load_model(str(tiny_model_folder), device="cpu")
    before = {p: p.stat().st_mtime_ns for p in project.pairs.glob("*/*")}
    again = make_pairs(project, model, parse_settings({"pairs": {"steps": 2, "batch_size": 3}}))
    assert (again.made, again.already_there, again.planned) == (0, 6, 6)
    assert {p: p.stat().st_mtime_ns for p in project.pairs.glob("*/*")} == before


def test_a_damaged_clip_is_named_and_the_rest_goes_on(pairs_project: Path, tiny_model_folder: Path) -> None:
    project, model = Project(pairs_project), load_model(str(tiny_model_folder), device="cpu")
    broken = read_table(project.clips_table)[0]["clip_id"]
    (project.clips / broken / "clip.mp4").write_bytes(b"not a video")
    settings = parse_settings({"seed": 1, "pairs": {"steps": 2}})
    summary = make_pairs(project, model, settings)
    assert (summary.planned, summary.made, len(summary.failed)) == (6, 5, 1)
    assert broken in summary.failed[0]["reason"]


def test_limit_counts_pairs(pairs_project: Path, tiny_model_folder: Path) -> None:
    project, model = Project(pairs_project), load_model(str(tiny_model_folder), device="cpu")
    summary = make_pairs(project, model, parse_settings({"seed": 2, "pairs": {"steps": 2}}), limit=2)
    assert (summary.planned, summary.made, summary.pairs_in_project) == (2, 2, 14)


def test_a_project_without_clips_says_what_to_do(tmp_path: Path, tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder), device="cpu")
    with pytest.raises(ProjectError, match="clips add"):
        make_pairs(Project(tmp_path), model, parse_settings({}))


def test_a_corrected_caption_makes_a_new_pair_and_drops_the_old(pairs_project: Path, tiny_model_folder: Path) -> None:
    project, model = Project(pairs_project), load_model(str(tiny_model_folder), device="cpu")
    rows = read_table(project.clips_table)
    rows[0]["caption"] = "a corrected caption"
    write_table(project.clips_table, rows, CLIPS_SCHEMA)
    settings = parse_settings({"pairs": {"steps": 2, "batch_size": 3}})
    assert make_pairs(project, model, settings).made == 1
    captions = [row["caption"] for row in read_table(project.pairs_table) if row["clip_id"] == rows[0]["clip_id"]]
    assert captions == ["a corrected caption"]


def test_plan_is_pure_and_limited() -> None:
    clips = [{"clip_id": f"c{i}", "caption": "x", "sha256": "s", "num_frames": 33} for i in (3, 1, 2)]
    recipe = resolve_recipe(PairSettings(eta_low=0.5, eta_high=0.6), WAN_2_1, 0)
    plan = plan_pairs(clips, recipe, "model", pairs_per_clip=2, limit=None)
    assert [pair.clip_id for pair in plan] == ["c1", "c2", "c3"] * 2
    assert plan == plan_pairs(clips[::-1], recipe, "model", pairs_per_clip=2, limit=None)
    assert plan[:4] == plan_pairs(clips, recipe, "model", pairs_per_clip=2, limit=4)
    assert len({pair.pair_id for pair in plan}) == 6
    assert all(0.5 <= pair.eta <= 0.6 for pair in plan)
    other = plan_pairs(clips, recipe, "another model", pairs_per_clip=2, limit=None)
    assert not {pair.pair_id for pair in plan} & {pair.pair_id for pair in other}


def test_batches_hold_pairs_that_run_the_same_steps() -> None:
    clips = [{"clip_id": f"c{i}", "caption": "x", "sha256": "s", "num_frames": 33 if i % 2 else 17} for i in range(9)]
    recipe = resolve_recipe(PairSettings(), WAN_2_1, 0)
    plan = plan_pairs(clips, recipe, "model", pairs_per_clip=1, limit=None)
    starts = [1, 2, 1, 2, 1, 2, 1, 2, 1]
    batches = plan_batches(plan, starts, 2)
    steps = {pair.pair_id: start for pair, start in zip(plan, starts, strict=True)}
    assert sorted(p.pair_id for batch in batches for p in batch) == sorted(steps)
    for batch in batches:
        assert len(batch) <= 2
        assert len({(pair.num_frames, steps[pair.pair_id]) for pair in batch}) == 1


def test_one_end_of_the_range_may_not_cross_the_familys_other() -> None:
    with pytest.raises(ConfigError, match="eta_low"):
        resolve_recipe(PairSettings(eta_low=0.95), WAN_2_1, 0)


def test_a_setting_that_came_later_renames_no_pair_at_its_default() -> None:
    clips = [{"clip_id": "c", "caption": "x", "sha256": "s", "num_frames": 33}]

    def id_with(**changes: object) -> str:
        recipe = resolve_recipe(PairSettings.model_validate(changes), WAN_2_1, 0)
        return plan_pairs(clips, recipe, "model", pairs_per_clip=1, limit=None)[0].pair_id

    assert id_with() == "811c79e0204c14a8"  # as version 0.1.0 named it
    names = {id_with(), id_with(step_cache=0.1), id_with(vae_tiling=True), id_with(cfg=4.0)}
    assert len(names) == 4


def test_latents_made_in_tiles_are_not_taken_for_whole_ones(pairs_project: Path, tiny_model_folder: Path) -> None:
    project, model = Project(pairs_project), load_model(str(tiny_model_folder), device="cpu")
    clip = read_table(project.clips_table)[0]
    folder = project.cache / "clip-latents"
    assert ClipLatents(model, project.clips, folder).look(clip) is None  # encoded when the project was made
    model.vae.enable_tiling()
    assert isinstance(ClipLatents(model, project.clips, folder).look(clip), torch.Tensor)
