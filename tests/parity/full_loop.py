"""The whole loop with any family: real files and drawn clips, guided pairs, labels, two LoRA steps, a sample."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from densedpo.clips.add import add_clips
from densedpo.clips.decode import read_video
from densedpo.config import Settings, parse_settings
from densedpo.evaluation.prompts import make_prompts
from densedpo.evaluation.sampling import resolve_sampling, sample_videos
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.snapshot import freeze
from densedpo.labels.store import LabelStore
from densedpo.miniworld.world_clips import write_world_clips
from densedpo.models.load import load_model, load_tuned
from densedpo.observe import read_jsonl
from densedpo.pairs.make import make_pairs
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table
from densedpo.training.run import train

REAL_CLIPS = Path(__file__).parents[3] / "shared" / "clips"
SEGMENT_S = 0.25
PAIRS = 2


def run_loop(folder: Path, root: Path) -> Path:
    """Run every stage with the model in ``folder``; check what each leaves, and return the run's folder."""
    project = Project(root / "project")
    model = load_model(str(folder), device="cpu")
    add_drawn_and_real_clips(project, folder, root / "source")
    settings = loop_settings(folder)
    made = make_pairs(project, model, settings, limit=PAIRS)
    assert (made.made, made.failed) == (PAIRS, [])
    rows = read_table(project.pairs_table)
    label(project, rows)
    freeze(project, "simulated", SEGMENT_S)

    summary = train(project, model, settings, "run", None)
    metrics = read_jsonl(project.run("run") / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2]
    assert all(math.isfinite(float(value)) for row in metrics for value in row.values())
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # policy equals reference before the first step
    assert summary.snapshot

    tuned = load_tuned(str(folder), project.run("run"), device="cpu")
    recipe = resolve_sampling(settings.sample, tuned.defaults)
    (sample,) = sample_videos(tuned, make_prompts(["a red circle drifting"]), recipe, root / "samples", "samples")
    d = tuned.defaults
    assert read_video(sample.path).frames.shape == (d.num_frames, d.height, d.width, 3)
    return project.run("run")


def loop_settings(folder: Path) -> Settings:
    """Return settings that are as cheap as can be."""
    return parse_settings(
        {
            "model": str(folder),
            "pairs": {"steps": 3, "batch_size": 2, "eta_low": 0.6, "eta_high": 0.9},
            "train": {"max_steps": 2, "batch_size": 2, "lora_rank": 4, "probe_steps": 0, "eval_share": 0},
            "sample": {"steps": 2, "seeds": 1},
        }
    )


def add_drawn_and_real_clips(project: Project, folder: Path, source: Path) -> None:
    """Bring two drawn clips, and the real files where they are there, into the model's clip shape."""
    model = load_model(str(folder), device="cpu")
    settings = parse_settings({"clips": {"max_windows": 1}}).clips
    write_world_clips(source, 2, seed=0)
    add_clips(project, [source], source / "captions.csv", model.geometry, settings, 1.0)
    drawn = len(read_table(project.clips_table))
    assert drawn == 2
    if REAL_CLIPS.is_dir():
        with (REAL_CLIPS / "captions.csv").open(encoding="utf-8") as file:
            known = [row["path"] for row in csv.DictReader(file)]
        add_clips(project, [REAL_CLIPS], REAL_CLIPS / "captions.csv", model.geometry, settings, 1.0)
        assert len(read_table(project.clips_table)) >= drawn + len(known) - 1  # one lasts a second only
    for row in read_table(project.clips_table):
        frames = read_video(project.clips / row["clip_id"] / "clip.mp4").frames
        assert frames.shape == (row["num_frames"], model.defaults.height, model.defaults.width, 3)
        assert (row["num_frames"] - 1) % model.temporal_stride == 0


def label(project: Project, rows: list[Row]) -> None:
    """Prefer side a in even segments and b in odd ones."""
    with LabelStore.open(project.label_store) as store:
        for row in rows:
            grid = SegmentGrid(row["num_frames"], row["fps"], SEGMENT_S)
            bounds = {segment: grid.bounds_s(segment) for segment in range(grid.num_segments)}
            for segment, (start_s, end_s) in (bounds | {WHOLE_CLIP: (0.0, grid.duration_s)}).items():
                store.append(
                    [
                        AnswerEvent(
                            pair_id=row["pair_id"],
                            segment=segment,
                            answer="b" if segment % 2 and segment != WHOLE_CLIP else "a",
                            outcome="ok",
                            source="simulated",
                            author="test",
                            segment_s=SEGMENT_S,
                            start_s=start_s,
                            end_s=end_s,
                            settings_digest="test",
                        )
                    ]
                )
